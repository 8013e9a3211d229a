//go:build linux

package pack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// series is a tree and snapshots of it, each since the one before.
type series struct {
	*testing.T
	dir    string
	rng    *rand.ChaCha8
	stores []string
	all    []copyengine.Content
}

func newSeries(t *testing.T) *series {
	if os.Geteuid() != 0 {
		t.Skip("the trees have owners and devices, which only root can make")
	}
	s := &series{T: t, dir: t.TempDir(), rng: rand.NewChaCha8([32]byte{1})}
	assert.NilError(t, os.Mkdir(s.source(), 0o700))
	return s
}

func (s *series) source() string          { return filepath.Join(s.dir, "source") }
func (s *series) path(name string) string { return filepath.Join(s.source(), name) }

// write writes n bytes that cannot be compressed.
func (s *series) write(name string, n int) {
	s.Helper()
	data := make([]byte, n)
	_, err := s.rng.Read(data)
	assert.NilError(s, err)
	assert.NilError(s, os.WriteFile(s.path(name), data, 0o644))
}

// ever is a time by which everything has settled.
var ever = time.Now().Add(1000 * time.Hour)

// take takes a snapshot since the last.
func (s *series) take(settled time.Time) copyengine.Content {
	s.Helper()
	store := filepath.Join(s.dir, fmt.Sprint("store", len(s.all)))
	assert.NilError(s, os.Mkdir(store, 0o700))
	var base *copyengine.Base
	if n := len(s.all); n > 0 {
		base = &copyengine.Base{Store: openDir(s, s.stores[n-1]), Content: s.all[n-1]}
	}
	var bytes, files int64
	c, err := New().(copyengine.Incremental).SaveSince(context.Background(), base, settled, openDir(s, s.source()), openDir(s, store), 0,
		func(path, reason string) { s.Errorf("%s: %s", path, reason) }, func(b, f int64) { bytes, files = bytes+b, files+f })
	assert.NilError(s, err)
	assert.Equal(s, bytes, c.Bytes)
	assert.Equal(s, files, c.Files)
	s.stores, s.all = append(s.stores, store), append(s.all, c)
	return c
}

// forget removes a snapshot.
func (s *series) forget(i int) { assert.NilError(s, os.RemoveAll(s.stores[i])) }

// isSource expects that the last snapshot is what the tree is now.
func (s *series) isSource() {
	s.Helper()
	n := len(s.all) - 1
	store := openDir(s, s.stores[n])
	assert.NilError(s, New().Verify(context.Background(), store, s.all[n], nobody))
	target := filepath.Join(s.dir, fmt.Sprint("target", n))
	assert.NilError(s, os.Mkdir(target, 0o700))
	assert.NilError(s, New().Load(context.Background(), store, s.all[n], openDir(s, target), nobody))
	differences, err := conformance.Differences(s.source(), target)
	assert.NilError(s, err)
	assert.Equal(s, len(differences), 0, "%v", differences)
}

func (s *series) names(i int) (names []string) {
	entries, err := os.ReadDir(s.stores[i])
	assert.NilError(s, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (s *series) fill() {
	conformance.Nasty(s.T, s.source())
	assert.NilError(s, os.Mkdir(s.path("many"), 0o755))
	for i := range 600 {
		s.write(fmt.Sprintf("many/%03d", i), 2000)
	}
	s.write("many/large", 10<<20)
}

// Whatever changed, a snapshot since another is whole, and stays so when the
// other is gone.
func TestASnapshotSinceAnotherIsWholeWithoutIt(t *testing.T) {
	s := newSeries(t)
	s.fill()
	first := s.take(ever)
	again := s.take(ever)
	assert.Assert(t, again.Stored < first.Stored/50, "%d of %d", again.Stored, first.Stored)
	assert.DeepEqual(t, s.names(1), []string{"0.1.pack", "0.pack"})
	s.forget(0)
	s.isSource()

	for i := 0; i < 600; i += 7 {
		s.write(fmt.Sprintf("many/%03d", i), 2000)
	}
	f, err := os.OpenFile(s.path("many/large"), os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteAt([]byte("changed"), 5<<20+5)
	assert.NilError(t, err)
	assert.NilError(t, f.Close())
	assert.NilError(t, os.Rename(s.path("many/001"), s.path("many/zzz")))
	assert.NilError(t, os.Chmod(s.path("many/002"), 0o4755))
	assert.NilError(t, os.Remove(s.path("many/003")))
	assert.NilError(t, os.Mkdir(s.path("another"), 0o755))
	s.write("another/file", 300<<10)
	changed := s.take(ever)
	assert.Assert(t, changed.Stored < 3<<20, "%d", changed.Stored)
	s.forget(1)
	s.isSource()
	s.take(ever)
	s.forget(2)
	s.isSource()
}

// A file that was replaced by one of the same size and time is another one, and
// one that changed so late that the time may hide it is read again.
func TestOnlyWhatSurelyHasNotChangedIsTakenOver(t *testing.T) {
	s := newSeries(t)
	when := time.Unix(1e9, 0)
	for _, name := range []string{"replaced", "late"} {
		s.write(name, 200<<10)
		assert.NilError(t, os.Chtimes(s.path(name), when, when))
	}
	s.take(time.Now()) // everything is younger than the slack
	c := s.take(ever)
	assert.Assert(t, c.Stored > 400<<10, "%d", c.Stored)
	assert.DeepEqual(t, s.names(1), []string{"0.pack"})
	assert.NilError(t, os.Remove(s.path("replaced")))
	s.write("replaced", 200<<10)
	assert.NilError(t, os.Chtimes(s.path("replaced"), when, when))
	c = s.take(ever)
	assert.Assert(t, c.Stored > 200<<10 && c.Stored < 300<<10, "%d", c.Stored)
	s.isSource()
	c = s.take(time.Time{}) // nothing settled: it takes over, and gives no marks
	assert.Assert(t, c.Stored < 100<<10, "%d", c.Stored)
	s.isSource()
	c = s.take(ever)
	assert.Assert(t, c.Stored > 400<<10, "%d", c.Stored)
	s.isSource()
}

// A file of which little is used is let go, and there are never many.
func TestWhatIsLittleUsedIsStoredAnew(t *testing.T) {
	s := newSeries(t)
	for i := range 100 {
		s.write(fmt.Sprintf("%03d", i), 100<<10)
	}
	s.take(ever)
	for i := 20; i < 100; i++ {
		s.write(fmt.Sprintf("%03d", i), 100<<10)
	}
	s.take(ever)
	assert.DeepEqual(t, s.names(1), []string{"0.1.pack", "0.pack"})
	c := s.take(ever) // the fifth of the first
	assert.DeepEqual(t, s.names(2), []string{"0.1.pack", "0.pack"})
	assert.Assert(t, c.Stored > 2000<<10 && c.Stored < 2200<<10, "%d", c.Stored)
	s.isSource()
	for i := range maxOthers + 5 {
		s.write(fmt.Sprintf("%03d", i), 100<<10)
		s.take(ever)
		assert.Assert(t, len(s.names(len(s.all)-1)) <= maxOthers+1)
	}
	for i := range s.all[:len(s.all)-1] {
		s.forget(i)
	}
	s.isSource()
}

// An earlier snapshot that is damaged, or gone, is not needed.
func TestWithoutTheEarlierEverythingIsStored(t *testing.T) {
	s := newSeries(t)
	s.fill()
	first := s.take(ever)
	at := filepath.Join(s.stores[0], first.File)
	whole, err := os.ReadFile(at)
	assert.NilError(t, err)
	for _, damaged := range [][]byte{whole[:len(whole)-1], whole[:20], append(whole[:len(whole)-100:len(whole)-100], make([]byte, 100)...)} {
		assert.NilError(t, os.Remove(at)) // not what others share with it
		assert.NilError(t, os.WriteFile(at, damaged, 0o600))
		s.stores, s.all = s.stores[:1], s.all[:1]
		assert.NilError(t, os.RemoveAll(filepath.Join(s.dir, "store1")))
		assert.NilError(t, os.RemoveAll(filepath.Join(s.dir, "target1")))
		s.take(ever)
		assert.DeepEqual(t, s.names(1), []string{"0.pack"})
		s.isSource()
	}
}

// Damage of what is shared is found from each snapshot that shares it.
func TestDamageOfASharedFileIsFound(t *testing.T) {
	s := newSeries(t)
	s.write("file", 300<<10)
	s.write("small", 1000)
	s.take(ever)
	c := s.take(ever)
	at := filepath.Join(s.stores[1], "0.1.pack")
	whole, err := os.ReadFile(at)
	assert.NilError(t, err)
	flipped := slices.Clone(whole)
	flipped[1000] ^= 1
	store := openDir(t, s.stores[1])
	for _, damaged := range [][]byte{flipped, whole[:len(whole)-1], append(slices.Clone(whole), 0), nil} {
		assert.NilError(t, os.Remove(at))
		if damaged != nil {
			assert.NilError(t, os.WriteFile(at, damaged, 0o600))
		}
		err := New().Verify(context.Background(), store, c, nobody)
		assert.Assert(t, fault.Is(err, fault.Corrupt), "verify: %v", err)
		err = New().Load(context.Background(), store, c, openDir(t, t.TempDir()), nobody)
		assert.Assert(t, fault.Is(err, fault.Corrupt), "load: %v", err)
		if damaged == nil {
			assert.NilError(t, os.WriteFile(at, whole, 0o600))
		}
	}
}

// The order in which paths are compared is that of the walk.
func TestPathsAreComparedAsTheWalkGoes(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"a/b/c", "a/b-", "a-/x", "a", "a.b", "\x01", "\xff/\x01/z", "ab/c", "b"} {
		_ = os.MkdirAll(filepath.Join(dir, path), 0o755)
	}
	var paths []string
	err := tree.Walk(context.Background(), openDir(t, dir), func(string, string) {}, func(n *tree.Node) error {
		paths = append(paths, n.Path)
		return nil
	})
	assert.NilError(t, err)
	assert.Assert(t, len(paths) > 12)
	for i, a := range paths {
		for j, b := range paths {
			assert.Equal(t, before(a, b), i < j, "%q and %q", a, b)
		}
	}
}

// A snapshot that dies anywhere, and what is left of it being swept, takes
// nothing from the one that it was taken since.
func TestASnapshotThatDiesLeavesTheEarlierAsItWas(t *testing.T) {
	s := newSeries(t)
	s.fill()
	s.take(ever)
	s.write("many/000", 5000)
	whole, err := os.ReadFile(filepath.Join(s.stores[0], s.all[0].File))
	assert.NilError(t, err)
	base := &copyengine.Base{Store: openDir(t, s.stores[0]), Content: s.all[0]}
	for at := 1; at < 1200; at += 1 + at/2 {
		torn := filepath.Join(s.dir, fmt.Sprint("torn", at))
		assert.NilError(t, os.Mkdir(torn, 0o700))
		ctx, cancel := context.WithCancel(context.Background())
		calls := 0
		_, err := New().(copyengine.Incremental).SaveSince(ctx, base, ever, openDir(t, s.source()), openDir(t, torn), 0,
			func(string, string) {}, func(int64, int64) {
				if calls++; calls == at {
					cancel()
				}
			})
		cancel()
		assert.ErrorIs(t, err, context.Canceled)
		now, err := os.ReadFile(filepath.Join(s.stores[0], s.all[0].File))
		assert.NilError(t, err)
		assert.Assert(t, slices.Equal(now, whole))
		assert.NilError(t, os.RemoveAll(torn))
		assert.NilError(t, New().Verify(context.Background(), base.Store, s.all[0], nobody))
	}
	assert.DeepEqual(t, s.names(0), []string{"0.pack"})
}
