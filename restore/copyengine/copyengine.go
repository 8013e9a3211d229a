// Package copyengine is the interface between the restore domain and the ways
// to copy a volume's tree into the store and back.
//
// An engine keeps everything that cp -a keeps, and the tree's root itself:
// owner, mode, nanosecond times, symbolic and hard links, extended attributes
// and capabilities, ACLs, devices, fifos, sparseness. The conformance suite in
// copyengine/conformance says so in tests; every engine passes it.
//
// An engine syncs nothing and decides nothing: the caller syncs a stored
// snapshot or a staged tree as a whole before it is made visible, and deletes
// both when they are not wanted. A crash leaves a partial file or tree under a
// name that nobody reads.
package copyengine

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/snaprestore/snaprestore/restore/tree"
)

// Content describes what was stored of one volume.
type Content struct {
	File   string // name in the store directory
	SHA256 string // of File, hexadecimal
	Bytes  int64  // of the files' contents
	Files  int64  // entries of every kind, without the root
	Stored int64  // size of File in bytes
	// Uncounted says that nobody went through the tree to count: the three
	// numbers are 0.
	Uncounted bool
}

// Progress is called with what was done since the last call; it must return
// quickly and is called from one goroutine at a time for one volume.
type Progress func(bytes, files int64)

// Base is an earlier snapshot of a volume, of the same engine.
type Base struct {
	Store   *os.Root
	Content Content
}

// Incremental is an engine that takes over what has not changed since an
// earlier snapshot.
type Incremental interface {
	Engine

	// SaveSince is Save with an earlier snapshot, or nil. What is stored is
	// complete all the same: the earlier one may be removed at any time from
	// the call on. What is taken over is not read, and the two share it: damage
	// of it is found by Verify of either. Settled is when the tree's file system began to be
	// synced as a whole, before the tree is read and after which it ended: only
	// then every later change of a file shows in its times, also one through a
	// mapping. Zero means that it was not; then a later snapshot takes nothing
	// over from this one.
	SaveSince(ctx context.Context, base *Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p Progress) (Content, error)

	// Ahead is SaveSince of a tree that this process is about to Capture. It may
	// leave more in store, beside what it has stored, that helps to tell what
	// has changed since; a Base made of the two passes it on.
	Ahead(ctx context.Context, base *Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p Progress) (Content, error)

	// Capture is the part of SaveSince for which a workload has to stand still:
	// when it returns, all that the snapshot needs of the tree was read, and
	// nothing that happens to the tree from then on is in the snapshot. How long
	// it takes follows what has changed since base, which an Ahead has stored.
	// Progress is told as by SaveSince. What is captured is not in memory
	// beyond a bound, but in store, which stays open until Finish or Close.
	Capture(ctx context.Context, base *Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p Progress) (Captured, error)
}

// Captured is a tree that was read and is not yet stored.
type Captured interface {
	// Finish stores it into the store that it was captured for, once, and closes
	// it. The content is what SaveSince would have stored at the moment of
	// Capture. Where content that was to be taken over is damaged the error is
	// fault.Corrupt: the tree has changed since, and cannot be asked again.
	Finish(ctx context.Context) (Content, error)

	// Close lets it go; after Finish it does nothing.
	Close()
}

// Whole is an engine that takes a tree as a whole, in a time that does not
// depend on its size: what was written to it is written to the disk first, which
// is the better done before the workload is paused. Nobody sees what is in it,
// so it counts nothing, and sockets are in it like everything else; Load and
// Entries leave them out.
type Whole interface {
	Engine

	// LoadAs is Load into the entry name of dir, which must be missing: it is
	// there with everything in it, or not at all. An error that is
	// errors.ErrUnsupported says that only Load can bring the tree to this
	// place.
	LoadAs(ctx context.Context, store *os.Root, c Content, dir *os.Root, name string) error

	// CopyAs is LoadAs from a tree that nobody stored, such as a safety
	// snapshot names, where Able says that the tree can be stored in dir.
	CopyAs(ctx context.Context, tree, dir *os.Root, name string) error
}

// Engine copies trees. Directories are given as os.Root, so that no link in a
// tree or name in a store leads out of it. Methods return ctx's error when it
// ends, and may then leave partial files.
type Engine interface {
	// Name is recorded in the snapshot: "archive".
	Name() string

	// Able tells whether the tree of a volume can be stored in store: nil, or
	// why not. It looks at the file systems of these very directories and
	// leaves nothing in them.
	Able(tree, store *os.Root) error

	// Save stores the tree of volume number index into store, under a file
	// name that it chooses and returns. Sockets are skipped and said through
	// skipped, since they mean nothing without their process (see Whole);
	// anything else that cannot be stored is an error. Files that change, grow, shrink or
	// vanish while they are read are no error (a live copy): what was stored
	// is consistent in itself.
	Save(ctx context.Context, tree, store *os.Root, index int, skipped func(path, reason string), p Progress) (Content, error)

	// Verify reads the stored content whole and checks every checksum and
	// every entry, without writing anything. An error of kind fault.Corrupt
	// says what is wrong where.
	Verify(ctx context.Context, store *os.Root, c Content, p Progress) error

	// Load writes the stored content into tree, an existing empty directory,
	// and gives that directory the owner, mode, times and attributes of the
	// stored root. Load verifies while it reads: damage is fault.Corrupt.
	Load(ctx context.Context, store *os.Root, c Content, tree *os.Root, p Progress) error

	// Entries gives every entry of the stored content in the order of
	// tree.Walk, the root first, with what is a file's Stored bytes; a visit
	// may leave it unread, and may change its entry. It verifies as Load does,
	// but what was visited before the end came without an error may be
	// damaged. An error of visit ends it and is returned as it is.
	Entries(ctx context.Context, store *os.Root, c Content, visit func(e *tree.Entry, content io.Reader) error) error
}
