package conformance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// private marks a test process that has a mount namespace of its own.
const private = "SNAPRESTORE_TEST_PRIVATE_MOUNTS"

// Main is a TestMain for packages whose tests mount: as root it runs them in a
// mount namespace of their own, so that nobody else sees the mounts and none
// outlives the tests.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(private) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), private+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// FileSystem makes a file system of a kind, such as "xfs", in a file, with
// these options of its mkfs, mounts it for the test and returns where.
func FileSystem(t testing.TB, kind string, options ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts, which only root may")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("there is no mkfs.%s", kind)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 512<<20))
	out, err := exec.Command(mkfs, append(options, "-q", image)...).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	at := filepath.Join(dir, "mounted")
	assert.NilError(t, os.Mkdir(at, 0o700))
	out, err = exec.Command("mount", "-o", "loop", image, at).CombinedOutput()
	if err != nil {
		t.Skipf("cannot mount %s: %s", kind, out)
	}
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(at, 0)) })
	return at
}

// mount mounts an empty file system in memory for the test.
func mount(t testing.TB, dir, size string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

// Below gives a Run a directory of its own below dir for each test.
func Below(dir string) func(testing.TB) string {
	return func(t testing.TB) string {
		sub, err := os.MkdirTemp(dir, "test")
		assert.NilError(t, err)
		t.Cleanup(func() { Remove(t, sub) })
		return sub
	}
}

// Remove removes a tree, read-only subvolumes too.
func Remove(t testing.TB, path string) {
	t.Helper()
	dir, err := durable.Open(filepath.Dir(path), nil)
	assert.NilError(t, err)
	defer dir.Close()
	assert.NilError(t, dir.RemoveAll(filepath.Base(path)))
}
