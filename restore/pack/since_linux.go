package pack

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// slack is how much older than the beginning of a snapshot a change must be for
// a mark: file systems tell the time in ticks of several milliseconds, and what
// changed within the one in which it was read looks as if it had not.
const slack = 2 * time.Second

// earlier is the snapshot from which unchanged content is taken over. Its index
// is gone through in step with the walk, so it takes no memory.
//
// Loose are those of its files that are not taken over. A capture, which is to
// read as little as it can, reads the segments in them later, as they were
// stored, and stores them anew.
type earlier struct {
	s      *stored
	x      *index
	to     []int // by its files: a number, 0 for none
	linked int   // numbers up to this are those of the new trailer, above they are of loose files
	whole  bool  // all its files have a number
	found  bool  // x is at an entry
	ended  bool
	notes  *notes // of the blocks of its segments, or nil
}

// since links the files of an earlier snapshot, under names of their own, into
// the store of a new one: from then on it does not matter what becomes of the
// earlier. What cannot be read or linked is not taken over, and nil returned.
func since(base *copyengine.Base, store *os.Root, volume int, t *trailer) *earlier {
	s, err := open(base.Store, base.Content)
	if err != nil {
		return nil
	}
	b := &earlier{s: s, x: s.index(), to: make([]int, len(s.files)), notes: openNotes(base)}
	dir, err := store.Open(".")
	if err != nil {
		b.close()
		return nil
	}
	defer dir.Close()
	for _, i := range s.worth() {
		o := other{name: fmt.Sprintf("%d.%d.pack", volume, len(t.others)+1), size: s.c.Stored}
		if i > 0 {
			o.size = s.t.others[i-1].size
		}
		from := "/proc/self/fd/" + strconv.Itoa(int(s.files[i].Fd()))
		if err := unix.Linkat(unix.AT_FDCWD, from, int(dir.Fd()), o.name, unix.AT_SYMLINK_FOLLOW); err != nil {
			continue // removed meanwhile, or it has too many names: it is stored anew
		}
		t.others = append(t.others, o)
		b.to[i] = len(t.others)
	}
	b.linked = len(t.others)
	b.whole = b.to[0] > 0
	for i, o := range s.t.others {
		b.whole = b.whole && (o.name == "" || b.to[i+1] > 0)
	}
	return b
}

// loosen gives the files that are not taken over numbers, too.
func (b *earlier) loosen() {
	number := b.linked
	for i, f := range b.s.files {
		if f != nil && b.to[i] == 0 {
			number++
			b.to[i] = number
		}
	}
	b.whole = true
}

// loose reports whether a frame, as the new snapshot names it, lies in a loose
// file.
func (b *earlier) loose(f frame) bool { return f.file > b.linked }

// hand gives up the files of the numbers that are in want.
func (b *earlier) hand(want map[int]bool) map[int]*os.File {
	out := map[int]*os.File{}
	for i, number := range b.to {
		if want[number] {
			out[number], b.s.files[i] = b.s.files[i], nil
		}
	}
	return out
}

// worth lists the files to be taken over: not those of which less than half is
// still in use, so that what nobody needs is let go, and not too many.
func (s *stored) worth() []int {
	var all []int
	for i, o := range s.t.others {
		if o.name != "" && o.used >= o.size/2 {
			all = append(all, i+1)
		}
	}
	slices.SortStableFunc(all, func(a, b int) int { return cmp.Compare(s.t.others[b-1].used, s.t.others[a-1].used) })
	return append([]int{0}, all[:min(len(all), maxOthers-1)]...)
}

// drop removes the links that no frame needed.
func (t *trailer) drop(store *os.Root) error {
	for i := range t.others {
		o := &t.others[i]
		if o.used > 0 {
			continue
		}
		if err := store.Remove(o.name); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		*o = other{}
	}
	return nil
}

func (b *earlier) close() {
	b.notes.close()
	b.s.close()
}

// number tells which of all segments of its index the one is at which it is.
func (b *earlier) number() int64 { return b.x.segments - 1 }

// step goes to the next entry. Damage ends it: what follows is stored anew.
func (b *earlier) step() {
	for !b.ended {
		k, err := b.x.next()
		switch {
		case err != nil:
			b.ended = true
		case k == atEntry:
			b.found = true
			return
		}
	}
}

// find goes to the entry with a path, and reports whether there is one. Paths
// must come in the order of a walk.
func (b *earlier) find(path string) bool {
	for !b.ended && (!b.found || before(b.x.entry.Path, path)) {
		b.step()
	}
	return !b.ended && b.x.entry.Path == path
}

// before tells whether a walk comes to a before b.
func before(a, b string) bool {
	if a == "." || b == "." {
		return a == "." && b != "."
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		switch {
		case a[i] == b[i]:
		case a[i] == '/' || b[i] == '/':
			return a[i] == '/'
		default:
			return a[i] < b[i]
		}
	}
	return len(a) < len(b)
}

// same reports whether the entry that it is at describes a file that has not
// changed.
func (b *earlier) same(n *tree.Node) bool {
	e := b.x.entry
	return e.Type == tree.File && b.x.flags&hasMark != 0 && e.Size == n.Size && e.ModTime.Equal(n.ModTime) &&
		b.x.mark.inode == n.Inode && b.x.mark.changed.Equal(n.Changed)
}

// kept reports whether all content of the entry that it is at was taken over.
func (b *earlier) kept() bool {
	switch {
	case b.x.flags&hasFrame != 0:
		_, ok := b.moved(b.x.frame(b.x.at))
		return ok
	case b.x.flags&hasParts != 0:
		return b.whole
	}
	return true
}

// moved gives a frame of the earlier snapshot as the new one names it; false
// if its file was not taken over.
func (b *earlier) moved(f frame) (frame, bool) {
	f.file = b.to[f.file]
	return f, f.file > 0 && !b.loose(f)
}

// segment goes on to the segment of the entry at which it is that begins in
// the same place, and gives its frame, which may be loose, if that has n bytes.
func (b *earlier) segment(parts []tree.Extent, n int64) (frame, bool) {
	at := parts[0].Offset / frameSize
	for !b.ended && (len(b.x.parts) == 0 || b.x.parts[0].Offset/frameSize < at) {
		if len(b.x.todo.left) == 0 {
			return frame{}, false
		}
		if k, err := b.x.next(); err != nil && err != io.EOF {
			b.ended = true
		} else if k != atSegment {
			continue
		}
	}
	if b.ended || b.x.parts[0].Offset/frameSize != at {
		return frame{}, false
	}
	f := b.x.frame(b.x.at)
	if f.raw != n {
		return frame{}, false
	}
	f.file = b.to[f.file]
	return f, f.file > 0
}
