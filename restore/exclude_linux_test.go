package restore_test

import (
	"context"
	"os"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// meanwhile is a copy engine that does something while it saves.
type meanwhile struct {
	copyengine.Engine
	do func()
}

func (m meanwhile) Save(ctx context.Context, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	m.do()
	return m.Engine.Save(ctx, tree, store, index, skipped, p)
}

// Two operations whose volumes differ, but which stop or pause the same
// container, exclude each other: whoever ended first would let it write to what
// the other reads.
func TestOperationsThatHaveOnlyAContainerInCommonExcludeEachOther(t *testing.T) {
	for _, consistency := range []snapshot.Consistency{snapshot.Pause, snapshot.Stop} {
		t.Run(string(consistency), func(t *testing.T) {
			e := enginetest.New(t)
			for _, name := range []string{"left", "right"} {
				write(t, e.AddVolume(t, restore.Volume{Name: name}), "old")
			}
			e.AddContainer(t, restore.Container{ID: "c1", Name: "both", State: "running", Image: "app", ImageID: "sha256:1",
				Mounts: []restore.Mount{{Name: "left", Target: "/left"}, {Name: "right", Target: "/right"}}}, nil)
			other := open(t, e)
			right, err := other.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"right"}})
			assert.NilError(t, err)
			id, tried := journal.NewID(), 0
			d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(),
				Copiers: copyengine.Set{meanwhile{pack.New(), func() {
					tried++
					_, err := other.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"right"}, Consistency: consistency})
					assert.Check(t, fault.Is(err, fault.Locked), "%v", err)
					assert.Check(t, is.ErrorContains(err, "container:both is held by operation "+id))
					p, err := other.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: right.ID})
					if assert.Check(t, err) {
						_, err = other.Execute(t.Context(), p)
						assert.Check(t, fault.Is(err, fault.Locked), "%v", err)
					}
					// What stops nobody may be done.
					_, err = other.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"right"}, Consistency: snapshot.Live})
					assert.Check(t, err)
				}}}})
			assert.NilError(t, err)
			defer d.Close()
			_, err = d.Create(t.Context(), id, plan.Create{Volumes: []string{"left"}, Consistency: consistency})
			assert.NilError(t, err)
			assert.Equal(t, tried, 1)
			both, _ := e.Get("c1")
			assert.Equal(t, both.State, "running")
		})
	}
}

// Who plans a restore while another one has its fences up is told who holds
// the volumes, or waits for its end, and plans from what is there then.
func TestAPlanInTheMidstOfARestoreIsRefusedOrWaits(t *testing.T) {
	e, trees := shop(t)
	d, other := open(t, e), open(t, e)
	p := restoreOld(t, d, trees)
	request := plan.RestoreRequest{Snapshot: p.Snapshot.ID, LockTimeout: time.Minute}
	type planned struct {
		*plan.Plan
		error
	}
	waiting := make(chan planned, 1)
	tried := 0
	e.Hook = func(c enginetest.Call) error {
		if c.Method != "Containers" || c.Done || tried > 0 {
			return nil
		}
		if live, err := os.Lstat(trees["shop_db"]); err != nil || live.Mode()&os.ModeSymlink == 0 {
			return err
		}
		tried++
		_, err := other.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: p.Snapshot.ID})
		assert.Check(t, fault.Is(err, fault.Locked), "%v", err)
		assert.Check(t, is.ErrorContains(err, "held by operation "+p.Operation))
		go func() {
			p, err := other.PlanRestore(context.WithoutCancel(t.Context()), journal.NewID(), request)
			waiting <- planned{p, err}
		}()
		return nil
	}
	_, err := d.Execute(t.Context(), p)
	assert.NilError(t, err)
	assert.Equal(t, tried, 1)
	after := <-waiting
	assert.NilError(t, after.error)
	for _, c := range after.Containers {
		assert.Check(t, c.Running, c.Name)
	}
	_, err = other.Execute(t.Context(), after.Plan)
	assert.NilError(t, err)
	checkRunning(t, e)
}
