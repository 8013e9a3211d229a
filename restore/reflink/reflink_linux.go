// Package reflink is the copy engine "reflink": it keeps a volume as a tree of
// files that share their blocks with the volume's, on file systems that can
// (XFS, btrfs), so that a snapshot takes no space and hardly any time.
//
// Algorithm: Save walks the volume and clones each file (FICLONE) into the
// directory <index>.tree of the store; all else is made anew. A sha256 is built
// over the description of every entry: path, type, mode, owner, time, size,
// link, attributes, device. Verify and Load build it again from the stored tree.
// The contents have no checksum of their own, since to read them would cost
// what the clone saves: btrfs checks them whenever they are read, which Verify
// does; XFS does not check data.
//
// A crash leaves a part of <index>.tree, under a name that nobody reads.
package reflink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"syscall"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// Name is the engine's name in a snapshot.
const Name = "reflink"

type engine struct{}

// New returns the engine.
func New() copyengine.Engine { return engine{} }

func (engine) Name() string { return Name }

// Able clones a file without a name from the volume into the store.
func (engine) Able(volume, store *os.Root) error {
	err := tree.CanClone(volume, store)
	if errors.Is(err, errors.ErrUnsupported) {
		return &copyengine.Lack{What: "reflinks", Err: err}
	}
	return err
}

// ledger counts and sums what passes.
type ledger struct {
	sum   hash.Hash
	bytes int64
	files int64
}

// note takes an entry in. The map of holes is not part of it: a file system
// may store the same content in other pieces.
func (l *ledger) note(e *tree.Entry) {
	if e.Path != "." {
		l.files++
	}
	l.bytes += e.Stored()
	fmt.Fprintf(l.sum, "%q %c %o %d:%d %d.%09d %d %q %d:%d", e.Path, e.Type, e.Mode, e.UID, e.GID,
		e.ModTime.Unix(), e.ModTime.Nanosecond(), e.Size, e.Link, e.Major, e.Minor)
	for _, x := range e.Xattrs {
		fmt.Fprintf(l.sum, " %q=%q", x.Name, x.Value)
	}
	fmt.Fprintln(l.sum)
}

// strange takes in what Save never stores, so that the sums differ.
func (l *ledger) strange(path, reason string) { fmt.Fprintf(l.sum, "%q %s\n", path, reason) }

// clone makes the tree from into to and notes every entry as it was made.
// Skipped nil means that there is nothing to skip in an undamaged tree.
func clone(ctx context.Context, from, to *os.Root, skipped func(path, reason string), p copyengine.Progress) (*ledger, error) {
	l := &ledger{sum: sha256.New()}
	if skipped == nil {
		skipped = l.strange
	}
	m, err := tree.NewMaker(to)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	err = tree.Walk(ctx, from, skipped, func(n *tree.Node) error {
		if err := m.Clone(n, each); err != nil {
			return err
		}
		l.note(&n.Entry)
		if n.Path != "." {
			p(0, 1)
		}
		return nil
	})
	if err == nil {
		err = m.Finish()
	}
	return l, err
}

// Save clones a tree into the store.
func (engine) Save(ctx context.Context, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	c := copyengine.Content{File: fmt.Sprintf("%d.tree", index)}
	if err := store.Mkdir(c.File, 0o700); err != nil {
		return c, fmt.Errorf("store tree: %w", err)
	}
	to, err := store.OpenRoot(c.File)
	if err != nil {
		return c, fmt.Errorf("store tree: %w", err)
	}
	defer to.Close()
	l, err := clone(ctx, root, to, skipped, p)
	if err != nil {
		return c, fmt.Errorf("store tree %s: %w", c.File, err)
	}
	c.SHA256 = hex.EncodeToString(l.sum.Sum(nil))
	c.Bytes, c.Files, c.Stored = l.bytes, l.files, l.bytes
	return c, nil
}

// Verify reads the stored tree whole.
func (engine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	root, err := c.OpenStored(store)
	if err != nil {
		return err
	}
	defer root.Close()
	l := &ledger{sum: sha256.New()}
	buf := make([]byte, 256<<10)
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	err = tree.Walk(ctx, root, l.strange, func(n *tree.Node) error {
		l.note(&n.Entry)
		if n.Type == tree.File {
			if err := n.Copy(io.Discard, buf, each); err != nil {
				return err
			}
		}
		if n.Path != "." {
			p(0, 1)
		}
		return nil
	})
	return settle(ctx, c, l, err)
}

// Load clones the stored tree into root.
func (engine) Load(ctx context.Context, store *os.Root, c copyengine.Content, root *os.Root, p copyengine.Progress) error {
	from, err := c.OpenStored(store)
	if err != nil {
		return err
	}
	defer from.Close()
	var l *ledger
	l, err = clone(ctx, from, root, nil, p)
	return settle(ctx, c, l, err)
}

// Entries gives the entries of the stored tree.
func (engine) Entries(ctx context.Context, store *os.Root, c copyengine.Content, visit func(e *tree.Entry, content io.Reader) error) error {
	root, err := c.OpenStored(store)
	if err != nil {
		return err
	}
	defer root.Close()
	l := &ledger{sum: sha256.New()}
	err = tree.Walk(ctx, root, l.strange, func(n *tree.Node) error {
		l.note(&n.Entry)
		e := n.Entry // which the walk still needs as it is
		return visit(&e, n.Content())
	})
	return settle(ctx, c, l, err)
}

// settle holds what was read against what was stored. EIO and EUCLEAN are how
// a file system says that its own checksum or structure is wrong.
func settle(ctx context.Context, c copyengine.Content, l *ledger, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN):
		return fault.New(fault.Corrupt, "read tree %s: %w", c.File, err)
	case err != nil:
		return fmt.Errorf("read tree %s: %w", c.File, err)
	}
	if sum := hex.EncodeToString(l.sum.Sum(nil)); sum != c.SHA256 {
		return fault.New(fault.Corrupt, "read tree %s: its description has sha256 %s, %s was stored", c.File, sum, c.SHA256)
	}
	if l.files != c.Files || l.bytes != c.Bytes {
		return fault.New(fault.Corrupt, "read tree %s: it has %d files of %d bytes, %d of %d were stored",
			c.File, l.files, l.bytes, c.Files, c.Bytes)
	}
	return nil
}
