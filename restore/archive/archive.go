// Package archive is the codec of tar streams and the copy engine "archive",
// which keeps a volume's tree as one zstd-compressed tar file.
//
// Algorithm: a Reader decompresses (plain, gzip or zstd, told by the first
// bytes), takes the stream apart entry by entry and hands an entry out only
// when every rule for input from elsewhere holds; a Writer writes what GNU tar
// reads: POSIX (pax) headers, SCHILY.xattr records, GNU sparse 1.0. Save walks
// a tree by directory descriptors in sorted order; Load makes each entry
// relative to the descriptor of its directory, following no link, and gives
// directories their attributes last, deepest first.
//
// The standard library's archive/tar neither writes sparse files nor tells
// where the holes of one that it reads are, so the format is handled here; the
// tests hold both sides against it and against GNU tar.
//
// A crash leaves a torn <index>.tar.zst or a part of a tree, under names that
// nobody reads before the caller made the whole visible.
package archive

import (
	"time"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Type is what an entry is; the values are the tar type flags.
type Type byte

// The types that are read and written. Everything else is refused.
const (
	File        Type = '0'
	HardLink    Type = '1'
	Symlink     Type = '2'
	CharDevice  Type = '3'
	BlockDevice Type = '4'
	Directory   Type = '5'
	Fifo        Type = '6'
)

// Entry is one entry of an archive.
type Entry struct {
	// Path is clean and relative: no leading or trailing slash, no ".", ".."
	// or empty element; the top directory itself is ".". Any byte but NUL and
	// the slash may be in a name.
	Path string
	Type Type
	// Mode is the permission bits with setuid, setgid and sticky: 0 to 07777.
	Mode     uint32
	UID, GID uint32
	// ModTime is exact to the nanosecond and may lie before 1970.
	ModTime time.Time
	// Link is a symbolic link's target, verbatim, or the clean Path of the
	// earlier entry that a hard link is another name of.
	Link string
	// Xattrs are the extended attributes, ACLs ("system.posix_acl_access",
	// "system.posix_acl_default") and capabilities ("security.capability")
	// among them, values in the kernel's form.
	Xattrs []Xattr
	// Major and Minor are a device's numbers.
	Major, Minor uint32
	// Size is a file's size in bytes, holes included; 0 for all other types.
	Size int64
	// Data are the parts of a sparse file that hold data, ascending, apart and
	// not empty; everything else reads as zeros. It counts only when Sparse.
	Data   []Extent
	Sparse bool
}

// Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// Extent is a part of a file, in bytes.
type Extent struct{ Offset, Length int64 }

// Stored is the length of the content in the stream, in bytes: Size without
// the holes. It is what Read yields and Write takes.
func (e *Entry) Stored() (n int64) {
	if !e.Sparse {
		return e.Size
	}
	for _, x := range e.Data {
		n += x.Length
	}
	return n
}

// Limits bound what a Reader accepts, against archives that are small to send
// and large to unpack. A zero field means the default.
type Limits struct {
	Entries int64 // entries and the directories they imply; default 16 Mi
	Bytes   int64 // stored content of all files; default 64 TiB
	Size    int64 // size of one file, holes included; default 16 TiB
	Header  int64 // bytes of extended headers of one entry; default 8 MiB
	Depth   int   // elements of a path; default 4096
}

// The file systems' own bounds, which no honest entry exceeds.
const (
	maxName   = 255     // bytes in a name (NAME_MAX)
	maxTarget = 4095    // bytes in a symbolic link (PATH_MAX less the NUL)
	maxSparse = 1 << 20 // extents of one sparse file
)

func (l Limits) withDefaults() Limits {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set(&l.Entries, 16<<20)
	set(&l.Bytes, 64<<40)
	set(&l.Size, 16<<40)
	set(&l.Header, 8<<20)
	if l.Depth == 0 {
		l.Depth = 4096
	}
	return l
}

// corrupt makes the fault that every refusal of a Reader is.
func corrupt(format string, args ...any) error {
	return fault.New(fault.Corrupt, "read archive: "+format, args...)
}
