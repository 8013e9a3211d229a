// Package archive is the codec of tar streams and the copy engine "archive",
// which keeps a volume's tree as one zstd-compressed tar file.
//
// Algorithm: a Reader decompresses (plain, gzip or zstd, told by the first
// bytes), takes the stream apart entry by entry and hands an entry out only
// when every rule for input from elsewhere holds; a Writer writes what GNU tar
// reads: POSIX (pax) headers, SCHILY.xattr records, GNU sparse 1.0. The engine
// writes what tree.Walk finds and has a tree.Maker make what a Reader returns;
// the file's sha256 is built in the same pass, both ways.
//
// The standard library's archive/tar neither writes sparse files nor tells
// where the holes of one that it reads are, so the format is handled here; the
// tests hold both sides against it and against GNU tar.
//
// A crash leaves a torn <index>.tar.zst or a part of a tree, under names that
// nobody reads before the caller made the whole visible.
package archive

import (
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// Type is what an entry of a tree is.
type Type = tree.Type

// Entry is an entry of a tree.
type Entry = tree.Entry

// Xattr is an extended attribute of one.
type Xattr = tree.Xattr

// Extent is a part of a sparse file that holds data.
type Extent = tree.Extent

// The types that are read and written. Everything else is refused.
const (
	File        = tree.File
	HardLink    = tree.HardLink
	Symlink     = tree.Symlink
	CharDevice  = tree.CharDevice
	BlockDevice = tree.BlockDevice
	Directory   = tree.Directory
	Fifo        = tree.Fifo
)

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
	maxName   = 255  // bytes in a name (NAME_MAX)
	maxTarget = 4095 // bytes in a symbolic link (PATH_MAX less the NUL)
	maxSparse = tree.MaxExtents
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
