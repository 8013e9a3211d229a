//go:build linux

package restore_test

import (
	stdtar "archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// openReal opens the domain with the copy engines that it is run with.
func openReal(t *testing.T, e *enginetest.Engine) *restore.Domain {
	t.Helper()
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{btrfs.New(), reflink.New(), pack.New(), archive.New()}})
	assert.NilError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// heritage makes an archive of the old layout, as another program would.
func heritage(t *testing.T, manifest string, files map[string]string) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := stdtar.NewWriter(z)
	put := func(name, text string) {
		assert.NilError(t, w.WriteHeader(&stdtar.Header{Name: name, Typeflag: stdtar.TypeReg, Mode: 0o644, Size: int64(len(text))}))
		_, err := io.WriteString(w, text)
		assert.NilError(t, err)
	}
	for _, name := range []string{"0/content", "1/content", "2/content"} {
		if text, ok := files[name]; ok {
			put(name, text)
		}
	}
	put("manifest.json", manifest)
	assert.NilError(t, w.Close())
	assert.NilError(t, z.Close())
	return &buf
}

func TestAHeritageArchiveIsRestoredByTargetWhateverItsSources(t *testing.T) {
	e, trees := shop(t)
	d := openReal(t, e)
	ctx := t.Context()
	outside := filepath.Join(t.TempDir(), "outside")
	assert.NilError(t, os.Mkdir(outside, 0o700))
	write(t, outside, "not yours")
	// The sources name the other volume, and a path of this machine.
	snap, err := d.Import(ctx, journal.NewID(), heritage(t,
		`[{"index":0,"target":"/data","scope":"project_named","source":"shop_files"},{"index":1,"target":"/files","scope":"absolute","source":"`+outside+`"}]`,
		map[string]string{"0/content": "db of old", "1/content": "files of old"}), "legacy")
	assert.NilError(t, err)
	assert.Equal(t, snap.Kind, snapshot.Imported)

	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "legacy", Project: "shop"})
	assert.NilError(t, err)
	restored, err := d.Execute(ctx, p)
	assert.NilError(t, err)
	assert.Equal(t, restored.Result, journal.ResultDone)
	assert.Equal(t, read(t, trees["shop_db"]), "db of old")
	assert.Equal(t, read(t, trees["shop_files"]), "files of old")
	assert.Equal(t, read(t, outside), "not yours")
	checkRunning(t, e)
}

func TestAHeritageArchiveWithATargetThatNobodyMountsChangesNothing(t *testing.T) {
	e, trees := shop(t)
	d := openReal(t, e)
	ctx := t.Context()
	_, err := d.Import(ctx, journal.NewID(), heritage(t, `[{"index":0,"target":"/nowhere","scope":"named","source":"shop_db"}]`,
		map[string]string{"0/content": "db of old"}), "legacy")
	assert.NilError(t, err)
	_, err = d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "legacy", Project: "shop"})
	assert.ErrorContains(t, err, "/nowhere")
	assert.Check(t, fault.From(err).Hint != "")
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "old")
	}
	checkRunning(t, e)
}

func TestAHostileArchiveStoresNothingAndEndsItsOperation(t *testing.T) {
	e, _ := shop(t)
	d := openReal(t, e)
	ctx := t.Context()
	id := journal.NewID()
	_, err := d.Import(ctx, id, heritage(t, `[{"index":7,"target":"/data","scope":"named","source":"v"}]`,
		map[string]string{"0/content": "x"}), "legacy")
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	all, err := d.List(ctx, "")
	assert.NilError(t, err)
	assert.Equal(t, len(all), 0)
	entries, err := os.ReadDir(filepath.Join(e.StateRoot(), "snapshots"))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0)
	open, known, err := d.Known(id)
	assert.NilError(t, err)
	assert.Assert(t, known && !open)
}

func TestASnapshotTravelsToAnotherEngineAndBack(t *testing.T) {
	for _, engine := range []string{archive.Name, pack.Name} {
		t.Run(engine, func(t *testing.T) { travel(t, engine) })
	}
}

func travel(t *testing.T, engine string) {
	here, trees := shop(t)
	d := openReal(t, here)
	ctx := t.Context()
	made, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop", Name: "before", Engine: engine})
	assert.NilError(t, err)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	for _, gzip := range []bool{false, true} {
		var buf strings.Builder
		_, err = d.Export(ctx, made.ID, "", gzip, &buf)
		assert.NilError(t, err)

		there, theirs := shop(t)
		other := openReal(t, there)
		for _, tree := range theirs {
			write(t, tree, "other")
		}
		snap, err := other.Import(ctx, journal.NewID(), strings.NewReader(buf.String()), "travelled")
		assert.NilError(t, err)
		p, err := other.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID, Project: "shop"})
		assert.NilError(t, err)
		_, err = other.Execute(ctx, p)
		assert.NilError(t, err)
		for _, tree := range theirs {
			assert.Equal(t, read(t, tree), "old")
		}
		checkRunning(t, there)

		// The safety snapshot of over there travels too.
		var kept strings.Builder
		_, err = other.Export(ctx, "pre-restore-"+p.Operation, "", gzip, &kept)
		assert.NilError(t, err)
		snap, err = d.Import(ctx, journal.NewID(), strings.NewReader(kept.String()), "")
		assert.NilError(t, err)
		p, err = d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID, Project: "shop"})
		assert.NilError(t, err)
		_, err = d.Execute(ctx, p)
		assert.NilError(t, err)
		for _, tree := range trees {
			assert.Equal(t, read(t, tree), "other")
		}
	}
}
