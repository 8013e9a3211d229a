package portable

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// nasty makes a tree of everything that is hard to copy.
func nasty(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the tree has owners and devices, which only root can make")
	}
	path := filepath.Join(t.TempDir(), "tree")
	assert.NilError(t, os.Mkdir(path, 0o700))
	conformance.Nasty(t, path)
	return path
}

func openRoot(t *testing.T, path string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(path)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// load makes the tree of an imported snapshot's volume.
func load(t *testing.T, s *snapshot.Store, id string, v snapshot.Volume) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "loaded")
	assert.NilError(t, os.Mkdir(path, 0o700))
	content, err := s.Content(id)
	assert.NilError(t, err)
	defer content.Close()
	assert.NilError(t, archive.New().Load(context.Background(), content,
		copyengine.Content{File: v.File, SHA256: v.SHA256, Bytes: v.Bytes, Files: v.Files, Stored: v.Stored},
		openRoot(t, path), func(int64, int64) {}))
	return path
}

func noDifference(t *testing.T, want, got string) {
	t.Helper()
	differences, err := conformance.Differences(want, got)
	assert.NilError(t, err)
	assert.Check(t, is.Len(differences, 0))
}

func TestATreeTravelsWithoutADifference(t *testing.T) {
	tree := nasty(t)
	for _, gzip := range []bool{false, true} {
		t.Run(fmt.Sprint("gzip ", gzip), func(t *testing.T) {
			s := openStore(t, t.TempDir())
			d, err := s.New(idA)
			assert.NilError(t, err)
			defer d.Close()
			c, err := archive.New().Save(context.Background(), openRoot(t, tree), d.Root(), 0, func(string, string) {}, func(int64, int64) {})
			assert.NilError(t, err)
			snap := snapshot.Snapshot{Format: snapshot.Format, ID: idA, Kind: snapshot.Made, Created: noon, Volumes: []snapshot.Volume{{
				Name: "v", Uses: []snapshot.Use{{Target: "/data"}},
				Engine: archive.Name, File: c.File, SHA256: c.SHA256, Bytes: c.Bytes, Files: c.Files, Stored: c.Stored}}}
			assert.NilError(t, d.Commit(snap))

			to, got, err := bring(t, bytes.NewReader(export(t, s, snap, gzip)), idB)
			assert.NilError(t, err)
			noDifference(t, tree, load(t, to, idB, got.Volumes[0]))
		})
	}
}

// kept makes a safety snapshot of a tree.
func kept(t *testing.T, s *snapshot.Store, tree string) snapshot.Snapshot {
	t.Helper()
	snap := snapshot.Snapshot{Format: snapshot.Format, ID: idA, Kind: snapshot.Safety, Created: noon, Operation: idB,
		Name:    snapshot.SafetyName(journal.Restore, idB),
		Volumes: []snapshot.Volume{{Name: "v", Uses: []snapshot.Use{{Target: "/data"}}, Engine: snapshot.Tree, Tree: tree}}}
	assert.NilError(t, s.Put(snap))
	return snap
}

func TestASafetySnapshotTravelsWithoutADifference(t *testing.T) {
	tree := nasty(t)
	for _, gzip := range []bool{false, true} {
		t.Run(fmt.Sprint("gzip ", gzip), func(t *testing.T) {
			s := openStore(t, t.TempDir())
			snap := kept(t, s, tree)
			to, got, err := bring(t, bytes.NewReader(export(t, s, snap, gzip)), idB)
			assert.NilError(t, err)
			assert.Equal(t, got.Kind, snapshot.Imported)
			noDifference(t, tree, load(t, to, idB, got.Volumes[0]))
		})
	}
}

func TestASafetySnapshotWhoseTreeIsGoneIsDamaged(t *testing.T) {
	s := openStore(t, t.TempDir())
	var buf bytes.Buffer
	err := Export(context.Background(), s, engines, kept(t, s, filepath.Join(t.TempDir(), "gone")), false, &buf, Watch{})
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.Check(t, is.Contains(fault.From(err).Hint, "docker snaprestore rm"))
	_, _, err = bring(t, &buf, idB)
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
}

func TestATreeThatBecameALinkIsNotFollowed(t *testing.T) {
	s := openStore(t, t.TempDir())
	link := filepath.Join(t.TempDir(), "link")
	assert.NilError(t, os.Symlink("/etc", link))
	err := Export(context.Background(), s, engines, kept(t, s, link), false, &bytes.Buffer{}, Watch{})
	assert.ErrorContains(t, err, "symbolic links")
}

func TestAFullDiskIsNoDamageAndNothingStays(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { assert.Check(t, unix.Unmount(path, unix.MNT_DETACH)) })
	noise := make([]byte, 1<<20) // does not compress
	rand.NewChaCha8([32]byte{}).Read(noise)
	s := openStore(t, path)
	_, err := bringInto(t, s, bytes.NewReader(pack(t, head(Manifest, tar.TypeReg, oneLine), head("0/f", tar.TypeReg, string(noise)))), idA)
	assert.Assert(t, errors.Is(err, unix.ENOSPC), "%v", err)
	assert.Assert(t, fault.Is(err, fault.Failed))
	assert.Equal(t, fault.From(err).State, "nothing was imported")
	left, err := os.ReadDir(path)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
}
