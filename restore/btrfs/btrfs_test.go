//go:build linux

package btrfs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
)

func TestMain(m *testing.M) { conformance.Main(m) }

// makeTree makes the top of a volume as the driver does.
func makeTree(path string) error {
	dir, err := durable.Open(filepath.Dir(path), nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.MakeTree(filepath.Base(path), 0o700)
}

func TestEngine(t *testing.T) {
	conformance.RunFrom(t, New(), conformance.Below(conformance.FileSystem(t, "btrfs")), makeTree)
}

func BenchmarkEngine(b *testing.B) {
	conformance.BenchmarkFrom(b, New(), conformance.Below(conformance.FileSystem(b, "btrfs")), makeTree)
}

// place is a volume and a store.
type place struct {
	source, stored string
	volume, store  *os.Root
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func newPlace(t testing.TB, at string) place {
	p := place{source: filepath.Join(at, "source"), stored: filepath.Join(at, "stored")}
	assert.NilError(t, makeTree(p.source))
	assert.NilError(t, os.Mkdir(p.stored, 0o700))
	assert.NilError(t, os.WriteFile(filepath.Join(p.source, "file"), make([]byte, 1<<20), 0o600))
	p.volume, p.store = openRoot(t, p.source), openRoot(t, p.stored)
	return p
}

func (p place) save(t testing.TB) copyengine.Content {
	t.Helper()
	c, err := New().Save(context.Background(), p.volume, p.store, 0, nil, nil)
	assert.NilError(t, err)
	return c
}

func (p place) verify(c copyengine.Content) error {
	return New().Verify(context.Background(), p.store, c, func(int64, int64) {})
}

// What a snapshot could not have as a whole is said, and nothing is left behind
// by the look.
func TestProbeSaysWhyNot(t *testing.T) {
	at := conformance.FileSystem(t, "btrfs")
	p := newPlace(t, at)
	assert.NilError(t, New().Able(p.volume, p.store))
	ordinary := filepath.Join(at, "ordinary")
	assert.NilError(t, os.Mkdir(ordinary, 0o700))
	assert.ErrorContains(t, New().Able(openRoot(t, ordinary), p.store), "ordinary directory")
	assert.ErrorContains(t, New().Able(openRoot(t, t.TempDir()), p.store), "not on btrfs")
	other := newPlace(t, conformance.FileSystem(t, "btrfs"))
	assert.ErrorContains(t, New().Able(p.volume, other.store), "different file systems")
	assert.ErrorContains(t, New().Able(p.volume, openRoot(t, t.TempDir())), "different file systems")

	inner := filepath.Join(p.source, "deep", "inner")
	assert.NilError(t, os.Mkdir(filepath.Dir(inner), 0o700))
	assert.NilError(t, makeTree(inner))
	assert.ErrorContains(t, New().Able(p.volume, p.store), "subvolumes in the volume (1)")
	_, err := New().Save(context.Background(), p.volume, p.store, 1, nil, nil)
	assert.ErrorContains(t, err, "subvolumes in the volume")
	conformance.Remove(t, inner)
	conformance.Remove(t, filepath.Join(p.stored, "1.subvolume"))
	assert.NilError(t, New().Able(p.volume, p.store))
	left, err := os.ReadDir(p.stored)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
}

// A stored subvolume that somebody made writable, changed and made read-only
// again, or put another one in the place of, is not believed.
func TestAnotherSubvolumeAndAChangedOneAreFound(t *testing.T) {
	p := newPlace(t, conformance.FileSystem(t, "btrfs"))
	c := p.save(t)
	assert.NilError(t, p.verify(c))
	path := filepath.Join(p.stored, c.File)
	lock := func(readOnly bool) {
		f, err := os.Open(path)
		assert.NilError(t, err)
		defer f.Close()
		assert.NilError(t, subvolume.SetReadOnly(int(f.Fd()), readOnly))
	}
	found := func(what string) {
		t.Helper()
		into := openRoot(t, t.TempDir())
		whole := openRoot(t, filepath.Dir(p.source))
		for name, err := range map[string]error{
			"verify":  p.verify(c),
			"load":    New().Load(context.Background(), p.store, c, into, func(int64, int64) {}),
			"load as": New().LoadAs(context.Background(), p.store, c, whole, "whole"),
		} {
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%s: %s: %v", what, name, err)
		}
		_, err := whole.Lstat("whole")
		assert.ErrorIs(t, err, fs.ErrNotExist)
	}
	lock(false)
	found("writable")
	lock(true)
	assert.NilError(t, p.verify(c), "nothing was changed meanwhile")
	lock(false)
	f, err := os.OpenFile(filepath.Join(path, "file"), os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteAt([]byte("x"), 1000)
	assert.NilError(t, err)
	assert.NilError(t, f.Sync())
	assert.NilError(t, f.Close())
	lock(true)
	found("changed")
	conformance.Remove(t, path)
	p.save(t)
	found("another one")
}

// The record of a snapshot stays what it was when the file system is mounted
// anew, also where the snapshot was taken while a file without a name was open:
// what is left of that is deleted in the snapshot at some time.
func TestTheRecordOutlivesAMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts, which only root may")
	}
	mkfs, err := exec.LookPath("mkfs.btrfs")
	if err != nil {
		t.Skip("there is no mkfs.btrfs")
	}
	dir := t.TempDir()
	image, copied, at := filepath.Join(dir, "image"), filepath.Join(dir, "copied"), filepath.Join(dir, "at")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 256<<20))
	assert.NilError(t, os.Mkdir(at, 0o700))
	run := func(name string, args ...string) {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		assert.NilError(t, err, "%s %v: %s", name, args, out)
	}
	run(mkfs, "-q", image)
	run("mount", "-o", "loop", image, at)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	p := newPlace(t, at)
	gone, err := os.Create(filepath.Join(p.source, "gone"))
	assert.NilError(t, err)
	_, err = gone.Write(make([]byte, 8<<20))
	assert.NilError(t, err)
	assert.NilError(t, os.Remove(gone.Name()))
	c := p.save(t)
	assert.NilError(t, p.verify(c))
	// The image as it is in this moment is what a power loss leaves.
	run("cp", "--sparse=always", image, copied)
	gone.Close()
	for _, root := range []*os.Root{p.volume, p.store} {
		root.Close()
	}
	assert.NilError(t, unix.Unmount(at, 0))
	mounted = false
	for _, from := range []string{image, copied} {
		run("btrfs", "device", "scan", "--forget")
		run("mount", "-o", "loop", from, at)
		mounted = true
		p.store = openRoot(t, p.stored)
		for range 2 {
			assert.NilError(t, p.verify(c), fmt.Sprint(from))
			unix.Sync()
		}
		p.store.Close()
		assert.NilError(t, unix.Unmount(at, 0))
		mounted = false
	}
}
