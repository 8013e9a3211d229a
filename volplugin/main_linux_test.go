package volplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// Environment variables that make the test binary something else.
const (
	inNamespace = "SNAPRESTORE_TEST_NAMESPACE" // set: the mount namespace is its own
	asProgram   = "SNAPRESTORE_TEST_PROGRAM"   // arguments: it is the driver
	asContainer = "SNAPRESTORE_TEST_CONTAINER" // path: it holds a mount of it, in a namespace of its own
	asDuty      = "SNAPRESTORE_TEST_DUTY"      // arguments: it does one of the driver's duties
	asEngine    = "SNAPRESTORE_TEST_ENGINE"    // path: it has the mounts there in a namespace of its own, and loses them when told
)

// TestMain runs the tests in a mount namespace of their own, so that nothing
// they mount is left or seen on the machine.
func TestMain(m *testing.M) {
	if args := os.Getenv(asProgram); args != "" {
		os.Exit(beProgram(strings.Fields(args)))
	}
	if path := os.Getenv(asContainer); path != "" {
		os.Exit(beContainer(path))
	}
	if args := os.Getenv(asDuty); args != "" {
		os.Exit(beDuty(strings.Fields(args)))
	}
	if path := os.Getenv(asEngine); path != "" {
		os.Exit(beEngine(path))
	}
	if os.Getenv(inNamespace) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The namespace is made private by the runtime (Unshareflags).
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "test in a mount namespace:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// beProgram is the driver as an engine runs it: its first argument is what the
// engine binds, with all that is mounted there, onto the second.
func beProgram(args []string) int {
	if err := unix.Mount(args[0], args[1], "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		fmt.Println("bind mount paths:", err)
		return 1
	}
	return Main(args[2:], os.Stderr)
}

// beContainer binds path in a namespace that only receives mounts, as a
// container runtime does, says so, and waits to be killed.
func beContainer(path string) int {
	target := filepath.Join(os.TempDir(), fmt.Sprint("container-", os.Getpid()))
	err := os.Mkdir(target, 0o755)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err == nil {
		err = unix.Mount(path, target, "", unix.MS_BIND, "")
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("mounted", target)
	for { // not select{}, which Go takes for a deadlock
		_ = unix.Pause()
	}
}

// container is a process with a mount of its own of a path.
type container struct {
	cmd    *exec.Cmd
	target string
}

func startContainer(t *testing.T, path string) *container {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asContainer+"="+path, "TMPDIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: 0, Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	c := &container{cmd: cmd}
	t.Cleanup(c.kill)
	var word string
	_, err = fmt.Fscan(out, &word, &c.target)
	assert.NilError(t, err)
	assert.Equal(t, word, "mounted")
	return c
}

// read gives the content of a file as the container sees it.
func (c *container) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(c.cmd.Process.Pid), "root", c.target, name))
	assert.NilError(t, err)
	return string(data)
}

func (c *container) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// stage is a state root and the folder of mount paths, as an engine makes it.
type stage struct {
	config Config
}

func newStage(t *testing.T) *stage {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	s := stageIn(base)
	for _, dir := range []string{s.config.Root, s.config.Points} {
		assert.NilError(t, os.MkdirAll(dir, 0o700))
	}
	assert.NilError(t, unix.Mount(s.config.Points, s.config.Points, "", unix.MS_BIND, ""))
	assert.NilError(t, unix.Mount("", s.config.Points, "", unix.MS_SHARED, ""))
	t.Cleanup(func() {
		unmountBelow(t, base)
	})
	return s
}

func stageIn(base string) *stage {
	return &stage{config: Config{
		Root: filepath.Join(base, "snaprestore"), Points: filepath.Join(base, volume.EngineFolder),
		Work: filepath.Join(base, "work"), Proc: "/proc", Folder: filepath.Join(base, volume.EngineFolder), Wait: 10 * time.Second,
	}}
}

func unmountBelow(t *testing.T, base string) {
	t.Helper()
	for {
		data, err := os.ReadFile("/proc/self/mountinfo")
		assert.NilError(t, err)
		top := ""
		for _, line := range strings.Split(string(data), "\n") {
			if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], base+"/") && len(f[4]) >= len(top) {
				top = f[4]
			}
		}
		if top == "" {
			return
		}
		assert.NilError(t, unix.Unmount(top, unix.MNT_DETACH))
	}
}

func (s *stage) open(t *testing.T) *Driver {
	t.Helper()
	d, err := Open(s.config)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, d.Close()) })
	return d
}

// makeVolume creates a volume whose tree says text.
func makeVolume(t *testing.T, d *Driver, name, text string, opts map[string]string) volume.Volume {
	t.Helper()
	assert.NilError(t, d.create(name, opts))
	v, err := d.find(name)
	assert.NilError(t, err)
	write(t, filepath.Join(v.Dir, volume.Live), text)
	return v
}

func write(t *testing.T, dir, text string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o600))
}

func text(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil {
		return ""
	}
	return string(data)
}

func me() process { return look(os.Getpid()) }

func mustMount(t *testing.T, d *Driver, name, id string) string {
	t.Helper()
	path, err := d.mount(context.Background(), name, id, me())
	assert.NilError(t, err)
	return path
}

func isBound(t *testing.T, d *Driver, name string) bool {
	t.Helper()
	path, err := d.mountpoint(name)
	assert.NilError(t, err)
	return path != ""
}

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const opID = "0123456789ab"

// swapOf is a volume as a restore records it, with its new tree staged.
func swapOf(t *testing.T, v volume.Volume, text string) journal.Volume {
	t.Helper()
	j := journal.Volume{Name: v.Name, Dir: v.Dir, Live: volume.Live,
		Stage: ".snaprestore-" + opID + ".new", Fence: ".snaprestore-" + opID + ".fence", Old: ".snaprestore-" + opID + ".old"}
	assert.NilError(t, os.Mkdir(filepath.Join(v.Dir, j.Stage), 0o755))
	write(t, filepath.Join(v.Dir, j.Stage), text)
	return j
}

// raise fences a volume as an operation does.
func raise(t *testing.T, v journal.Volume) {
	t.Helper()
	fence := filepath.Join(v.Dir, v.Fence)
	assert.NilError(t, os.Symlink("dangling", fence))
	assert.NilError(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(v.Dir, v.Live), unix.AT_FDCWD, fence, unix.RENAME_EXCHANGE))
}

// begin opens an operation in a state. The caller releases the log.
func begin(t *testing.T, d *Driver, state journal.State, volumes ...journal.Volume) *journal.Log {
	t.Helper()
	op := &journal.Operation{ID: opID, Kind: journal.Restore, State: journal.Staging, Created: time.Now().UTC(), Volumes: volumes}
	l, err := d.journal.Begin(context.Background(), op)
	assert.NilError(t, err)
	t.Cleanup(l.Release)
	if state == journal.Staging {
		return l
	}
	assert.NilError(t, l.Write(journal.Stopping))
	if state == journal.Stopping {
		return l
	}
	assert.NilError(t, l.Prepare())
	if state == journal.Prepared {
		return l
	}
	assert.NilError(t, l.Decide(state))
	return l
}

// served gives a client of the driver behind its protocol.
func served(t *testing.T, d *Driver) (*http.Client, *Server) {
	t.Helper()
	s := NewServer()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	assert.NilError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		assert.NilError(t, <-ended)
	})
	if d != nil {
		s.Ready(d)
	}
	return unixClient(path), s
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) },
	}}
}
