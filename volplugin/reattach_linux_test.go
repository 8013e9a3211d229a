package volplugin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// beEngine loses the mounts at path in its own namespace, a line of input at
// a time: all of them or what is on top.
func beEngine(path string) int {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("done") {
		var err error
		switch in.Text() {
		case loseAll:
			err = detachAll(path)
		case loseTop:
			err = unix.Unmount(path, unix.MNT_DETACH)
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// What an engine takes away, as moby's RecursiveUnmount and Unmount do.
const (
	loseAll = "all"
	loseTop = "top"
)

// engine is a process in whose namespace the mount paths are.
type engine struct {
	process
	path string
	in   io.Writer
	out  *bufio.Scanner
}

func startEngine(t *testing.T, path string) *engine {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asEngine+"="+path)
	// Not unshared: the runtime would make the copy private. It ends with its
	// input, not with the thread that starts it, since threads end here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	e := &engine{path: path, in: in, out: bufio.NewScanner(out)}
	assert.Assert(t, e.out.Scan() && e.out.Text() == "ready", e.out.Text())
	e.process = look(cmd.Process.Pid)
	return e
}

func (e *engine) lose(t *testing.T, what string) {
	t.Helper()
	_, err := fmt.Fprintln(e.in, what)
	assert.NilError(t, err)
	assert.Assert(t, e.out.Scan() && e.out.Text() == "done", e.out.Text())
}

// sees gives what the engine finds in a volume's file, "" for none.
func (e *engine) sees(name string) string {
	return text(filepath.Join("/proc", fmt.Sprint(e.pid), "root", e.path, name))
}

// TestEngineThatLostTheMountPathsGetsThemBack: whenever and whatever of them
// an engine loses, the Mount that comes next is answered with a path that it
// sees, and so is that of the next driver.
func TestEngineThatLostTheMountPathsGetsThemBack(t *testing.T) {
	for _, what := range []string{loseAll, loseTop} {
		for _, when := range []string{"before the driver starts", "between", "under a mount"} {
			t.Run(what+" "+when, func(t *testing.T) {
				s := newStage(t)
				s.config.Folder = s.config.Points
				e := startEngine(t, s.config.Points)
				if when == "before the driver starts" {
					e.lose(t, what)
				}
				d := s.open(t)
				makeVolume(t, d, "db", "data", nil)
				makeVolume(t, d, "web", "pages", nil)
				if when == "under a mount" {
					_, err := d.mount(context.Background(), "web", "first", e.process)
					assert.NilError(t, err)
				}
				if when != "before the driver starts" {
					e.lose(t, what)
				}
				path, err := d.mount(context.Background(), "db", "id", e.process)
				assert.NilError(t, err)
				assert.Equal(t, path, d.points.path("db"))
				assert.Equal(t, e.sees("db"), "data")
				_, err = d.mount(context.Background(), "web", "id", e.process)
				assert.NilError(t, err)
				assert.Equal(t, e.sees("web"), "pages")
				d.unmount("db", "id")
				assert.Equal(t, e.sees("db"), "", "the engine keeps a mount that the driver took away")
				assert.ErrorIs(t, os.WriteFile(filepath.Join("/proc", fmt.Sprint(e.pid), "root", e.path, "db", "f"), nil, 0o600), unix.EROFS)

				// The engine binds what it has at its folder for the next
				// driver, as it does here with the folder itself.
				next := s.open(t)
				_, err = next.mount(context.Background(), "db", "id", e.process)
				assert.NilError(t, err)
				assert.Equal(t, e.sees("db"), "data")
			})
		}
	}
}

// TestLossOfTheMountPathsIsMendedBeforeAMount: also when nobody asks.
func TestLossOfTheMountPathsIsMendedBeforeAMount(t *testing.T) {
	s := newStage(t)
	s.config.Folder = s.config.Points
	e := startEngine(t, s.config.Points)
	d := s.open(t)
	e.lose(t, loseAll)
	assert.NilError(t, watched(d, &contact{process: e.process, since: time.Now()}))
	reaches, err := d.points.reach(e.process)
	assert.NilError(t, err)
	assert.Assert(t, reaches)
}

// TestAttachEntersTheEngineThatAskedOnly: a number that is another process's
// by now, or a folder that is a way out, is refused.
func TestAttachEntersTheEngineThatAskedOnly(t *testing.T) {
	s := newStage(t)
	s.config.Folder = s.config.Points
	e := startEngine(t, s.config.Points)
	d := s.open(t)
	e.lose(t, loseAll)
	gone := process{pid: e.pid, start: "1"}
	assert.ErrorContains(t, d.points.repair(gone), "has ended")
	d.points.folder = filepath.Join(s.config.Points, "missing")
	assert.ErrorIs(t, d.points.repair(e.process), errUnseen)
	d.points.folder = ""
	assert.ErrorIs(t, d.points.repair(e.process), errNoFolder)
	assert.Assert(t, strings.Contains(e.String(), fmt.Sprint(e.pid)))
}

// TestCopyOfAMountIsNoUser: a namespace that was copied while a volume was
// mounted, with private mounts, keeps the mount for ever. No operation waits
// for it.
func TestCopyOfAMountIsNoUser(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "one")
	far := exec.Command("sleep", "1000")
	far.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	assert.NilError(t, far.Start())
	defer func() { _ = far.Process.Kill(); _ = far.Wait() }()
	copied := func() bool {
		data, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(far.Process.Pid), "mountinfo"))
		assert.NilError(t, err)
		for _, line := range strings.Split(string(data), "\n") {
			if strings.Contains(line, " "+path+" ") && !strings.Contains(line, "shared:") {
				return true
			}
		}
		return false
	}
	eventually(t, "a private copy", copied)
	inUse, err := d.mounted([]string{v.Dir})
	assert.NilError(t, err)
	assert.Assert(t, inUse, "the driver's own mount")
	d.unmount("db", "one")
	assert.Assert(t, copied())
	inUse, err = d.mounted([]string{v.Dir})
	assert.NilError(t, err)
	assert.Assert(t, !inUse)
}
