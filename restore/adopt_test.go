//go:build linux

package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// lone is an engine with one volume that no container uses.
func lone(t *testing.T) *enginetest.Engine {
	t.Helper()
	e := enginetest.New(t)
	e.SetHost(func(h *restore.Host) { h.VolumeDrivers = []string{"local", "snaprestore:latest"} })
	tree := e.AddVolume(t, restore.Volume{Name: "shop_db", Labels: map[string]string{
		"com.docker.compose.project": "shop", "com.docker.compose.volume": "db", "com.docker.compose.config-hash": "abc",
	}})
	write(t, tree, "data")
	assert.NilError(t, os.Chmod(tree, 0o2750))
	return e
}

func TestAdoptAndBackKeepTheDataAndTheLabels(t *testing.T) {
	e := lone(t)
	d := open(t, e)
	for _, back := range []bool{false, true, false} {
		done, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}, Back: back})
		assert.NilError(t, err)
		assert.Equal(t, len(done), 1)
		v, err := e.Volume(t.Context(), "shop_db")
		assert.NilError(t, err)
		assert.Equal(t, v.Driver == "local", back)
		assert.DeepEqual(t, v.Labels, map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.volume": "db"})
		assert.Equal(t, read(t, v.Mountpoint), "data")
		info, err := os.Stat(v.Mountpoint)
		assert.NilError(t, err)
		assert.Equal(t, info.Mode().Perm(), os.FileMode(0o750))
		entries, err := os.ReadDir(filepath.Dir(v.Mountpoint))
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 1, "%v", entries)
	}
}

// The undo of an adoption gives the volume what it had before in the engine,
// all of it, and keeps what was written since. It can be undone too.
func TestAnAdoptionIsUndone(t *testing.T) {
	e := lone(t)
	was, err := e.Volume(t.Context(), "shop_db")
	assert.NilError(t, err)
	d := open(t, e)
	done, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
	assert.NilError(t, err)
	adopted, err := e.Volume(t.Context(), "shop_db")
	assert.NilError(t, err)
	last := done[0].Operation
	for _, want := range []restore.Volume{was, adopted, was} {
		write(t, adopted.Mountpoint, "data of "+last)
		p, err := d.PlanUndo(t.Context(), journal.NewID(), plan.UndoRequest{Operation: last[:8]})
		assert.NilError(t, err)
		assert.Equal(t, p.Undoes, last)
		assert.Equal(t, p.Remake.To.Driver, want.Driver)
		restored, err := d.Execute(t.Context(), p)
		assert.NilError(t, err)
		assert.Equal(t, restored.Result, journal.ResultDone)
		now, err := e.Volume(t.Context(), "shop_db")
		assert.NilError(t, err)
		assert.DeepEqual(t, now.Labels, want.Labels)
		assert.Equal(t, now.Driver, want.Driver)
		assert.Equal(t, read(t, now.Mountpoint), "data of "+last)
		last, adopted = restored.Operation, now
	}
}

// An adoption that something else came after, or whose volume is in use, is
// not undone, and says what is in the way.
func TestAnAdoptionThatCannotBeUndoneSaysWhy(t *testing.T) {
	e := lone(t)
	d := open(t, e)
	done, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
	assert.NilError(t, err)
	undo := plan.UndoRequest{Operation: done[0].Operation}
	p, err := d.PlanUndo(t.Context(), journal.NewID(), undo)
	assert.NilError(t, err)
	e.AddContainer(t, restore.Container{ID: "c9", Name: "stopped", State: "exited",
		Mounts: []restore.Mount{{Name: "shop_db", Target: "/data"}}}, nil)
	_, err = d.Execute(t.Context(), p) // it came between plan and execution
	assert.ErrorContains(t, err, "undo "+undo.Operation+": adopt volume shop_db: containers use it: stopped")
	assert.Equal(t, fault.From(err).State+"/"+fault.From(err).Hint, "nothing was changed/remove the containers first; the volume stays: docker rm stopped")
	v, err := e.Volume(t.Context(), "shop_db")
	assert.NilError(t, err)
	assert.Equal(t, v.Driver, "snaprestore:latest")
	assert.Equal(t, read(t, v.Mountpoint), "data")
}

func TestAVolumeInUseIsNotAdopted(t *testing.T) {
	e := lone(t)
	e.AddContainer(t, restore.Container{ID: "c9", Name: "stopped", State: "exited",
		Mounts: []restore.Mount{{Name: "shop_db", Target: "/data"}}}, nil)
	d := open(t, e)
	_, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
	assert.ErrorContains(t, err, "containers use it: stopped")
	v, err := e.Volume(t.Context(), "shop_db")
	assert.NilError(t, err)
	assert.Equal(t, v.Driver, "local")
	assert.Equal(t, read(t, v.Mountpoint), "data")
}

// TestAdoptKilledAtEveryStepLosesNothing kills the process before and after
// every durable step and every call of the engine, then recovers.
func TestAdoptKilledAtEveryStepLosesNothing(t *testing.T) {
	points := 0
	for kill := 1; ; kill++ {
		e := lone(t)
		n, dead := 0, false
		count := func() error {
			if n++; n >= kill || dead {
				dead = true
				e.Crash()
				return enginetest.ErrCrashed
			}
			return nil
		}
		d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}})
		assert.NilError(t, err)
		assert.NilError(t, d.Close())
		e.Hook = func(c enginetest.Call) error {
			if !c.Changes() {
				return nil
			}
			return count()
		}
		d, err = restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
			Fail: func(durable.Step) error { return count() }})
		if err == nil {
			_, err = d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
			assert.NilError(t, d.Close())
		}
		if !dead {
			assert.NilError(t, err)
			break
		}
		points++
		e.Hook = nil
		e.Revive()
		again, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}})
		assert.NilError(t, err)
		_, err = again.Recover(t.Context(), "")
		assert.Assert(t, err == nil || !fault.Is(err, fault.InDoubt), "killed at %d: %v", kill, err)
		ops, err := again.Status(t.Context(), "")
		assert.NilError(t, err)
		for _, op := range ops {
			assert.Equal(t, op.State, journal.Closed, "killed at %d", kill)
		}
		assert.NilError(t, again.Close())
		v, err := e.Volume(t.Context(), "shop_db")
		assert.NilError(t, err, "killed at %d", kill)
		assert.Equal(t, read(t, v.Mountpoint), "data", "killed at %d", kill)
		assert.Equal(t, v.Labels["com.docker.compose.volume"], "db")
		entries, err := os.ReadDir(filepath.Dir(v.Mountpoint))
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 1, "killed at %d: %v", kill, entries)
	}
	assert.Assert(t, points > 20, "%d points", points)
}

// A disk that refuses a step of an adoption, once or from there on, leaves the
// volume with its data: as it was, or, where it is in doubt and says so, after
// the recovery that it names.
func TestAnErrorAnywhereInAnAdoptionLosesNothing(t *testing.T) {
	for _, cause := range []error{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT} {
		for _, sticky := range []bool{false, true} {
			points, ends := 0, map[string]int{}
			for fail := 1; ; fail++ {
				e := lone(t)
				n := 0
				with := func(hook durable.Failpoint) *restore.Domain {
					d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(),
						Copiers: copyengine.Set{tarEngine{}}, Fail: hook})
					assert.NilError(t, err)
					return d
				}
				armed := false
				d := with(func(s durable.Step) error {
					if s.Done || !armed {
						return nil
					}
					if n++; n == fail || (sticky && n > fail) {
						return cause
					}
					return nil
				})
				armed = true
				_, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
				assert.NilError(t, d.Close())
				how := fmt.Sprintf("%v at step %d (sticky %t): %v", cause, fail, sticky, err)
				doubt := fault.Is(err, fault.InDoubt)
				if err != nil {
					said := fault.From(err)
					assert.Assert(t, said.State != "" && said.Hint != "", how)
				}
				again := with(nil)
				out, recovered := again.Recover(t.Context(), "")
				assert.NilError(t, recovered, how)
				assert.Assert(t, doubt || len(out.Operations) == 0 || err != nil, how)
				assert.NilError(t, again.Close())
				v, lookErr := e.Volume(t.Context(), "shop_db")
				assert.NilError(t, lookErr, how)
				assert.Equal(t, read(t, v.Mountpoint), "data", how)
				assert.Equal(t, v.Labels["com.docker.compose.volume"], "db", how)
				if err != nil && !doubt {
					assert.Equal(t, v.Driver, "local", how)
				}
				entries, lookErr := os.ReadDir(filepath.Dir(v.Mountpoint))
				assert.NilError(t, lookErr)
				assert.Equal(t, len(entries), 1, "%s: %v", how, entries)
				ends[v.Driver]++
				if n < fail {
					assert.NilError(t, err)
					break
				}
				points++
			}
			assert.Assert(t, points > 10 && ends["local"] > 0 && ends["snaprestore:latest"] > 1, "%d points, %v", points, ends)
		}
	}
}

// An engine that dies while it makes the volume may find it again without the
// labels, since it has them on record only after the driver is done.
func TestAnAdoptedVolumeHasItsLabelsWhereverTheEngineDies(t *testing.T) {
	for _, back := range []bool{false, true} {
		e := lone(t)
		d := open(t, e)
		if back {
			_, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
			assert.NilError(t, err)
		}
		e.Hook = func(c enginetest.Call) error {
			if c.Method == "CreateVolume" && c.Done {
				e.Crash()
			}
			return nil
		}
		_, err := d.Adopt(t.Context(), journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}, Back: back})
		assert.ErrorIs(t, err, enginetest.ErrCrashed)
		e.Hook = nil
		e.Revive()
		made, err := e.Volume(t.Context(), "shop_db")
		assert.NilError(t, err)
		assert.NilError(t, e.RemoveVolume(t.Context(), "shop_db"))
		tree := e.AddVolume(t, restore.Volume{Name: "shop_db", Driver: made.Driver})

		write(t, tree, "written meanwhile")
		_, err = d.Recover(t.Context(), "")
		assert.ErrorContains(t, err, "written meanwhile")
		assert.Equal(t, read(t, tree), "written meanwhile")
		assert.NilError(t, os.Remove(filepath.Join(tree, "content")))

		_, err = d.Recover(t.Context(), "")
		assert.NilError(t, err)
		v, err := e.Volume(t.Context(), "shop_db")
		assert.NilError(t, err)
		assert.DeepEqual(t, v.Labels, map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.volume": "db"})
		assert.Equal(t, read(t, v.Mountpoint), "data")
	}
}

// The tree is parked, but not on record as such; then it is in the new volume.
func TestAnAdoptionThatDiesAfterEachMoveOfTheTreeIsFinished(t *testing.T) {
	e := lone(t)
	adopt := func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Adopt(ctx, journal.NewID(), plan.AdoptRequest{Volumes: []string{"shop_db"}})
		return err
	}
	for _, call := range []func(context.Context, *restore.Domain) error{adopt, recoverAll, recoverAll} {
		dead := false
		d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
			Fail: func(s durable.Step) error {
				if dead = dead || s.Done && s.Op == durable.OpRename && s.ToIn != ""; dead {
					e.Crash()
					return errDead
				}
				return nil
			}})
		assert.NilError(t, err)
		err = call(t.Context(), d)
		assert.Equal(t, err != nil, dead, "%v", err)
		assert.NilError(t, d.Close())
		e.Revive()
	}
	v, err := e.Volume(t.Context(), "shop_db")
	assert.NilError(t, err)
	assert.Assert(t, v.Driver != "local")
	assert.Equal(t, read(t, v.Mountpoint), "data")
}
