package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// Name is the engine's name in a snapshot.
const Name = "archive"

type engine struct{}

// New returns the copy engine that keeps each volume as one <index>.tar.zst.
func New() copyengine.Engine { return engine{} }

func (engine) Name() string { return Name }

// Able says that every tree can be stored everywhere.
func (engine) Able(tree, store *os.Root) error { return nil }

// chunk is what is read and written at once, and the step of a file's
// progress, in bytes.
const chunk = 256 << 10

// Save stores a tree.
func (engine) Save(ctx context.Context, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	p = budget.Progress(ctx, p)
	out, err := Create(store, index)
	if err != nil {
		return copyengine.Content{}, err
	}
	if err := WriteTree(ctx, out, root, "", skipped, p); err != nil {
		out.Abort()
		return copyengine.Content{}, err
	}
	return out.Finish()
}

// EntryWriter takes entries and their content: a Writer, or an Output.
type EntryWriter interface {
	io.Writer
	WriteEntry(*Entry) error
}

// WriteTree writes a whole tree, top first, to an archive. With a prefix, a
// clean path, the top has that path and everything else lies below it.
func WriteTree(ctx context.Context, w EntryWriter, root *os.Root, prefix string, skipped func(path, reason string), p copyengine.Progress) error {
	buf := make([]byte, chunk)
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	return tree.Walk(ctx, root, skipped, func(n *tree.Node) error {
		e := n.Entry
		top := e.Path == "."
		if prefix != "" {
			e.Path = below(prefix, e.Path)
			if e.Type == HardLink {
				e.Link = below(prefix, e.Link)
			}
		}
		if err := w.WriteEntry(&e); err != nil {
			return err
		}
		if e.Type == File {
			if err := n.Copy(w, buf, each); err != nil {
				return err
			}
		}
		if !top {
			p(0, 1)
		}
		return nil
	})
}

func below(prefix, path string) string {
	if path == "." {
		return prefix
	}
	return prefix + "/" + path
}

// Verify reads a stored file whole.
func (engine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	in, err := Open(store, c)
	if err != nil {
		return err
	}
	defer in.Close()
	buf := make([]byte, chunk)
	for {
		e, err := in.next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for {
			n, err := in.Read(buf)
			p(int64(n), 0)
			if err == io.EOF {
				break
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
		}
		if e.Path != "." {
			p(0, 1)
		}
	}
}

// Entries gives the entries of a stored file.
func (engine) Entries(ctx context.Context, store *os.Root, c copyengine.Content, visit func(e *Entry, content io.Reader) error) error {
	in, err := Open(store, c)
	if err != nil {
		return err
	}
	defer in.Close()
	for {
		e, err := in.next(ctx)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = visit(e, in)
		}
		if err != nil {
			return err
		}
	}
}

// next is Next, unless ctx has ended.
func (in *Input) next(ctx context.Context) (*Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return in.Next()
}

// Load makes the tree of a stored file.
func (engine) Load(ctx context.Context, store *os.Root, c copyengine.Content, root *os.Root, p copyengine.Progress) error {
	p = budget.Progress(ctx, p)
	in, err := Open(store, c)
	if err != nil {
		return err
	}
	defer in.Close()
	err = load(ctx, in, root, p)
	if err != nil && ctx.Err() == nil {
		err = in.blame(err)
	}
	return err
}

func load(ctx context.Context, in *Input, root *os.Root, p copyengine.Progress) error {
	m, err := tree.NewMaker(root)
	if err != nil {
		return err
	}
	defer m.Close()
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	for {
		e, err := in.next(ctx)
		if err == io.EOF {
			return m.Finish()
		}
		if err != nil {
			return err
		}
		if err := m.Make(e, in, each); err != nil {
			return err
		}
		if e.Path != "." {
			p(0, 1)
		}
	}
}

// blame tells whether a failure to make an entry comes from a damaged file: a
// flipped bit can give a name that no file system takes before the checksum
// behind it was read. A full or failing disk is to blame itself.
func (in *Input) blame(err error) error {
	for _, disk := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, disk) {
			return fmt.Errorf("load archive %s: %w", in.want.File, err)
		}
	}
	if fault.Is(err, fault.Corrupt) {
		return err
	}
	in.Reader.Close()
	if damage := in.sumUp(); damage != nil {
		return damage
	}
	return fmt.Errorf("load archive %s: %w", in.want.File, err)
}
