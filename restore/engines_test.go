//go:build linux

package restore_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
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
		t.Run(engine, func(t *testing.T) { live(t, "", engine, engine) })
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
					live(t, kind, want, engine)
				})
			}
		})
	}
}

func live(t *testing.T, kind, want, engine string) {
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
			assert.Equal(t, v.Brief, v.Reason)
		case engine == pack.Name:
			assert.Assert(t, strings.Contains(v.Reason, "no reflink: "), v.Reason)
			assert.Equal(t, v.Brief, "the file system (ext4) has neither subvolumes nor reflinks")
		default:
			assert.Assert(t, strings.HasPrefix(v.Reason, "no btrfs: ") && !strings.Contains(v.Reason, "no reflink"), v.Reason)
			brief := strings.TrimPrefix(v.Reason, "no btrfs: ") // on btrfs
			if kind == "xfs" {
				brief = "the file system (xfs) has no subvolumes"
			}
			assert.Equal(t, v.Brief, brief)
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
		for engine, why := range map[string]string{btrfs.Name: "not on btrfs", reflink.Name: "cannot share blocks", "tape": `there is no "tape"`} {
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

// noting is the engine pack, and notes what it is asked to take over from, what
// it stored, and what happened when.
type noting struct {
	copyengine.Incremental
	since, stored *[]string
	fail          error
	finish        func() error // before what was captured is stored; or nil
}

// asked notes from what something is stored.
func (n noting) asked(base *copyengine.Base, settled time.Time) error {
	from := "nothing"
	if base != nil {
		from = base.Content.SHA256
	}
	if settled.IsZero() || time.Since(settled) < 0 {
		from = "a tree that has not settled"
	}
	*n.since = append(*n.since, from)
	return n.fail
}

func (n noting) Ahead(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	if err := n.asked(base, settled); err != nil {
		return copyengine.Content{}, err
	}
	content, err := n.Incremental.Ahead(ctx, base, settled, tree, store, index, skipped, p)
	*n.stored = append(*n.stored, content.SHA256)
	return content, err
}

func (n noting) Capture(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Captured, error) {
	if err := n.asked(base, settled); err != nil {
		return nil, err
	}
	c, err := n.Incremental.Capture(ctx, base, settled, tree, store, index, skipped, p)
	return notedCapture{c, n}, err
}

type notedCapture struct {
	copyengine.Captured
	n noting
}

func (c notedCapture) Finish(ctx context.Context) (copyengine.Content, error) {
	if c.n.finish != nil {
		if err := c.n.finish(); err != nil {
			return copyengine.Content{}, err
		}
	}
	content, err := c.Captured.Finish(ctx)
	*c.n.stored = append(*c.n.stored, content.SHA256)
	return content, err
}

// A volume is stored since its last snapshot that there is, whatever other
// volumes that has; and what is removed takes nothing from the others.
func TestASnapshotIsTakenSinceTheLastOneOfTheVolume(t *testing.T) {
	e, trees := shop(t)
	var since, stored []string
	d := openNoting(t, e, noting{since: &since, stored: &stored})
	ctx := t.Context()
	create := func(volume, engine string) snapshot.Snapshot {
		since, stored = nil, nil
		s, err := d.Create(ctx, journal.NewID(), plan.Create{Volumes: []string{volume}, Engine: engine})
		assert.NilError(t, err)
		// The copy under the pause is taken since the one before the pause.
		if engine == "" {
			assert.Equal(t, len(since), 2)
			assert.Equal(t, since[1], stored[0])
			assert.Equal(t, s.Volumes[0].SHA256, stored[1])
			since = since[:1]
		}
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
	_, err := d.Remove(ctx, journal.NewID(), []string{first.ID, third.ID}, "")
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

// openNoting opens the domain with that engine, and archive for whoever asks.
func openNoting(t *testing.T, e *enginetest.Engine, n noting) *restore.Domain {
	t.Helper()
	n.Incremental = pack.New().(copyengine.Incremental)
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(),
		Copiers: copyengine.Set{n, archive.New()}})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, d.Close()) })
	return d
}

// The volumes are copied while the workload runs, and what is written until it
// stands still is in the snapshot all the same. Nothing of the copy ahead stays
// beside it.
func TestWhatChangesWhileAWorkloadIsCopiedAheadIsInTheSnapshot(t *testing.T) {
	for _, consistency := range []snapshot.Consistency{snapshot.Pause, snapshot.Stop} {
		t.Run(string(consistency), func(t *testing.T) {
			e, trees := shop(t)
			var since, stored []string
			db := trees["shop_db"]
			// By the time that what was captured is stored the workload writes again.
			d := openNoting(t, e, noting{since: &since, stored: &stored, finish: func() error {
				checkRunning(t, e)
				write(t, db, "written behind it")
				assert.Check(t, os.WriteFile(filepath.Join(db, "grows"), []byte("one two three"), 0o600))
				f, err := os.OpenFile(filepath.Join(db, "large"), os.O_WRONLY, 0)
				assert.NilError(t, err)
				_, err = f.WriteAt([]byte("written behind it"), 1<<20+100)
				assert.NilError(t, err)
				return f.Close()
			}})
			for name, data := range map[string]string{"same": "same", "gone": "gone", "grows": "one"} {
				assert.NilError(t, os.WriteFile(filepath.Join(db, name), []byte(data), 0o600))
			}
			// Of a large file that was written just now what did not change is found by its sums.
			large := make([]byte, 3<<20)
			rand.NewChaCha8([32]byte{}).Read(large)
			assert.NilError(t, os.WriteFile(filepath.Join(db, "large"), large, 0o600))
			ahead := 0
			var last sync.Once
			e.Hook = func(c enginetest.Call) error {
				if (c.Method == "Pause" || c.Method == "Stop") && !c.Done {
					last.Do(func() { // containers are paused at once
						ahead = len(stored)
						write(t, db, "written at the last moment")
						assert.Check(t, os.Remove(filepath.Join(db, "gone")))
						assert.Check(t, os.WriteFile(filepath.Join(db, "grows"), []byte("one two"), 0o600))
						assert.Check(t, os.WriteFile(filepath.Join(db, "came"), []byte("came"), 0o600))
					})
				}
				return nil
			}
			snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop", Consistency: consistency})
			assert.NilError(t, err)
			e.Hook = nil
			// A pass of more than a second, on a slow machine, is followed by another.
			assert.Assert(t, ahead > 0 && ahead%len(snap.Volumes) == 0, "%d copies before the workload stood still", ahead)
			assert.Assert(t, snap.Ahead > 0 && snap.Pause > 0)
			assert.Assert(t, snap.Volumes[0].Beside >= 3<<20, "%+v", snap.Volumes)
			assert.Assert(t, snap.Stored() >= 3<<20)
			left, err := filepath.Glob(filepath.Join(e.StateRoot(), "snapshots", snap.ID, "*"))
			assert.NilError(t, err)
			for _, path := range left {
				assert.Assert(t, filepath.Ext(path) == ".pack" || filepath.Base(path) == snapshot.File, path)
			}
			rows, err := d.Verify(t.Context(), nil, "")
			assert.NilError(t, err)
			assert.Equal(t, rows[0].Result, "ok", rows[0].Error)

			assert.Equal(t, read(t, db), "written behind it")
			assert.NilError(t, os.WriteFile(filepath.Join(db, "same"), []byte("other"), 0o600))
			p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID})
			assert.NilError(t, err)
			_, err = d.Execute(t.Context(), p)
			assert.NilError(t, err)
			assert.Equal(t, read(t, db), "written at the last moment")
			got := map[string]string{}
			for _, name := range []string{"same", "grows", "came", "gone"} {
				data, err := os.ReadFile(filepath.Join(db, name))
				assert.Assert(t, err == nil || name == "gone", err)
				got[name] = string(data)
			}
			assert.DeepEqual(t, got, map[string]string{"same": "same", "grows": "one two", "came": "came", "gone": ""})
			restored, err := os.ReadFile(filepath.Join(db, "large"))
			assert.NilError(t, err)
			assert.Assert(t, bytes.Equal(restored, large))
			checkRunning(t, e)
		})
	}
}

// What cannot be stored after the pause leaves nothing, and a workload that runs
// again already.
func TestWhatWasCapturedAndCannotBeStoredLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"a full disk":             {unix.ENOSPC, fault.Failed},
		"damage of what it needs": {fault.New(fault.Corrupt, "read pack: 0.1.pack is damaged"), fault.Corrupt},
	} {
		for _, consistency := range []snapshot.Consistency{snapshot.Pause, snapshot.Stop} {
			t.Run(name+" with "+string(consistency), func(t *testing.T) {
				e, _ := shop(t)
				var since, stored []string
				d := openNoting(t, e, noting{since: &since, stored: &stored, finish: func() error {
					checkRunning(t, e)
					return c.err
				}})
				id := journal.NewID()
				_, err := d.Create(t.Context(), id, plan.Create{Project: "shop", Consistency: consistency})
				assert.ErrorIs(t, err, c.err)
				assert.Assert(t, fault.Is(err, c.kind), "%v", err)
				assert.Equal(t, fault.From(err).State, "no snapshot was made; the workload and its data are as before")
				assert.Assert(t, fault.From(err).Hint != "")
				left, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
				assert.NilError(t, err)
				assert.Equal(t, len(left), 0)
				checkRunning(t, e)
			})
		}
	}
}

// What fails while the workload is copied ahead has not touched it.
func TestACopyAheadThatFailsPausesNothing(t *testing.T) {
	e, _ := shop(t)
	var since, stored []string
	d := openNoting(t, e, noting{since: &since, stored: &stored, fail: unix.ENOSPC})
	e.Hook = func(call enginetest.Call) error {
		if call.Method == "Pause" || call.Method == "Stop" {
			t.Errorf("%s was called", call)
		}
		return nil
	}
	_, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.ErrorIs(t, err, unix.ENOSPC)
	assert.Equal(t, len(since), 1)
	left, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	checkRunning(t, e)
}
