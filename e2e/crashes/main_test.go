//go:build e2e && linux

package crashes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable tells a process of the test binary what it is.
const roleVariable = "SNAPRESTORE_CRASHES_ROLE"

// roles are what the test binary is beside a test: each ends its process.
var roles map[string]func() error

func init() {
	roles = map[string]func() error{"disk": serveDisk, "victim": beVictim}
}

// runs is where each run has its directory.
const runs = "/var/tmp/snaprestore-crashes"

// scratch is the run's directory, in memory.
var scratch string

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if act, ok := roles[role]; ok {
		if err := act(); err != nil {
			fmt.Fprintf(os.Stderr, "crashes: %s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	status, err := run(m, role == "inner")
	if err != nil {
		fmt.Fprintf(os.Stderr, "crashes: %v\n", err)
		status = 1
	}
	os.Exit(status)
}

// run runs the tests in a mount namespace of their own.
func run(m *testing.M, inner bool) (int, error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil // each test says why it is skipped
	}
	if inner {
		scratch = filepath.Join(runs, "run")
		if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, "size=75%,mode=700"); err != nil {
			return 0, fmt.Errorf("mount a tmpfs at %s: %w", scratch, err)
		}
		return m.Run(), nil
	}
	if err := os.MkdirAll(filepath.Join(runs, "run"), 0o700); err != nil {
		return 0, err
	}
	lock, err := os.OpenFile(filepath.Join(runs, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return 0, fmt.Errorf("lock %s: another run is at work: %w", lock.Name(), err)
	}
	cmd := again("inner", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
	// The signal at the parent's death is that of the thread's death.
	runtime.LockOSThread()
	if err := start(cmd); err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM)
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode(), nil
	case err != nil:
		return 0, fmt.Errorf("run the tests in a mount namespace: %w", err)
	}
	return 0, os.Remove(filepath.Join(runs, "run"))
}

// starter is the thread from which start starts processes: one that ends with
// the test binary. Others may end before, as the threads do on which the copy
// engines work at low priority.
var starter = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for start := range starter {
			start()
		}
	}()
}

// start starts what again made.
func start(cmd *exec.Cmd) error {
	ended := make(chan error)
	starter <- func() { ended <- cmd.Start() }
	return <-ended
}

// again is the test binary in another role. It ends with the thread that
// starts it: see start.
func again(role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, which is no number above 0", name, text)
	}
	return n
}

// needRoot skips what only root can do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts file systems, which needs root")
	}
}
