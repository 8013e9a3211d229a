//go:build e2e && linux

package e2e

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// host is what all tests of a run share.
var host struct {
	repository string // the module's root
	suite      string // of the engine, "bookworm", "sid"
	path       string // PATH with the suite's programs first
	compose    string // the suite's Compose v2 client plugin
	plugin     string // the docker-snaprestore under test
	dir        string // of this run
	artifacts  string // where a failed test leaves its logs
}

func TestMain(m *testing.M) {
	if os.Getenv(asCaller) != "" {
		os.Exit(beCaller(os.Args[1], os.Args[2]))
	}
	flag.Parse()
	status, err := run(m)
	if err != nil {
		fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("run end-to-end tests: they start engines, which needs root")
	}
	base := environment("SNAPRESTORE_E2E_DIR", "/var/tmp/snaprestore-e2e")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return 0, err
	}
	if err := sweep(base); err != nil {
		return 0, fmt.Errorf("clear what an earlier run left: %w", err)
	}
	if flag.Lookup("test.run").Value.String() == "^$" {
		return m.Run(), nil
	}
	if err := prepare(); err != nil {
		return 0, err
	}
	unlock, err := claim(base)
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, clear(host.dir))
		unlock()
	}()
	return m.Run(), nil
}

// prepare finds the engine and builds what is tested.
func prepare() error {
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	host.repository = filepath.Dir(wd)
	host.suite = environment("SNAPRESTORE_E2E_SUITE", "bookworm")
	host.artifacts = environment("SNAPRESTORE_E2E_ARTIFACTS", filepath.Join(host.repository, "dist/test/artifacts"))
	if _, err := script("engines", "fetch", host.suite); err != nil {
		return err
	}
	prefix, err := script("engines", "path", host.suite)
	if err != nil {
		return err
	}
	host.path = prefix + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if host.compose, err = script("engines", "compose", host.suite); err != nil {
		return err
	}
	if _, err := script("images", "build"); err != nil {
		return err
	}
	versions, err := script("engines", "versions", host.suite)
	if err != nil {
		return err
	}
	fmt.Printf("suite %s:\n%s\n", host.suite, versions)
	if host.plugin = os.Getenv("SNAPRESTORE_E2E_PLUGIN"); host.plugin == "" {
		if _, err := script("build"); err != nil {
			return err
		}
		host.plugin = filepath.Join(host.repository, "dist/docker-snaprestore")
	}
	return nil
}

// claim makes this run's directory and locks it for as long as the process
// lives.
func claim(base string) (unlock func(), err error) {
	if host.dir, err = os.MkdirTemp(base, ""); err != nil {
		return nil, err
	}
	f, err := os.Create(host.dir + ".lock")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	// In memory, so that what else the machine writes delays nobody's sync.
	if err := unix.Mount("snaprestore-e2e", host.dir, "tmpfs", 0, "mode=711"); err != nil {
		return nil, fmt.Errorf("mount the run's directory: %w", err)
	}
	return func() {
		os.Remove(f.Name())
		f.Close()
	}, nil
}

// script runs one of the repository's scripts and gives what it printed.
func script(name string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(host.repository, "scripts", name), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run scripts/%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func environment(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
