package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"gotest.tools/v3/assert"
)

const binary = "docker-snaprestore"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){binary: main})
}

// The whole binary, alone and below a docker CLI, where no engine is needed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			plugins := filepath.Join(env.WorkDir, "config", "cli-plugins")
			if err := os.MkdirAll(plugins, 0o755); err != nil {
				return err
			}
			path, err := find(env.Getenv("PATH"))
			if err != nil {
				return err
			}
			env.Setenv("DOCKER_CONFIG", filepath.Dir(plugins))
			env.Setenv("DOCKER_HOST", "unix://"+filepath.Join(env.WorkDir, "no.sock"))
			return os.Symlink(path, filepath.Join(plugins, binary))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// find is where the test's own binary is.
func find(path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if full := filepath.Join(dir, binary); executable(full) {
			return full, nil
		}
	}
	return "", exec.ErrNotFound
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&0o111 != 0
}

// exits runs a command and compares its exit status: exits 2 program args...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// A bare call is read as the docker CLI would have passed it.
func TestStandalone(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{nil, []string{"snaprestore"}},
		{[]string{"ls", "-q"}, []string{"snaprestore", "ls", "-q"}},
		{[]string{"--help"}, []string{"snaprestore", "--help"}},
		{[]string{"-H", "unix:///x", "ls"}, []string{"-H", "unix:///x", "snaprestore", "ls"}},
		{[]string{"--context=far", "--debug", "ls", "-p", "x"}, []string{"--context=far", "--debug", "snaprestore", "ls", "-p", "x"}},
		{[]string{"snaprestore", "ls"}, []string{"snaprestore", "ls"}},
		{[]string{"--context", "far", "snaprestore", "ls"}, []string{"--context", "far", "snaprestore", "ls"}},
		{[]string{"docker-cli-plugin-metadata"}, []string{"docker-cli-plugin-metadata"}},
		{[]string{"__complete", "ls", ""}, []string{"__complete", "snaprestore", "ls", ""}},
		{[]string{"__complete", "snaprestore", "ls", ""}, []string{"__complete", "snaprestore", "ls", ""}},
		{[]string{"--no-such-option"}, []string{"snaprestore", "--no-such-option"}},
	} {
		given := slices.Clone(c.args)
		assert.DeepEqual(t, standalone(c.args), c.want)
		assert.DeepEqual(t, c.args, given)
	}
}
