//go:build linux

package restore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

func TestACreateWhoseLastSyncFailsIsInDoubtUntilRecoveryLooks(t *testing.T) {
	e, _ := shop(t)
	snapshots := filepath.Join(e.StateRoot(), "snapshots")
	renamed := false
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
		Fail: func(s durable.Step) error {
			if s.Dir == snapshots && s.Op == durable.OpRename && s.Done {
				renamed = true
			}
			if s.Dir == snapshots && s.Op == durable.OpSyncDir && !s.Done && renamed {
				renamed = false
				return unix.EIO
			}
			return nil
		}})
	assert.NilError(t, err)
	id := journal.NewID()
	_, err = d.Create(t.Context(), id, plan.Create{Project: "shop"})
	assert.Assert(t, fault.Is(err, fault.InDoubt), "%v", err)
	assert.Assert(t, errors.Is(err, unix.EIO))
	checkRunning(t, e)
	assert.NilError(t, d.Close())

	d = open(t, e)
	recovered, err := d.Recover(t.Context(), id)
	assert.NilError(t, err)
	assert.Equal(t, len(recovered.Operations), 1)
	assert.Equal(t, recovered.Operations[0].Result, journal.ResultDone)
	verified, err := d.Verify(t.Context(), []string{id}, "")
	assert.NilError(t, err)
	assert.Equal(t, verified[0].Result, "ok")
	checkRunning(t, e)
}

func TestADamagedSnapshotCanBeRemovedWithTheTreesThatItKept(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	made, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: made.ID})
	assert.NilError(t, err)
	restored, err := d.Execute(ctx, p)
	assert.NilError(t, err)

	ids := []string{made.ID, restored.Safety}
	for _, id := range ids {
		assert.NilError(t, os.Truncate(filepath.Join(e.StateRoot(), "snapshots", id, "snapshot.json"), 7))
	}
	_, err = d.Inspect(ctx, ids, "")
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	removed, err := d.Remove(ctx, journal.NewID(), ids, "")
	assert.NilError(t, err)
	assert.DeepEqual(t, removed, ids)
	left, err := d.List(ctx, "")
	assert.NilError(t, err)
	assert.Check(t, is.Len(left, 0))
	for _, tree := range trees {
		entries, err := os.ReadDir(filepath.Dir(tree))
		assert.NilError(t, err)
		assert.Check(t, is.Len(entries, 1), "%v", entries)
		assert.Equal(t, read(t, tree), "old")
	}
}
