package restore_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/event"
)

// forgotten is a process of a container that the engine may know nothing of. Its
// end is told as an engine tells it.
type forgotten struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func forget(t *testing.T, e *enginetest.Engine, id string) forgotten {
	t.Helper()
	f := forgotten{exec.Command("sleep", "600"), make(chan struct{})}
	assert.NilError(t, f.cmd.Start())
	dir := filepath.Join(e.Proc(), strconv.Itoa(f.cmd.Process.Pid))
	assert.NilError(t, os.Mkdir(dir, 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "cgroup"), []byte("0::/docker/"+id+"\n"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "mountinfo"), nil, 0o600))
	go func() {
		defer close(f.ended)
		_ = f.cmd.Wait()
		_ = os.RemoveAll(dir)
		if c, ok := e.Get(id); ok && !c.Up() {
			e.Change(t, id, func(c *restore.Container) { c.FinishedAt = time.Now() })
		}
	}()
	t.Cleanup(func() {
		_ = f.cmd.Process.Kill()
		<-f.ended
	})
	return f
}

func (f forgotten) over() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

// killedAtStart leaves a restore of which everything was killed when it started a
// container.
func killedAtStart(t *testing.T, id string) *enginetest.Engine {
	t.Helper()
	e, trees := shop(t)
	killed := false
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
		Fail: func(durable.Step) error {
			if killed {
				return enginetest.ErrCrashed
			}
			return nil
		}})
	assert.NilError(t, err)
	p := restoreOld(t, d, trees)
	e.Hook = func(c enginetest.Call) error {
		if c.Method == "Start" && c.On == id && !c.Done {
			killed = true
			e.Crash()
		}
		return nil
	}
	_, err = d.Execute(t.Context(), p)
	assert.ErrorIs(t, err, enginetest.ErrCrashed)
	d.Close()
	e.Hook = nil
	e.Revive()
	return e
}

// A recovery ends the process that its engine was killed in starting, before it
// starts the container; what the engine knows of, and others' processes, it
// leaves alone.
func TestARecoveryEndsWhatTheEngineHasForgotten(t *testing.T) {
	e := killedAtStart(t, "c2")

	known, stray, other := forget(t, e, "c1"), forget(t, e, "c2"), forget(t, e, "of-somebody")
	early := false
	e.Hook = func(c enginetest.Call) error {
		if c.Method == "Start" && c.On == "c2" && !c.Done {
			now, _ := e.Get("c2")
			early = early || !stray.over() || now.FinishedAt.IsZero()
		}
		return nil
	}
	warned := 0
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
		Events: func(e event.Event) {
			if e.Type == event.Warning {
				warned++
				assert.Check(t, e.Message == "container shop-web-1: the engine has forgotten process "+
					strconv.Itoa(stray.cmd.Process.Pid)+", which it was killed in starting; it is ended", e.Message)
			}
		}})
	assert.NilError(t, err)
	defer d.Close()
	recovered, err := d.Recover(t.Context(), "")
	assert.NilError(t, err)
	assert.Equal(t, len(recovered.Operations), 1)
	checkRunning(t, e)
	assert.Check(t, !early, "the container was started while the process ran, or before the engine had heard of its end")
	assert.Check(t, stray.over() && stray.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL)
	assert.Check(t, !known.over() && !other.over())
	assert.Equal(t, warned, 1)
}

// Where the processes cannot be looked at, it is said, and the recovery goes on.
func TestARecoveryThatCannotLookForProcessesSaysSo(t *testing.T) {
	e := killedAtStart(t, "c1")

	// A directory in the place of the file.
	assert.NilError(t, os.MkdirAll(filepath.Join(e.Proc(), "1", "cgroup"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(e.Proc(), "1", "mountinfo"), nil, 0o600))
	warned := 0
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
		Events: func(e event.Event) {
			if e.Type == event.Warning {
				warned++
			}
		}})
	assert.NilError(t, err)
	defer d.Close()
	_, err = d.Recover(t.Context(), "")
	assert.NilError(t, err)
	checkRunning(t, e)
	assert.Equal(t, warned, 1)
}

// A start that meets what is left of another ends the shim that keeps it, and no
// other container's.
func TestAStartEndsTheShimThatIsInItsWay(t *testing.T) {
	e := killedAtStart(t, "c1")
	shim := func(id string) forgotten {
		f := forget(t, e, "system.slice")
		line := "/usr/bin/containerd-shim-runc-v2\x00-namespace\x00moby\x00-id\x00" + id + "\x00-address\x00/run/containerd.sock\x00"
		assert.NilError(t, os.WriteFile(filepath.Join(e.Proc(), strconv.Itoa(f.cmd.Process.Pid), "cmdline"), []byte(line), 0o600))
		return f
	}
	stuck, other := shim("c2"), shim("c22")
	e.Hook = func(c enginetest.Call) error {
		if c.Method == "Start" && c.On == "c2" && !c.Done && !stuck.over() {
			return restore.ErrRemains
		}
		return nil
	}
	d := open(t, e)
	_, err := d.Recover(t.Context(), "")
	assert.NilError(t, err)
	checkRunning(t, e)
	assert.Check(t, stuck.over() && stuck.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL)
	assert.Check(t, !other.over())
}
