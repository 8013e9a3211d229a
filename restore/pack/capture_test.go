//go:build linux

package pack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// workload changes a tree at random. Each change gives what it touches a time of
// its own, so that none hides in the tick of a clock.
type workload struct {
	*series
	rnd   *rand.Rand
	files []string // regular, by path in the tree
	dirs  []string
	count int64
}

func newWorkload(s *series, seed uint64) *workload {
	w := &workload{series: s, rnd: rand.New(rand.NewPCG(seed, 1)), dirs: []string{"."}}
	for i := range 60 {
		w.create(w.size(i%3 == 0))
	}
	return w
}

// size is one below or above that from which a file has segments of its own,
// seldom a whole number of blocks.
func (w *workload) size(large bool) int {
	n := w.rnd.IntN(small)
	if large {
		n = small + 1 + w.rnd.IntN(3*frameSize)
	}
	if w.rnd.IntN(3) == 0 {
		n = n / blockSize * blockSize
	}
	return n
}

// data is random, with zeros and repetitions in it.
func (w *workload) data(n int) []byte {
	out := make([]byte, n)
	switch w.rnd.IntN(4) {
	case 0: // zeros
	case 1:
		for i := range out {
			out[i] = byte(i / 100)
		}
	default:
		_, _ = w.rng.Read(out) // never fails
	}
	return out
}

func (w *workload) ok(err error) {
	w.Helper()
	assert.NilError(w, err)
}

// touch gives an entry a time that nothing else has.
func (w *workload) touch(name string) {
	w.count++
	t := []unix.Timespec{{Sec: w.count}, {Sec: 1_000_000 + w.count, Nsec: w.count}}
	w.ok(unix.UtimesNanoAt(unix.AT_FDCWD, w.path(name), t, unix.AT_SYMLINK_NOFOLLOW))
}

func (w *workload) fresh() string {
	w.count++
	return filepath.Join(w.dirs[w.rnd.IntN(len(w.dirs))], fmt.Sprintf("%c%d", 'a'+rune(w.rnd.IntN(26)), w.count))
}

func (w *workload) create(n int) {
	name := w.fresh()
	w.ok(os.WriteFile(w.path(name), w.data(n), 0o640))
	w.touch(name)
	w.files = append(w.files, name)
}

// some gives a file and its size.
func (w *workload) some() (i int, name string, size int64) {
	i = w.rnd.IntN(len(w.files))
	st, err := os.Lstat(w.path(w.files[i]))
	w.ok(err)
	return i, w.files[i], st.Size()
}

func (w *workload) in(name string, do func(f *os.File)) {
	f, err := os.OpenFile(w.path(name), os.O_RDWR, 0)
	w.ok(err)
	do(f)
	w.ok(f.Close())
	w.touch(name)
}

// step makes one change.
func (w *workload) step() {
	i, name, size := w.some()
	at := w.rnd.Int64N(size + 1)
	page := at / blockSize * blockSize
	switch w.rnd.IntN(20) {
	case 0, 1, 2, 3: // pages of a table
		w.in(name, func(f *os.File) {
			for range 1 + w.rnd.IntN(4) {
				_, err := f.WriteAt(w.data(blockSize), w.rnd.Int64N(size/blockSize+1)*blockSize)
				w.ok(err)
			}
		})
	case 4: // a few bytes anywhere
		w.in(name, func(f *os.File) {
			_, err := f.WriteAt(w.data(1+w.rnd.IntN(3*blockSize)), at)
			w.ok(err)
		})
	case 5: // one bit
		if size > 0 {
			w.in(name, func(f *os.File) {
				b := make([]byte, 1)
				_, err := f.ReadAt(b, at%size)
				w.ok(err)
				b[0] ^= 1 << w.rnd.IntN(8)
				_, err = f.WriteAt(b, at%size)
				w.ok(err)
			})
		}
	case 6: // an appended log
		w.in(name, func(f *os.File) {
			_, err := f.WriteAt(w.data(1+w.rnd.IntN(frameSize)), size)
			w.ok(err)
		})
	case 7:
		w.in(name, func(f *os.File) { w.ok(f.Truncate(at)) })
	case 8: // it grows by a hole
		w.in(name, func(f *os.File) { w.ok(f.Truncate(size + int64(w.rnd.IntN(2*frameSize)))) })
	case 9, 10: // a hole where data was
		if size > 0 {
			w.in(name, func(f *os.File) {
				w.ok(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, page, int64(1+w.rnd.IntN(40))*4096))
			})
		}
	case 11: // zeros, which are no hole
		w.in(name, func(f *os.File) {
			_, err := f.WriteAt(make([]byte, blockSize), page)
			w.ok(err)
		})
	case 12: // another place, which may be another's
		to := w.fresh()
		w.ok(os.Rename(w.path(name), w.path(to)))
		w.files[i] = to
	case 13: // replaced, at its old size and at another
		n := int(size)
		if w.rnd.IntN(2) == 0 {
			n = w.size(size < small)
		}
		w.ok(os.WriteFile(w.path("new"), w.data(n), 0o600))
		w.ok(os.Rename(w.path("new"), w.path(name)))
		w.touch(name)
	case 14: // the same once more
		w.touch(name)
	case 15:
		if len(w.files) > 20 {
			w.ok(os.Remove(w.path(name)))
			w.files = slices.Delete(w.files, i, i+1)
		}
	case 16:
		w.create(w.size(w.rnd.IntN(2) == 0))
	case 17:
		dir := w.fresh()
		w.ok(os.Mkdir(w.path(dir), 0o700))
		w.dirs = append(w.dirs, dir)
	case 18:
		link, other := w.fresh(), w.fresh()
		w.ok(os.Symlink(strings.Repeat("x", 1+w.rnd.IntN(100)), w.path(link)))
		w.ok(os.Link(w.path(name), w.path(other)))
		w.touch(other)
	case 19:
		w.ok(unix.Lsetxattr(w.path(name), "user.count", fmt.Append(nil, w.count), 0))
		w.ok(os.Chmod(w.path(name), os.FileMode(w.rnd.IntN(0o1000))))
		w.ok(os.Chown(w.path(name), w.rnd.IntN(100), w.rnd.IntN(100)))
		w.touch(name)
	}
}

func (w *workload) run(steps int) {
	for range steps {
		w.step()
	}
}

// folder makes a directory beside the tree.
func (s *series) folder(name string) *os.Root {
	s.Helper()
	assert.NilError(s, os.Mkdir(filepath.Join(s.dir, name), 0o700))
	return openDir(s, filepath.Join(s.dir, name))
}

// ahead copies the tree ahead of its capture, since base.
func (s *series) ahead(name string, base *copyengine.Base, settled time.Time) *copyengine.Base {
	s.Helper()
	store := s.folder(name)
	c, err := New().(copyengine.Incremental).Ahead(context.Background(), base, settled, openDir(s, s.source()), store, 0,
		func(path, reason string) { s.Errorf("%s: %s", path, reason) }, nobody)
	assert.NilError(s, err)
	return &copyengine.Base{Store: store, Content: c}
}

// capture captures the tree as it is now, and expects progress about all of it.
func (s *series) capture(store *os.Root, base *copyengine.Base, settled time.Time) (c copyengine.Captured, bytes, files int64) {
	s.Helper()
	c, err := New().(copyengine.Incremental).Capture(context.Background(), base, settled, openDir(s, s.source()), store, 0,
		func(path, reason string) { s.Errorf("%s: %s", path, reason) }, func(b, f int64) { bytes, files = bytes+b, files+f })
	assert.NilError(s, err)
	return c, bytes, files
}

// holds expects that what is stored is a tree that was described before.
func (s *series) holds(store *os.Root, c copyengine.Content, want map[string]string) {
	s.Helper()
	assert.NilError(s, New().Verify(context.Background(), store, c, nobody))
	target := filepath.Join(s.TempDir(), "target")
	assert.NilError(s, os.Mkdir(target, 0o700))
	assert.NilError(s, New().Load(context.Background(), store, c, openDir(s, target), nobody))
	got, err := conformance.Describe(target)
	assert.NilError(s, err)
	assert.DeepEqual(s, got, want)
}

// A snapshot is the tree at the moment in which it was captured: whatever
// happened to it between the copies ahead of that, and whatever happens to it
// while what was captured is stored. It is also, byte for byte, what would have
// been stored at that moment at once.
func TestASnapshotIsTheTreeAtTheMomentOfItsCapture(t *testing.T) {
	seeds := uint64(16)
	if testing.Short() {
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newSeries(t)
			if seed%4 == 0 {
				conformance.Nasty(t, s.source())
			}
			w := newWorkload(s, seed)
			// Files are known by their times in some passes, and read in the others.
			settled := func() time.Time {
				if w.rnd.IntN(2) == 0 {
					return ever
				}
				return time.Time{}
			}
			var base *copyengine.Base
			if seed%2 == 1 { // a snapshot of the day before
				c := s.take(settled())
				base = &copyengine.Base{Store: openDir(t, s.stores[0]), Content: c}
				w.run(w.rnd.IntN(100))
			}
			for pass := range seed % 4 {
				base = s.ahead(fmt.Sprint("ahead", pass), base, settled())
				w.run(w.rnd.IntN(150))
			}
			want, err := conformance.Describe(s.source())
			assert.NilError(t, err)
			at := settled()
			store := s.folder("snapshot")
			captured, bytes, files := s.capture(store, base, at)
			defer captured.Close()

			direct := s.folder("direct")
			other, err := New().(copyengine.Incremental).SaveSince(context.Background(), base, at, openDir(t, s.source()), direct, 0, func(string, string) {}, nobody)
			assert.NilError(t, err)

			// The workload runs on; and the copies ahead are not needed any more.
			w.run(300)
			if seed%3 == 0 {
				assert.NilError(t, os.RemoveAll(s.source()))
			}
			for pass := range seed % 4 {
				assert.NilError(t, os.RemoveAll(filepath.Join(s.dir, fmt.Sprint("ahead", pass))))
			}
			c, err := captured.Finish(context.Background())
			assert.NilError(t, err)
			assert.DeepEqual(t, c, other)
			assert.Equal(t, c.Bytes, bytes)
			assert.Equal(t, c.Files, files)
			s.holds(store, c, want)
			for _, name := range contents(t, direct) {
				a, err := direct.ReadFile(name)
				assert.NilError(t, err)
				b, err := store.ReadFile(name)
				assert.NilError(t, err)
				assert.Assert(t, slices.Equal(a, b), "%s differs", name)
			}
			assert.DeepEqual(t, contents(t, store), contents(t, direct))
		})
	}
}

// contents are the names in a store.
func contents(t *testing.T, store *os.Root) (names []string) {
	t.Helper()
	dir, err := store.Open(".")
	assert.NilError(t, err)
	defer dir.Close()
	names, err = dir.Readdirnames(-1)
	assert.NilError(t, err)
	slices.Sort(names)
	return names
}

// table is a tree of one file of n MiB that was copied ahead, and of which some
// pages were written since.
func table(t *testing.T, n int, pages ...int64) (*series, *copyengine.Base) {
	s := newSeries(t)
	s.write("table", n<<20)
	base := s.ahead("ahead", nil, time.Time{})
	s.pages(pages...)
	return s, base
}

func (s *series) pages(pages ...int64) {
	f, err := os.OpenFile(s.path("table"), os.O_WRONLY, 0)
	assert.NilError(s, err)
	page := make([]byte, blockSize)
	for _, at := range pages {
		s.rng.Read(page)
		_, err := f.WriteAt(page, at*blockSize)
		assert.NilError(s, err)
	}
	assert.NilError(s, f.Close())
}

// However much is captured, memory does not grow with it, nor with the notes.
func TestACaptureTakesNoMemoryForWhatItKeeps(t *testing.T) {
	const most = 24 << 20 // the jobs of two workers, and what they decode with
	s, base := table(t, 48)
	var pages []int64
	for at := int64(0); at < 48*blockCount; at++ {
		if at/blockCount%2 == 0 || at%3 == 0 { // segments that change whole, and in part
			pages = append(pages, at)
		}
	}
	s.pages(pages...)
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	peak := before
	note := func(int64, int64) { peak = max(peak, inUse()) }
	store := s.folder("snapshot")
	captured, err := New().(copyengine.Incremental).Capture(context.Background(), base, time.Time{}, openDir(t, s.source()), store, 0,
		func(string, string) {}, note)
	assert.NilError(t, err)
	note(0, 0)
	done := make(chan error)
	go func() {
		_, err := captured.Finish(context.Background())
		done <- err
	}()
	for ended := false; !ended; {
		select {
		case err = <-done:
			ended = true
		default:
			note(0, 0)
		}
	}
	assert.NilError(t, err)
	assert.Assert(t, peak-before < most, "%d MiB", (peak-before)>>20)
}

// What is kept until it is stored follows what has changed, in blocks, and is
// in a file without a name once it is more than a little.
func TestOnlyBlocksThatChangedAreCaptured(t *testing.T) {
	for _, c := range []struct {
		pages []int64
		most  int
	}{{nil, 1 << 10}, {[]int64{3, 128, 129, 700}, 4*blockSize + 2<<10}} {
		s, base := table(t, 8, c.pages...)
		store := s.folder("snapshot")
		captured, _, _ := s.capture(store, base, time.Time{})
		kept := captured.(*capturedTree).spool
		assert.Assert(t, kept.f == nil && len(kept.buf) < c.most, "%d", len(kept.buf))
		captured.Close()
	}
	s, base := table(t, 8)
	var all []int64
	for i := range int64(8 << 20 / blockSize) {
		all = append(all, i)
	}
	s.pages(all...)
	store := s.folder("snapshot")
	captured, _, _ := s.capture(store, base, time.Time{})
	kept := captured.(*capturedTree).spool
	assert.Assert(t, kept.f != nil && len(kept.buf) < spoolChunk)
	assert.DeepEqual(t, contents(t, store), []string{"0.1.pack"})
	want, err := conformance.Describe(s.source())
	assert.NilError(t, err)
	c, err := captured.Finish(context.Background())
	assert.NilError(t, err)
	s.holds(store, c, want)
}

// Each copy ahead is the tree of its time, and passes on what the one before has
// noted of what it did not read or store again.
func TestCopiesAheadFollowEachOther(t *testing.T) {
	s := newSeries(t)
	s.write("table", 8<<20)
	s.write("another", 8<<20)
	base := s.ahead("ahead", nil, ever)
	when := time.Unix(1e9, 0)
	for pass, pages := range [][]int64{{5, 300, 500, 700}, {}, {1, 2, 3}} {
		s.pages(pages...)
		assert.NilError(t, os.Chtimes(s.path("table"), when, when.Add(time.Duration(pass))))
		want, err := conformance.Describe(s.source())
		assert.NilError(t, err)
		base = s.ahead(fmt.Sprint("ahead", pass), base, ever)
		s.holds(base.Store, base.Content, want)
	}
	s.pages(9)
	assert.NilError(t, os.Chtimes(s.path("table"), when, when.Add(time.Hour)))
	assert.NilError(t, os.Chtimes(s.path("another"), when, when.Add(time.Hour)))
	captured, _, _ := s.capture(s.folder("snapshot"), base, ever)
	defer captured.Close()
	notes, err := os.ReadFile(filepath.Join(s.dir, "ahead2", "0.blocks"))
	assert.NilError(t, err)
	for at := 0; at < 16*noteSize; at += noteSize {
		assert.Assert(t, [32]byte(notes[at:]) != [32]byte{}, "no note of segment %d", at/noteSize)
	}
	kept := captured.(*capturedTree).spool
	assert.Assert(t, kept.f == nil && len(kept.buf) < 2*blockSize, "%d", len(kept.buf))
}

// Of a copy ahead of which less than half is in use nothing is taken over, so
// that what nobody needs is let go; but nothing of it is read again, either.
func TestWhatLiesInALittleUsedCopyAheadIsNotReadAgain(t *testing.T) {
	for _, settled := range []time.Time{ever, {}} {
		s := newSeries(t)
		s.write("table", 10<<20)
		s.write("idle", 1<<20)
		base := s.ahead("ahead", nil, settled)
		var most []int64
		for segment := range int64(8) {
			most = append(most, segment*blockCount+segment)
		}
		s.pages(most...)
		base = s.ahead("again", base, settled)
		s.pages(0, 9*blockCount+5)
		want, err := conformance.Describe(s.source())
		assert.NilError(t, err)
		store, direct := s.folder("snapshot"), s.folder("direct")
		captured, _, _ := s.capture(store, base, settled)
		kept := captured.(*capturedTree).spool
		assert.Assert(t, kept.f == nil && len(kept.buf) < 3*blockSize, "%d", len(kept.buf))
		other, err := New().(copyengine.Incremental).SaveSince(context.Background(), base, settled, openDir(t, s.source()), direct, 0, func(string, string) {}, nobody)
		assert.NilError(t, err)
		assert.NilError(t, os.RemoveAll(s.source()))
		assert.NilError(t, os.RemoveAll(filepath.Join(s.dir, "ahead")))
		assert.NilError(t, os.RemoveAll(filepath.Join(s.dir, "again")))
		c, err := captured.Finish(context.Background())
		assert.NilError(t, err)
		assert.DeepEqual(t, c, other)
		assert.DeepEqual(t, contents(t, store), []string{"0.1.pack", "0.pack"})
		s.holds(store, c, want)
	}
}

// Notes are believed only about the very content that they were taken of:
// whatever is in their file, the snapshot is right.
func TestNotesThatAreDamagedOrMissingAreNotNeeded(t *testing.T) {
	s, base := table(t, 8, 1, 200, 900)
	want, err := conformance.Describe(s.source())
	assert.NilError(t, err)
	path := filepath.Join(s.dir, "ahead", "0.blocks")
	whole, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, len(whole), 8*noteSize)
	flipped, turned := slices.Clone(whole), slices.Clone(whole)
	for i := range flipped {
		flipped[i] ^= 1
	}
	slices.Reverse(turned)
	sums := slices.Clone(whole) // of the right contents, with other blocks
	for at := 0; at < len(sums); at += noteSize {
		copy(sums[at+32:at+noteSize], make([]byte, noteSize))
	}
	exchanged := append(slices.Clone(whole[noteSize:2*noteSize]), whole[:noteSize]...)
	// Those of what the table is now, which is not what was copied.
	s.ahead("later", nil, time.Time{})
	later, err := os.ReadFile(filepath.Join(s.dir, "later", "0.blocks"))
	assert.NilError(t, err)
	for i, notes := range [][]byte{flipped, turned, sums, exchanged, later, whole[:3*noteSize+100], {}, nil} {
		assert.NilError(t, os.Remove(path))
		if notes != nil {
			assert.NilError(t, os.WriteFile(path, notes, 0o600))
		}
		store := s.folder(fmt.Sprint("snapshot", i))
		captured, _, _ := s.capture(store, base, time.Time{})
		c, err := captured.Finish(context.Background())
		assert.NilError(t, err)
		s.holds(store, c, want)
		if notes == nil {
			assert.NilError(t, os.WriteFile(path, whole, 0o600))
		}
	}
}

// A segment that cannot be made since the frame under its blocks is damaged is
// an error: the tree has gone on, and cannot be asked again.
func TestDamageUnderCapturedBlocksIsFound(t *testing.T) {
	s, base := table(t, 2, 1)
	store := s.folder("snapshot")
	captured, _, _ := s.capture(store, base, time.Time{})
	at := filepath.Join(s.dir, "snapshot", "0.1.pack")
	f, err := os.OpenFile(at, os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteAt([]byte("damage"), 1000)
	assert.NilError(t, err)
	assert.NilError(t, f.Close())
	_, err = captured.Finish(context.Background())
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.ErrorContains(t, err, "the frame at")
}

// What was captured and is read back otherwise is not stored.
func TestDamageOfWhatWasCapturedIsFound(t *testing.T) {
	s := newSeries(t)
	s.write("file", 3<<20)
	store := s.folder("snapshot")
	captured, _, _ := s.capture(store, nil, time.Time{})
	_, err := captured.(*capturedTree).spool.f.WriteAt([]byte("damage"), 300<<10)
	assert.NilError(t, err)
	_, err = captured.Finish(context.Background())
	assert.ErrorContains(t, err, "checksum")
}

// A disk that has no room for what is captured, or for storing it, is an error
// of the one or the other.
func TestAFullDiskEndsACapture(t *testing.T) {
	s := newSeries(t)
	s.write("file", 3<<20)
	for name, size := range map[string]string{"capture": "size=1m", "finish": "size=5m"} {
		store := filepath.Join(t.TempDir(), "store")
		assert.NilError(t, os.Mkdir(store, 0o700))
		if err := unix.Mount("tmpfs", store, "tmpfs", 0, size); err != nil {
			t.Skipf("mount a small disk: %v", err)
		}
		t.Cleanup(func() { assert.Check(t, unix.Unmount(store, unix.MNT_DETACH) == nil) })
		c, err := New().(copyengine.Incremental).Capture(context.Background(), nil, time.Time{}, openDir(t, s.source()), openDir(t, store), 0,
			func(string, string) {}, nobody)
		if name == "finish" {
			assert.NilError(t, err)
			_, err = c.Finish(context.Background())
		}
		assert.ErrorIs(t, err, syscall.ENOSPC, name)
	}
}
