//go:build linux

package restore_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
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

// What is asked for wrongly is said with the state of the data and with what
// to do, by every verb.
func TestWhatIsAskedForWronglyIsSaidWithStateAndHint(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	for _, id := range []string{"aaaaaaaaaaa1", "aaaaaaaaaaa2"} {
		_, err := d.Create(ctx, id, plan.Create{Project: "shop"})
		assert.NilError(t, err)
	}
	for what, c := range map[string]struct {
		ref  string
		kind fault.Kind
	}{
		"unknown": {"nowhere", fault.NotFound}, "an unknown id": {"bbbbbbbbbbb1", fault.NotFound},
		"ambiguous": {"aaaaaa", fault.Failed}, "latest of nothing": {"latest~7", fault.NotFound},
		"a path": {"../aaaaaaaaaaa1", fault.Failed}, "nothing": {"", fault.Failed},
	} {
		for verb, call := range map[string]func() error{
			"inspect": func() error { _, err := d.Inspect(ctx, []string{c.ref}, ""); return err },
			"rm": func() error {
				_, err := d.Remove(ctx, journal.NewID(), []string{"aaaaaaaaaaa1", c.ref}, "")
				return err
			},
			"restore": func() error {
				_, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: c.ref})
				return err
			},
			"export": func() error { _, err := d.Export(ctx, c.ref, "", false, io.Discard); return err },
			"verify": func() error { _, err := d.Verify(ctx, []string{c.ref}, ""); return err },
			"drill":  func() error { _, err := d.Drill(ctx, journal.NewID(), plan.DrillRequest{Snapshot: c.ref}); return err },
		} {
			said(t, verb+" of "+what, call(), c.kind)
		}
	}
	for what, ref := range map[string]string{"an unknown id": "bbbbbbbbbbb1", "an unknown prefix": "bbb"} {
		_, err := d.Status(ctx, ref)
		said(t, "status of "+what, err, fault.NotFound)
		_, err = d.Recover(ctx, ref)
		said(t, "recover of "+what, err, fault.NotFound)
		_, err = d.PlanUndo(ctx, journal.NewID(), plan.UndoRequest{Operation: ref})
		said(t, "undo of "+what, err, fault.NotFound)
	}
	_, err := d.PlanUndo(ctx, journal.NewID(), plan.UndoRequest{})
	said(t, "undo of nothing", err, fault.NotFound)
	for what, r := range map[string]plan.Create{
		"an unknown volume": {Volumes: []string{"nowhere"}}, "a path": {Volumes: []string{"../shop_db"}},
		"an unknown project": {Project: "nowhere"}, "an unknown container": {Containers: []string{"nowhere"}},
	} {
		_, err := d.Create(ctx, journal.NewID(), r)
		said(t, "create of "+what, err, fault.NotFound)
	}
	e.AddVolume(t, restore.Volume{Name: "elsewhere", Options: map[string]string{"type": "tmpfs"}})
	_, err = d.Create(ctx, "aaaaaaaaaaa3", plan.Create{Project: "shop", Name: "taken"})
	assert.NilError(t, err)
	for what, r := range map[string]plan.Create{
		"a volume with driver options": {Volumes: []string{"elsewhere"}},
		"a path for a name":            {Project: "shop", Name: "../name"}, "a name that is taken": {Project: "shop", Name: "taken"},
		"an unknown consistency": {Project: "shop", Consistency: "freeze"}, "an unknown engine": {Project: "shop", Engine: "zfs"},
	} {
		_, err := d.Create(ctx, journal.NewID(), r)
		said(t, "create of "+what, err, fault.Failed)
	}
	all, err := d.List(ctx, "")
	assert.NilError(t, err)
	assert.Equal(t, len(all), 3)
	assert.Equal(t, read(t, trees["shop_db"]), "old")
	checkRunning(t, e)
}

// said checks that an error has one line, its kind, the state of the data and
// what to do.
func said(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	f := fault.From(err)
	assert.Assert(t, f != nil, "%s: no error", what)
	assert.Equal(t, f.Kind, kind, "%s: %v", what, f)
	assert.Assert(t, strings.HasSuffix(f.Error(), "; nothing was changed") && f.Hint != "" && !strings.Contains(f.Error(), "\n"), "%s: %+v", what, f)
}

// A removal of several snapshots that fails at a later one says which are gone.
func TestARemovalThatFailsHalfWaySaysWhatIsGone(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	ids := []string{"aaaaaaaaaaa1", "aaaaaaaaaaa2"}
	for _, id := range ids {
		_, err := d.Create(t.Context(), id, plan.Create{Project: "shop"})
		assert.NilError(t, err)
	}
	assert.NilError(t, d.Close())
	begun := 0
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}},
		Fail: func(s durable.Step) error {
			if s.Op != durable.OpCreate || s.Done || !strings.HasPrefix(s.Name, ".tmp-") {
				return nil
			}
			if begun++; begun < 3 { // the first has two records
				return nil
			}
			return unix.ENOSPC
		}})
	assert.NilError(t, err)
	removed, err := d.Remove(t.Context(), "aaaaaaaaaaa3", ids, "")
	assert.DeepEqual(t, removed, ids[:1])
	assert.ErrorIs(t, err, unix.ENOSPC)
	f := fault.From(err)
	assert.Assert(t, is.Contains(f.State, ids[0]))
	assert.Assert(t, !strings.Contains(f.State, "nothing was changed"), "%+v", f)
	assert.NilError(t, d.Close())
	d = open(t, e)
	all, err := d.List(t.Context(), "")
	assert.NilError(t, err)
	assert.Equal(t, len(all), 1)
	assert.Equal(t, all[0].ID, ids[1])
}
