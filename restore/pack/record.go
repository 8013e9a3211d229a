package pack

import (
	"encoding/binary"
	"time"

	"github.com/snaprestore/snaprestore/restore/tree"
)

// The kinds of records of an index.
const (
	tagFrame   = 1 // the place of a frame that what follows refers to
	tagEntry   = 2
	tagSegment = 3 // of the large file before it
	tagUp      = 4 // some directories end
	tagEnd     = 5
)

// What an entry's record has.
const (
	hasOwner  = 1 << iota // mode and owner, where not those of the entry before it
	hasXattrs             // extended attributes
	hasHoles              // a map of the parts with data
	hasFrame              // its content lies whole in a frame
	hasParts              // its content follows in segments
	hasNames              // later entries may be hard links to it
	hasMark               // what tells whether the file has changed since
	knownFlags
)

// recorder writes the records of an index, in the order of a walk.
type recorder struct {
	dir     string            // that the last entry lies in, or is
	before  owner             // of the last entry
	seconds int64             // of its time
	sources map[string]uint64 // number of each file with several names
}

type owner struct{ mode, uid, gid uint32 }

func newRecorder() *recorder { return &recorder{dir: ".", sources: map[string]uint64{}} }

func appendFrame(b []byte, f *frame) []byte {
	b = binary.AppendUvarint(append(b, tagFrame), uint64(f.file))
	b = binary.AppendUvarint(b, uint64(f.offset))
	b = binary.AppendUvarint(b, uint64(f.stored))
	b = binary.AppendUvarint(b, uint64(f.raw))
	b = binary.LittleEndian.AppendUint32(b, f.crc)
	return append(b, f.sum[:]...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendSegment writes that a segment lies in the frame that is back frames
// before the last.
func appendSegment(b []byte, back uint64) []byte {
	return binary.AppendUvarint(append(b, tagSegment), back)
}

// content is where an entry's content lies.
type content struct {
	flag   byte   // hasFrame, hasParts or 0
	back   uint64 // for hasFrame
	offset int    // in the frame, for hasFrame
}

// mark tells whether a file is the one that it was: a number of its own and
// when it was last changed, beside its size and time.
type mark struct {
	inode   uint64
	changed time.Time
}

// entry writes an entry's record. Linked says that later ones may be hard
// links to it; m is nil where there is no mark.
func (r *recorder) entry(b []byte, e *tree.Entry, c content, linked bool, m *mark) []byte {
	b = r.enter(b, e)
	flags := c.flag
	now := owner{e.Mode, e.UID, e.GID}
	if now != r.before {
		flags |= hasOwner
	}
	if len(e.Xattrs) > 0 {
		flags |= hasXattrs
	}
	if e.Sparse {
		flags |= hasHoles
	}
	if linked {
		flags |= hasNames
		r.sources[e.Path] = uint64(len(r.sources))
	}
	if m != nil {
		flags |= hasMark
	}
	name := e.Path
	switch dir := dirOf(e.Path); {
	case e.Path == ".":
		name = ""
	case dir != ".":
		name = name[len(dir)+1:]
	}
	b = append(b, tagEntry, byte(e.Type), flags)
	b = appendString(b, name)
	if flags&hasOwner != 0 {
		b = binary.AppendUvarint(b, uint64(e.Mode))
		b = binary.AppendUvarint(b, uint64(e.UID))
		b = binary.AppendUvarint(b, uint64(e.GID))
	}
	b = binary.AppendVarint(b, e.ModTime.Unix()-r.seconds)
	b = binary.AppendUvarint(b, uint64(e.ModTime.Nanosecond()))
	r.before, r.seconds = now, e.ModTime.Unix()
	if len(e.Xattrs) > 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		for _, x := range e.Xattrs {
			b = appendString(appendString(b, x.Name), x.Value)
		}
	}
	switch e.Type {
	case tree.File:
		b = binary.AppendUvarint(b, uint64(e.Size))
		if e.Sparse {
			b = appendHoles(b, e.Data)
		}
		if c.flag == hasFrame {
			b = binary.AppendUvarint(b, c.back)
			b = binary.AppendUvarint(b, uint64(c.offset))
		}
		if m != nil {
			b = binary.AppendUvarint(b, m.inode)
			b = binary.AppendVarint(b, m.changed.Unix()-e.ModTime.Unix())
			b = binary.AppendUvarint(b, uint64(m.changed.Nanosecond()))
		}
	case tree.Symlink:
		b = appendString(b, e.Link)
	case tree.HardLink:
		b = binary.AppendUvarint(b, r.sources[e.Link])
	case tree.CharDevice, tree.BlockDevice:
		b = binary.AppendUvarint(b, uint64(e.Major))
		b = binary.AppendUvarint(b, uint64(e.Minor))
	}
	return b
}

// appendHoles writes a map: for each part the hole before it, and its length.
func appendHoles(b []byte, parts []tree.Extent) []byte {
	b = binary.AppendUvarint(b, uint64(len(parts)))
	at := int64(0)
	for _, x := range parts {
		b = binary.AppendUvarint(b, uint64(x.Offset-at))
		b = binary.AppendUvarint(b, uint64(x.Length))
		at = x.Offset + x.Length
	}
	return b
}

// enter leaves the directories that e does not lie in.
func (r *recorder) enter(b []byte, e *tree.Entry) []byte {
	up := uint64(0)
	for dir := dirOf(e.Path); r.dir != dir; up++ {
		r.dir = dirOf(r.dir)
	}
	if up > 0 {
		b = binary.AppendUvarint(append(b, tagUp), up)
	}
	if e.Type == tree.Directory {
		r.dir = e.Path
	}
	return b
}

// dirOf is the path of the directory that holds path; that of "." is ".".
func dirOf(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "."
}
