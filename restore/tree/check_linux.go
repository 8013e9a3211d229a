package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Difference says where a tree is not what it should be.
type Difference struct{ Path, What string }

func (d *Difference) Error() string { return fmt.Sprintf("%q %s", d.Path, d.What) }

// Checker holds a tree against entries, which may come in any order: those of
// which it was made. Files are read from the disk, as far as they were written
// to it.
type Checker struct {
	root *os.Root
	dirs dirs
	// known are the directories that are entries, or that one lies in.
	known map[string]bool
	// others counts entries of other types, links the hard links among them.
	others, links int64
	got, want     []byte
}

// NewChecker begins to look at the tree in root, in which nothing must change
// meanwhile.
func NewChecker(root *os.Root) (*Checker, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	return &Checker{
		root: root, dirs: dirs{path: ".", stack: []step{{h: hold(fd)}}}, known: map[string]bool{".": true},
		got: make([]byte, 256<<10), want: make([]byte, 256<<10),
	}, nil
}

// Close frees what the checker holds.
func (c *Checker) Close() { c.dirs.close() }

// Check looks for one entry; content is its Stored bytes. Each is called with
// the bytes compared since its last call; an error of it ends Check. What
// differs is a *Difference.
func (c *Checker) Check(e *Entry, content io.Reader, each func(bytes int64) error) error {
	if e.Type == Directory {
		c.know(e.Path)
	} else {
		c.others++
		c.know(parent(e.Path))
	}
	n, id, err := c.look(e.Path)
	if err != nil {
		return absent(e.Path, err)
	}
	if n.FD >= 0 {
		defer unix.Close(n.FD)
	}
	if e.Type == HardLink {
		c.links++
		first, err := c.identity(e.Link)
		if err != nil {
			return absent(e.Link, err)
		}
		if first != id {
			return &Difference{e.Path, fmt.Sprintf("is not the same file as %q", e.Link)}
		}
		return nil
	}
	if what := n.differs(e); what != "" {
		return &Difference{e.Path, what}
	}
	if e.Type != File {
		return nil
	}
	if err := n.findHoles(); err != nil {
		return err
	}
	// So that it is read from the disk. It is advice: a refusal leaves it in
	// memory.
	_ = unix.Fadvise(n.FD, 0, 0, unix.FADV_DONTNEED)
	return c.content(n, e, content, each)
}

// know notes a directory and those that it lies in.
func (c *Checker) know(path string) {
	for !c.known[path] {
		path = strings.Clone(path)
		c.known[path] = true
		path = parent(path)
	}
}

func absent(path string, err error) error {
	for _, why := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(err, why) {
			return &Difference{path, "is missing"}
		}
	}
	return err
}

// identity tells which file is at a path.
func (c *Checker) identity(path string) (identity, error) {
	dir, err := c.dirs.open(parent(path))
	if err != nil {
		return identity{}, err
	}
	defer dir.release()
	st, err := statx(dir.fd, base(path))
	return identify(&st), pathErr("stat", path, err)
}

// look describes what is at a path. The descriptor of a file is the caller's.
func (c *Checker) look(path string) (*Node, identity, error) {
	dir, err := c.dirs.open(parent(path))
	if err != nil {
		return nil, identity{}, err
	}
	defer dir.release()
	name := base(path) // "." opens the top itself
	st, err := statx(dir.fd, name)
	if err != nil {
		return nil, identity{}, pathErr("stat", path, err)
	}
	n := &Node{FD: -1, Links: st.Nlink}
	n.Path = path
	if !n.describe(&st) {
		return n, identify(&st), nil
	}
	switch n.Type {
	case File, Directory:
		fd, err := openat(dir.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, identity{}, pathErr("open", path, err)
		}
		n.Xattrs, err = attributes(fd)
		if err != nil || n.Type == Directory {
			unix.Close(fd)
		} else {
			n.FD = fd
		}
		return n, identify(&st), pathErr("read", path, err)
	case Symlink:
		if n.Link, err = readlink(dir.fd, name); err != nil {
			return nil, identity{}, pathErr("read", path, err)
		}
	}
	n.Xattrs, err = attributesAt(dir.fd, name)
	return n, identify(&st), pathErr("read", path, err)
}

// differs says in what the node is not as the entry; "" for in nothing. The
// kernel gives a link no mode of its own.
func (n *Node) differs(e *Entry) string {
	switch {
	case n.Type != e.Type:
		return fmt.Sprintf("is of type %q, not %q", n.Type, e.Type)
	case n.Mode != e.Mode && e.Type != Symlink:
		return fmt.Sprintf("has the mode %04o, not %04o", n.Mode, e.Mode)
	case n.UID != e.UID || n.GID != e.GID:
		return fmt.Sprintf("belongs to %d:%d, not to %d:%d", n.UID, n.GID, e.UID, e.GID)
	case !n.ModTime.Equal(e.ModTime):
		return fmt.Sprintf("has the time %s, not %s", n.ModTime.UTC(), e.ModTime.UTC())
	case n.Link != e.Link:
		return fmt.Sprintf("leads to %q, not to %q", n.Link, e.Link)
	case n.Major != e.Major || n.Minor != e.Minor:
		return fmt.Sprintf("is device %d:%d, not %d:%d", n.Major, n.Minor, e.Major, e.Minor)
	case n.Size != e.Size:
		return fmt.Sprintf("has %d bytes, not %d", n.Size, e.Size)
	}
	for _, x := range e.Xattrs {
		if !slices.Contains(n.Xattrs, x) {
			return "lacks its attribute " + x.Name
		}
	}
	for _, x := range n.Xattrs {
		// Security modules label what is made; a capability is never theirs.
		theirs := strings.HasPrefix(x.Name, "security.") && x.Name != "security.capability"
		if !theirs && !slices.ContainsFunc(e.Xattrs, func(y Xattr) bool { return x.Name == y.Name }) {
			return "has the attribute " + x.Name
		}
	}
	return ""
}

// content compares a file with its entry's stored bytes, and its holes with
// zeros.
func (c *Checker) content(n *Node, e *Entry, content io.Reader, each func(int64) error) error {
	parts := e.Data
	if !e.Sparse {
		parts = []Extent{{0, e.Size}}
	}
	at := int64(0)
	for _, x := range parts {
		if err := c.zeros(n, Extent{at, x.Offset - at}); err != nil {
			return err
		}
		for at = x.Offset; at < x.Offset+x.Length; {
			size := min(int64(len(c.want)), x.Offset+x.Length-at)
			if _, err := io.ReadFull(content, c.want[:size]); err != nil {
				return err
			}
			if err := n.ReadAt(c.got[:size], at); err != nil {
				return err
			}
			if !bytes.Equal(c.got[:size], c.want[:size]) {
				return &Difference{n.Path, fmt.Sprintf("has other content between the bytes %d and %d", at, at+size)}
			}
			if err := each(size); err != nil {
				return err
			}
			at += size
		}
	}
	return c.zeros(n, Extent{at, e.Size - at})
}

// zeros finds data in what should be a hole.
func (c *Checker) zeros(n *Node, hole Extent) error {
	parts := n.Data
	if !n.Sparse {
		parts = []Extent{{0, n.Size}}
	}
	for _, x := range parts {
		end := min(x.Offset+x.Length, hole.Offset+hole.Length)
		for at := max(x.Offset, hole.Offset); at < end; {
			size := min(int64(len(c.got)), end-at)
			if err := n.ReadAt(c.got[:size], at); err != nil {
				return err
			}
			if len(bytes.TrimLeft(c.got[:size], "\x00")) > 0 {
				return &Difference{n.Path, fmt.Sprintf("has data between the bytes %d and %d, where there is a hole", at, at+size)}
			}
			at += size
		}
	}
	return nil
}

// Finish looks for what is in the tree and was no entry.
func (c *Checker) Finish(ctx context.Context) error {
	var others, links int64
	var odd error
	find := func(path, what string) {
		if odd == nil {
			odd = &Difference{path, what}
		}
	}
	err := Walk(ctx, c.root, find, func(n *Node) error {
		switch n.Type {
		case Directory:
			if !c.known[n.Path] {
				find(n.Path, "is too much")
			}
			return nil
		case HardLink:
			links++
		}
		others++
		return nil
	})
	switch {
	case err != nil || odd != nil:
		return errors.Join(err, odd)
	case others != c.others:
		return &Difference{".", fmt.Sprintf("has %d entries that are no directories, not %d", others, c.others)}
	case links != c.links:
		return &Difference{".", fmt.Sprintf("has %d hard links, not %d", links, c.links)}
	}
	return nil
}
