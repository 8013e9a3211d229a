//go:build linux

package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

func TestMain(m *testing.M) { conformance.Main(m) }

// Which engine stored a snapshot is of no matter to what is done with it.
func TestASnapshotOfEachEngineIsVerifiedRestoredAndRemoved(t *testing.T) {
	for _, engine := range []string{archive.Name, pack.Name} {
		t.Run(engine, func(t *testing.T) { live(t, engine, engine) })
	}
}

// The engine is that of the file system, unless another is asked for.
func TestWhereBlocksCanBeSharedASnapshotSharesThem(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			at := conformance.FileSystem(t, kind)
			best := reflink.Name
			if kind == "ext4" {
				best = pack.Name
			}
			for want, engine := range map[string]string{"": best, "auto": best, pack.Name: pack.Name} {
				t.Run("asked for "+want, func(t *testing.T) {
					t.Setenv("TMPDIR", at)
					live(t, want, engine)
				})
			}
		})
	}
}

func live(t *testing.T, want, engine string) {
	e, trees := shop(t)
	for _, tree := range trees {
		assert.NilError(t, os.WriteFile(filepath.Join(tree, "large"), make([]byte, 3<<20), 0o600))
	}
	d := openReal(t, e)
	ctx := t.Context()
	if want == "auto" {
		checks, err := d.Doctor(ctx)
		assert.NilError(t, err)
		i := slices.IndexFunc(checks, func(c plan.Check) bool { return c.Name == "copy engine" })
		assert.Assert(t, i >= 0)
		assert.Equal(t, checks[i].Status, "ok")
		assert.Equal(t, strings.Fields(checks[i].Detail)[0], engine)
	}
	snap, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop", Engine: want})
	assert.NilError(t, err)
	for _, v := range snap.Volumes {
		assert.Equal(t, v.Engine, engine)
		switch {
		case want == engine:
			assert.Equal(t, v.Reason, "it was asked for")
		case engine == pack.Name:
			assert.Assert(t, len(v.Reason) > len("no reflink: ") && v.Reason[:12] == "no reflink: ", v.Reason)
		default:
			assert.Equal(t, v.Reason, "")
		}
	}
	rows, err := d.Verify(ctx, nil, "")
	assert.NilError(t, err)
	assert.Equal(t, len(rows), 1)
	assert.Equal(t, rows[0].Result, "ok", rows[0].Error)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, p)
	assert.NilError(t, err)
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "old")
	}
	_, err = d.Remove(ctx, journal.NewID(), []string{snap.ID, "pre-restore-" + p.Operation}, "")
	assert.NilError(t, err)
	left, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	checkRunning(t, e)
}

// What cannot be done as it was asked for is refused while everything runs.
func TestAnEngineThatCannotIsRefusedBeforeAnythingIsPaused(t *testing.T) {
	at := conformance.FileSystem(t, "ext4")
	t.Run("on ext4", func(t *testing.T) {
		t.Setenv("TMPDIR", at)
		e, _ := shop(t)
		d := openReal(t, e)
		e.Hook = func(call enginetest.Call) error {
			if call.Changes() {
				t.Errorf("%s was called", call)
			}
			return nil
		}
		for engine, why := range map[string]string{reflink.Name: "cannot share blocks", "tape": `there is no "tape"`} {
			_, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop", Engine: engine})
			assert.ErrorContains(t, err, why)
			assert.Equal(t, fault.From(err).State, "nothing was changed")
			assert.Assert(t, fault.From(err).Hint != "")
		}
		left, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
		assert.NilError(t, err)
		assert.Equal(t, len(left), 0)
		checkRunning(t, e)
	})
}

// noting is the engine pack, and notes what it is asked to take over from.
type noting struct {
	copyengine.Incremental
	since *[]string
}

func (n noting) SaveSince(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	from := "nothing"
	if base != nil {
		from = base.Content.SHA256
	}
	if settled.IsZero() || time.Since(settled) < 0 {
		from = "a tree that has not settled"
	}
	*n.since = append(*n.since, from)
	return n.Incremental.SaveSince(ctx, base, settled, tree, store, index, skipped, p)
}

// A volume is stored since its last snapshot that there is, whatever other
// volumes that has; and what is removed takes nothing from the others.
func TestASnapshotIsTakenSinceTheLastOneOfTheVolume(t *testing.T) {
	e, trees := shop(t)
	var since []string
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(),
		Copiers: copyengine.Set{noting{pack.New().(copyengine.Incremental), &since}, archive.New()}})
	assert.NilError(t, err)
	defer d.Close()
	ctx := t.Context()
	create := func(volume, engine string) snapshot.Snapshot {
		since = nil
		s, err := d.Create(ctx, journal.NewID(), plan.Create{Volumes: []string{volume}, Engine: engine})
		assert.NilError(t, err)
		return s
	}
	first := create("shop_db", "")
	assert.DeepEqual(t, since, []string{"nothing"})
	create("shop_files", "")
	assert.DeepEqual(t, since, []string{"nothing"})
	create("shop_db", archive.Name)
	second := create("shop_db", "")
	assert.DeepEqual(t, since, []string{first.Volumes[0].SHA256})
	third := create("shop_db", "")
	assert.DeepEqual(t, since, []string{second.Volumes[0].SHA256})
	_, err = d.Remove(ctx, journal.NewID(), []string{first.ID, third.ID}, "")
	assert.NilError(t, err)
	fourth := create("shop_db", "")
	assert.DeepEqual(t, since, []string{second.Volumes[0].SHA256})
	_, err = d.Remove(ctx, journal.NewID(), []string{second.ID}, "")
	assert.NilError(t, err)
	write(t, trees["shop_db"], "new")
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: fourth.ID})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, p)
	assert.NilError(t, err)
	assert.Equal(t, read(t, trees["shop_db"]), "old")
}
