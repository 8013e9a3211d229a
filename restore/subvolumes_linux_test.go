package restore_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// whole is the shop with a volume of the driver, all of it on a btrfs of its own.
type whole struct {
	e     *enginetest.Engine
	d     *restore.Domain
	trees map[string]string
	at    string // where that is mounted
}

func onBtrfs(t *testing.T, do func(t *testing.T, w whole)) {
	t.Helper()
	at := conformance.FileSystem(t, "btrfs")
	t.Run("on btrfs", func(t *testing.T) {
		t.Setenv("TMPDIR", at)
		e, trees := shop(t)
		t.Cleanup(func() { conformance.Remove(t, e.DataRoot()) }) // which a test's own directory could not
		addDriven(t, e)
		trees["shop_cache"] = filepath.Join(e.StateRoot(), volume.Folder, "shop_cache", volume.Live)
		write(t, trees["shop_cache"], "old")
		do(t, whole{e, openReal(t, e), trees, at})
	})
}

// addDriven makes a volume as the driver does.
func addDriven(t *testing.T, e *enginetest.Engine) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Join(e.StateRoot(), volume.Folder), 0o700))
	assert.NilError(t, os.Chmod(e.StateRoot(), 0o700))
	dir, err := durable.Open(filepath.Join(e.StateRoot(), volume.Folder), nil)
	assert.NilError(t, err)
	defer dir.Close()
	spec, err := volume.Parse("shop_cache", nil)
	assert.NilError(t, err)
	_, err = volume.Open(dir).Create(spec)
	assert.NilError(t, err)
	e.SetHost(func(h *restore.Host) { h.VolumeDrivers = []string{"local", "snaprestore:latest"} })
	e.AddVolume(t, restore.Volume{Name: "shop_cache", Driver: "snaprestore:latest", Labels: map[string]string{
		"com.docker.compose.project": "shop", "com.docker.compose.volume": "cache",
	}})
	e.AddContainer(t, restore.Container{
		ID: "c3", Name: "shop-cache-1", State: "running", Image: "cache", ImageID: "sha256:3",
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "cache"},
		Mounts: []restore.Mount{{Name: "shop_cache", Target: "/cache"}},
	}, nil)
}

// isSubvolume tells what a directory is.
func isSubvolume(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	defer f.Close()
	is, err := subvolume.Is(int(f.Fd()))
	assert.NilError(t, err)
	return is
}

// subvolumes counts those of a file system, its own root not counted.
func subvolumes(t *testing.T, at string) int {
	t.Helper()
	f, err := os.Open(at)
	assert.NilError(t, err)
	defer f.Close()
	n, err := subvolume.Inner(int(f.Fd()))
	assert.NilError(t, err)
	return n
}

func volumesOf(s snapshot.Snapshot) map[string]snapshot.Volume {
	all := map[string]snapshot.Volume{}
	for _, v := range s.Volumes {
		all[v.Name] = v
	}
	return all
}

func restoreTo(t *testing.T, d *restore.Domain, ref string) *plan.Plan {
	t.Helper()
	p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: ref})
	assert.NilError(t, err)
	_, err = d.Execute(t.Context(), p)
	assert.NilError(t, err)
	return p
}

// A volume of the driver is a subvolume on btrfs and stays one, through
// restores and undos; the others are stored as before; and of what is removed
// nothing stays.
func TestAVolumeOfTheDriverOnBtrfsIsTakenAsAWhole(t *testing.T) {
	onBtrfs(t, aVolumeOfTheDriverOnBtrfsIsTakenAsAWhole)
}

func aVolumeOfTheDriverOnBtrfsIsTakenAsAWhole(t *testing.T, w whole) {
	e, d, trees, at := w.e, w.d, w.trees, w.at
	ctx := t.Context()
	assert.Assert(t, isSubvolume(t, trees["shop_cache"]))
	// Who goes through a tree leaves sockets out.
	socket := filepath.Join(trees["shop_cache"], "socket")
	assert.NilError(t, unix.Mknod(socket, unix.S_IFSOCK|0o600, 0))
	snap, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	for name, v := range volumesOf(snap) {
		if name == "shop_cache" {
			assert.Equal(t, v.Engine, btrfs.Name)
			assert.Equal(t, v.Reason, "")
			assert.Assert(t, v.Uncounted)
			continue
		}
		assert.Equal(t, v.Engine, reflink.Name)
		assert.Equal(t, v.Reason, "no btrfs: the volume is an ordinary directory, not a subvolume as new volumes of the driver snaprestore are")
		assert.Assert(t, !v.Uncounted)
	}
	same := func(word string) {
		t.Helper()
		for name, tree := range trees {
			assert.Equal(t, read(t, tree), word, name)
		}
		assert.Assert(t, isSubvolume(t, trees["shop_cache"]))
		_, err := os.Lstat(socket)
		assert.NilError(t, err)
		rows, err := d.Verify(ctx, nil, "")
		assert.NilError(t, err)
		for _, r := range rows {
			assert.Equal(t, r.Result, "ok", r.Error)
		}
	}
	for _, tree := range trees {
		write(t, tree, "new")
	}
	same("new")
	restoreTo(t, d, snap.ID)
	same("old")
	u, err := d.PlanUndo(ctx, journal.NewID(), plan.UndoRequest{})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, u)
	assert.NilError(t, err)
	same("new")
	// A safety snapshot becomes a stage as a whole, too, and stays as it is.
	p := restoreTo(t, d, "pre-undo-"+u.Operation)
	same("old")
	for _, tree := range trees {
		write(t, tree, "other")
	}
	p2 := restoreTo(t, d, "pre-undo-"+u.Operation)
	same("old")
	_, err = d.Remove(ctx, journal.NewID(), []string{snap.ID, "pre-undo-" + u.Operation, "pre-restore-" + p.Operation, "pre-restore-" + p2.Operation}, "")
	assert.NilError(t, err)
	left, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	assert.Equal(t, subvolumes(t, at), 1, "the live tree")
	checkRunning(t, e)
	checks, err := d.Doctor(ctx)
	assert.NilError(t, err)
	for _, c := range checks {
		if c.Name == "copy engine" {
			assert.Assert(t, strings.HasPrefix(c.Detail, "reflink (no btrfs: ") && strings.HasSuffix(c.Detail, "; btrfs for volumes of the driver"), c.Detail)
		}
	}
	assert.Equal(t, subvolumes(t, at), 1, "doctor left something")
}

// What was stored by another engine, or came from elsewhere, becomes a
// subvolume when it is restored into a volume of the driver.
func TestWhatIsRestoredIntoTheDriversVolumeIsASubvolume(t *testing.T) {
	onBtrfs(t, whatIsRestoredIntoTheDriversVolumeIsASubvolume)
}

func whatIsRestoredIntoTheDriversVolumeIsASubvolume(t *testing.T, w whole) {
	d, trees := w.d, w.trees
	ctx := t.Context()
	packed, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop", Engine: pack.Name})
	assert.NilError(t, err)
	subvolume, err := d.Create(ctx, journal.NewID(), plan.Create{Volumes: []string{"shop_cache"}, Engine: btrfs.Name})
	assert.NilError(t, err)
	assert.Equal(t, subvolume.Volumes[0].Reason, "it was asked for")
	var archive bytes.Buffer
	_, err = d.Export(ctx, subvolume.ID, "", false, &archive)
	assert.NilError(t, err)
	imported, err := d.Import(ctx, journal.NewID(), &archive, "")
	assert.NilError(t, err)
	assert.Equal(t, imported.Volumes[0].Files, int64(1))
	assert.Assert(t, !imported.Volumes[0].Uncounted)
	// As it was before there were subvolumes.
	live := trees["shop_cache"]
	conformance.Remove(t, live)
	assert.NilError(t, os.Mkdir(live, 0o755))
	for _, s := range []snapshot.Snapshot{packed, imported, subvolume} {
		write(t, live, "new")
		restoreTo(t, d, s.ID)
		assert.Equal(t, read(t, live), "old")
		assert.Assert(t, isSubvolume(t, live))
	}
}

// A volume with a subvolume in it is stored whole all the same, by another
// engine, and the one that cannot says why.
func TestSubvolumesInAVolumeAreNotLeftOut(t *testing.T) {
	onBtrfs(t, subvolumesInAVolumeAreNotLeftOut)
}

func subvolumesInAVolumeAreNotLeftOut(t *testing.T, w whole) {
	d, trees := w.d, w.trees
	live := trees["shop_cache"]
	dir, err := durable.Open(live, nil)
	assert.NilError(t, err)
	defer dir.Close()
	assert.NilError(t, dir.MakeTree("inner", 0o755))
	write(t, filepath.Join(live, "inner"), "inner")
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"shop_cache"}})
	assert.NilError(t, err)
	assert.Equal(t, snap.Volumes[0].Engine, reflink.Name)
	assert.Equal(t, snap.Volumes[0].Reason, "no btrfs: there are subvolumes in the volume (1), which a snapshot would leave out")
	_, err = d.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"shop_cache"}, Engine: btrfs.Name})
	assert.ErrorContains(t, err, "there are subvolumes in the volume")
	p := restoreTo(t, d, snap.ID)
	assert.Equal(t, read(t, filepath.Join(live, "inner")), "inner")
	_, err = d.Remove(t.Context(), journal.NewID(), []string{"pre-restore-" + p.Operation}, "")
	assert.NilError(t, err)
}

// What a create leaves that dies is swept by the next, the snapshot of a
// subvolume with it.
func TestADeadCreateLeavesNoSubvolume(t *testing.T) {
	onBtrfs(t, aDeadCreateLeavesNoSubvolume)
}

func aDeadCreateLeavesNoSubvolume(t *testing.T, w whole) {
	e, d, at := w.e, w.d, w.at
	ctx, cancel := context.WithCancel(t.Context())
	e.Hook = func(c enginetest.Call) error {
		if strings.HasPrefix(c.Method, "Unpause") {
			cancel()
			return context.Canceled
		}
		return nil
	}
	_, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.Assert(t, err != nil)
	e.Hook = nil
	_, err = d.Recover(t.Context(), "")
	assert.NilError(t, err)
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"shop_db"}})
	assert.NilError(t, err)
	all, err := d.List(t.Context(), "")
	assert.NilError(t, err)
	wanted := 1
	for _, s := range all {
		if s.ID != snap.ID {
			wanted++ // it was complete when the workload could not be thawed
		}
	}
	assert.Equal(t, subvolumes(t, at), wanted)
}

// A safety snapshot whose tree has a subvolume in it is copied file by file,
// and comes back whole.
func TestASafetySnapshotWithSubvolumesInItIsCopied(t *testing.T) {
	onBtrfs(t, aSafetySnapshotWithSubvolumesInItIsCopied)
}

func aSafetySnapshotWithSubvolumesInItIsCopied(t *testing.T, w whole) {
	d, trees := w.d, w.trees
	live := trees["shop_cache"]
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Volumes: []string{"shop_cache"}})
	assert.NilError(t, err)
	dir, err := durable.Open(live, nil)
	assert.NilError(t, err)
	defer dir.Close()
	assert.NilError(t, dir.MakeTree("inner", 0o755))
	write(t, filepath.Join(live, "inner"), "inner")
	first := restoreTo(t, d, snap.ID)
	second := restoreTo(t, d, "pre-restore-"+first.Operation)
	assert.Equal(t, read(t, filepath.Join(live, "inner")), "inner")
	assert.Assert(t, isSubvolume(t, live) && !isSubvolume(t, filepath.Join(live, "inner")))
	_, err = d.Remove(t.Context(), journal.NewID(), []string{snap.ID, "pre-restore-" + first.Operation, "pre-restore-" + second.Operation}, "")
	assert.NilError(t, err)
	assert.Equal(t, subvolumes(t, w.at), 1, "the live tree")
}
