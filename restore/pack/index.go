package pack

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// kind is what a step through an index came to.
type kind int

const (
	atFrame   kind = iota // frame: content that follows lies in it
	atEntry               // entry, and for hasFrame its place
	atSegment             // parts of the entry, and their place
)

// index goes through an index. What it gives keeps to the rules of tree.Entry,
// a directory comes before what is in it, and every path is there once.
type index struct {
	s *stored
	d decoding

	frames  [window]frame
	count   uint64 // of frames so far
	covered int64  // bytes of the file that frames so far, and the index, take
	end     int64  // of the last frame

	entry  *tree.Entry
	flags  byte
	parts  []tree.Extent // of the segment
	at     uint64        // number of the frame with the content
	offset int64         // of a small file's content in its frame
	mark   mark          // for hasMark
	todo   segments      // of the large file that is under way

	segments int64 // so far

	dirs    []string // names of the directories that are open, with the last name in each
	lasts   []string
	dir     string
	before  owner
	seconds int64
	sources []string // paths of the files with several names
	files   int64
	bytes   int64
}

// index begins to go through the index of a stored file.
func (s *stored) index() *index {
	x := &index{s: s, covered: int64(len(head)), end: int64(len(head))}
	x.d.r = bufio.NewReaderSize(&indexFrames{s: s, left: s.t.index}, 64<<10)
	return x
}

// indexFrames reads the frames of an index one after the other.
type indexFrames struct {
	s    *stored
	left []frame
	b    buffers
	out  []byte
}

func (r *indexFrames) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if len(r.left) == 0 {
			return 0, io.EOF
		}
		if err := r.s.within(r.left[0]); err != nil {
			return 0, err
		}
		var err error
		if r.out, err = r.b.read(r.s.files[0], r.left[0]); err != nil {
			return 0, err
		}
		r.left = r.left[1:]
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// within refuses a frame that does not lie in the file.
func (s *stored) within(f frame) error {
	if f.file >= len(s.files) {
		return corrupt("%s: a frame in the file %d of %d", s.c.File, f.file, len(s.files))
	}
	size := s.size
	if f.file > 0 {
		size = s.t.others[f.file-1].size
	}
	if f.offset < int64(len(head)) || f.stored > size-f.offset {
		return corrupt("%s: a frame at %d of %d bytes lies outside of it", s.c.File, f.offset, f.stored)
	}
	return nil
}

// next goes to the next frame, entry or segment; at the end it holds what came
// against what was stored, and returns io.EOF.
func (x *index) next() (kind, error) {
	k, err := x.step()
	if x.d.err != nil {
		err = x.d.err
	}
	if err == nil || err == io.EOF || fault.Is(err, fault.Corrupt) {
		return k, err
	}
	if x.d.err == nil || !isDamage(err) {
		return k, fmt.Errorf("read pack %s: %w", x.s.c.File, err)
	}
	if x.entry != nil {
		return k, corrupt("%s: the index, at or after %.200q: %w", x.s.c.File, x.entry.Path, err)
	}
	return k, corrupt("%s: the index: %w", x.s.c.File, err)
}

func (x *index) step() (kind, error) {
	for {
		tag := x.d.byte()
		switch tag {
		case tagFrame:
			f := x.d.frame(maxOthers)
			if x.d.err != nil {
				return 0, x.d.err
			}
			x.frames[x.count%window] = f
			x.count++
			if f.file == 0 && f.offset >= x.end {
				x.covered, x.end = x.covered+f.stored, f.offset+f.stored
			}
			return atFrame, x.s.within(f)
		case tagSegment:
			return atSegment, x.segment()
		}
		if x.d.err == nil && len(x.todo.left) > 0 {
			x.d.fail("segments of the file are missing")
		}
		switch {
		case x.d.err != nil:
			return 0, x.d.err
		case tag == tagEntry:
			x.readEntry()
			return atEntry, x.d.err
		case tag == tagEnd:
			return 0, x.finish()
		case tag == tagUp:
			x.up()
		default:
			x.d.fail("a record of kind %d", tag)
		}
	}
}

// refer reads which frame is meant.
func (x *index) refer() {
	back := x.d.number(window - 1)
	if back >= x.count {
		x.d.fail("a frame that is not there")
		return
	}
	x.at = x.count - 1 - back
}

// frame gives the frame with a number that was referred to just now.
func (x *index) frame(number uint64) frame { return x.frames[number%window] }

func (x *index) segment() error {
	parts, n, ok := x.todo.next()
	if !ok {
		x.d.fail("a segment of no file")
		return x.d.err
	}
	x.parts = parts
	x.segments++
	if x.refer(); x.d.err == nil && x.frame(x.at).raw != n {
		x.d.fail("a segment of %d bytes in a frame of %d", n, x.frame(x.at).raw)
	}
	return x.d.err
}

func (x *index) up() {
	n := x.d.number(1 << 20)
	if n == 0 || n >= uint64(len(x.dirs)) {
		x.d.fail("more directories end than began")
		return
	}
	keep := len(x.dirs) - int(n)
	x.dirs, x.lasts = x.dirs[:keep], x.lasts[:keep]
	x.dir = strings.Join(x.dirs[1:], "/")
}

// readEntry reads an entry into x.entry.
func (x *index) readEntry() {
	d := &x.d
	e := &tree.Entry{Type: tree.Type(d.byte())}
	x.flags = d.byte()
	if x.flags >= knownFlags || x.flags&hasFrame != 0 && x.flags&hasParts != 0 {
		d.fail("unknown flags %x", x.flags)
	}
	x.place(e, d.text(maxName))
	if x.flags&hasOwner != 0 {
		x.before = owner{uint32(d.number(0o7777)), uint32(d.number(1<<32 - 2)), uint32(d.number(1<<32 - 2))}
	}
	e.Mode, e.UID, e.GID = x.before.mode, x.before.uid, x.before.gid
	x.seconds += d.signed()
	e.ModTime = time.Unix(x.seconds, int64(d.number(999_999_999)))
	if x.flags&hasXattrs != 0 {
		e.Xattrs = d.xattrs()
	}
	x.content(e)
	if d.err != nil {
		return
	}
	x.entry, x.parts = e, nil
	if e.Path != "." {
		x.files++
	}
	x.bytes += e.Stored()
	if x.flags&hasNames != 0 {
		x.sources = append(x.sources, e.Path)
	}
}

// place gives an entry its path, from its name and the directory that is open.
func (x *index) place(e *tree.Entry, name string) {
	if len(x.dirs) == 0 { // the top
		if name != "" || e.Type != tree.Directory {
			x.d.fail("the first entry is not the top")
		}
		e.Path = "."
		x.dirs, x.lasts = []string{"."}, []string{""}
		return
	}
	last := &x.lasts[len(x.lasts)-1]
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		x.d.fail("the name %.300q", name)
	case name <= *last:
		x.d.fail("the name %.300q does not come after %.300q", name, *last)
	}
	*last = name
	if e.Path = name; x.dir != "" {
		e.Path = x.dir + "/" + name
	}
	if e.Type == tree.Directory {
		x.dirs, x.lasts = append(x.dirs, name), append(x.lasts, "")
		x.dir = e.Path
	}
}

// content reads what an entry has by its type.
func (x *index) content(e *tree.Entry) {
	d := &x.d
	if e.Type != tree.File && x.flags&(hasHoles|hasFrame|hasParts|hasMark) != 0 {
		d.fail("content, but not a file")
	}
	if (e.Type == tree.Directory || e.Type == tree.HardLink) && x.flags&hasNames != 0 {
		d.fail("an entry that cannot have several names")
	}
	switch e.Type {
	case tree.Directory, tree.Fifo:
	case tree.File:
		x.file(e)
	case tree.Symlink:
		if e.Link = d.text(maxTarget); e.Link == "" || strings.ContainsRune(e.Link, 0) {
			d.fail("a symbolic link with a bad target")
		}
	case tree.HardLink:
		n := d.number(1<<63 - 1)
		if n >= uint64(len(x.sources)) {
			d.fail("a hard link to what is not there")
			return
		}
		e.Link = x.sources[n]
	case tree.CharDevice, tree.BlockDevice:
		e.Major, e.Minor = uint32(d.number(1<<12-1)), uint32(d.number(1<<20-1)) // as the kernel has them
	default:
		d.fail("unknown type %q", byte(e.Type))
	}
}

func (x *index) file(e *tree.Entry) {
	e.Size = x.d.size()
	if x.flags&hasHoles != 0 {
		e.Sparse = true
		e.Data = x.d.holes(e.Size)
	}
	n := e.Stored()
	switch {
	case x.flags&hasFrame != 0:
		x.refer()
		x.offset = x.d.size()
		if x.d.err == nil && (n == 0 || n > x.frame(x.at).raw || x.offset > x.frame(x.at).raw-n) {
			x.d.fail("content outside of its frame")
		}
	case x.flags&hasParts != 0:
		if n == 0 {
			x.d.fail("a large file without content")
		}
		x.todo = segmentsOf(e)
	case n > 0:
		x.d.fail("a file without its content")
	}
	if x.flags&hasMark != 0 {
		x.mark.inode = x.d.number(1<<64 - 1)
		seconds := e.ModTime.Unix() + x.d.signed()
		x.mark.changed = time.Unix(seconds, int64(x.d.number(999_999_999)))
	}
}

// finish holds the whole index against the trailer.
func (x *index) finish() error {
	if _, err := x.d.r.ReadByte(); err != io.EOF {
		if err != nil {
			return err
		}
		x.d.fail("something behind its end")
		return x.d.err
	}
	for _, f := range x.s.t.index {
		x.covered += f.stored
	}
	switch {
	case len(x.dirs) == 0:
		x.d.fail("it has no top")
	case x.files != x.s.c.Files || x.bytes != x.s.c.Bytes:
		x.d.fail("it has %d files of %d bytes, %d of %d were stored", x.files, x.bytes, x.s.c.Files, x.s.c.Bytes)
	case x.covered != x.s.size:
		x.d.fail("it describes %d bytes of %d", x.covered, x.s.size)
	default:
		return io.EOF
	}
	return x.d.err
}

// isDamage tells an error of what is stored from one of the system.
func isDamage(err error) bool {
	var errno syscall.Errno
	return !errors.As(err, &errno)
}

// latest gives the frame that next came to.
func (x *index) latest() frame { return x.frame(x.count - 1) }
