// Package pack is the copy engine "pack": a volume's tree as a row of
// independent zstd frames and an index, in one file, <index>.pack.
//
// Algorithm: a walk of the tree fills frames of at most 1 MiB: one holds the
// whole contents of small files, or one segment of a large file, cut at
// multiples of 1 MiB of its offset. Workers sum (sha256) and compress frames
// side by side; they are written in the walk's order. The index, with
// everything about every entry and the place and sum of each frame, is a stream
// of records in the same order, in frames of its own. The trailer at the file's
// end has the sums of those, and the snapshot has the trailer's: all bytes hang
// from one checksum, and each is checked before it is used. Reading goes
// through the index once and hands the frames to workers. No pass holds more
// than a few frames, whatever the size of the tree; what grows is one line for
// each directory, and for each file with several names.
//
// A snapshot since an earlier one of the same volume goes through the earlier
// index in step with the walk, and refers to its frames where a file has not
// changed (size, time, ctime, inode) or a segment has the same sum. The files
// with these frames get names in the new snapshot, by hard links, before
// anything refers to them: so each is whole by itself, and a file is freed with
// the last snapshot that has a name for it.
//
// While a workload stands still for it, a tree is only captured: what the snapshot
// needs of it is read and put aside, and summed, compressed and written when the
// workload runs again. Of a large file that was copied ahead, notes tell which
// blocks (8 KiB) have changed, by hashes that were taken of what was copied: only
// those are put aside, and later laid over the content of the frame that the copy
// ahead has stored. The result is the same file, byte for byte.
//
// An index names entries by their directory and one element, ascending, so that
// it cannot name the same path twice or anything outside of the tree.
//
// Small files that the kernel does not have in memory are opened and read many
// at a time (tree.Fetcher), or announced to it (POSIX_FADV_WILLNEED) well before
// they are read: a disk is faster with a hundred of them to look for (measured).
//
// A crash leaves a torn <index>.pack, <index>.blocks (notes) or a part of a tree,
// under names that nobody reads before the caller made the whole visible. What was
// captured is in memory and in a file without a name, and gone.
package pack

import (
	"fmt"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Name is the engine's name in a snapshot.
const Name = "pack"

// FileName is the name under which volume number index is stored.
func FileName(index int) string { return fmt.Sprintf("%d.pack", index) }

const (
	// frameSize is the most content of a frame, and the size of a segment.
	frameSize = 1 << 20
	// small is the most content of a file that shares a frame with others.
	small = 256 << 10
	// indexFrame is the content of a frame of the index, but for the last.
	indexFrame = 256 << 10
	// batch is the most entries that are described after one frame, so that
	// their descriptions take little memory.
	batch = 4096
	// writeBehind is how much is written before the disk is asked to begin.
	writeBehind = 8 << 20
	// window is how many frames back an entry can refer to.
	window = 64
)

// corrupt makes the fault of a stored file that is not what was stored.
func corrupt(format string, args ...any) error {
	return fault.New(fault.Corrupt, "read pack: "+format, args...)
}
