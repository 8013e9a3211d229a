package tree

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Hand makes files in the tree of a Maker from another goroutine: each
// goroutine has a Hand of its own. The directories must have been made.
type Hand struct {
	dirs   dirs
	files  nature
	behind *behind
}

// Hand gives a new one. It is closed by who asked for it.
func (m *Maker) Hand() (*Hand, error) {
	top := m.dirs.stack[0].h
	if top == nil { // closed while the maker is deep in the tree
		var err error
		if top, err = m.dirs.open("."); err != nil {
			return nil, err
		}
		defer top.release()
	}
	fd, err := unix.FcntlInt(uintptr(top.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, pathErr("open", ".", err)
	}
	return &Hand{dirs: dirs{path: ".", stack: []step{{h: hold(fd)}}}, behind: m.behind}, nil
}

// Close frees what the hand holds.
func (h *Hand) Close() { h.dirs.close() }

// File makes a file; content is its Stored bytes.
func (h *Hand) File(e *Entry, content []byte) error {
	dir, err := h.dirs.open(parent(e.Path))
	if err != nil {
		return err
	}
	defer dir.release()
	g, err := h.files.begin(dir, e, h.behind)
	if err != nil {
		return err
	}
	parts := e.Data
	if !e.Sparse {
		parts = []Extent{{0, e.Size}}
	}
	err = g.Write(parts, content)
	if end := g.Release(err == nil); err == nil {
		err = end
	}
	h.behind.wrote(perFile)
	return err
}

// Growing is a file whose parts are written from several goroutines.
type Growing struct {
	entry  Entry
	fd     int
	has    born
	behind *behind
	users  atomic.Int32
	failed atomic.Bool
}

// Begin makes a file, empty, with one user. Its parts are written by Write.
func (m *Maker) Begin(e *Entry) (*Growing, error) {
	dir, err := m.parent(e.Path)
	if err != nil {
		return nil, err
	}
	defer dir.release()
	return m.files.begin(dir, e, m.behind)
}

func (n *nature) begin(dir *held, e *Entry, b *behind) (*Growing, error) {
	fd, has, err := n.create(dir, e, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	g := &Growing{entry: *e, fd: fd, has: has, behind: b}
	g.users.Store(1)
	return g, nil
}

// Use adds a user.
func (g *Growing) Use() { g.users.Add(1) }

// Write writes content, the bytes of parts one after the other.
func (g *Growing) Write(parts []Extent, content []byte) error {
	for _, x := range parts {
		part := content[:x.Length]
		content = content[x.Length:]
		for len(part) > 0 {
			var n int
			err := retry(func() (err error) { n, err = unix.Pwrite(g.fd, part, x.Offset); return err })
			if err != nil {
				return pathErr("write", g.entry.Path, err)
			}
			part, x.Offset = part[n:], x.Offset+int64(n)
			g.behind.wrote(int64(n))
		}
	}
	return nil
}

// Release lets the file go. The last user gives it its size, owner, mode,
// attributes and time, unless one of them said that it is not right.
func (g *Growing) Release(right bool) (err error) {
	if !right {
		g.failed.Store(true)
	}
	if g.users.Add(-1) > 0 {
		return nil
	}
	if g.failed.Load() {
		unix.Close(g.fd)
		return nil
	}
	e := &g.entry
	if e.Sparse {
		err = pathErr("truncate", e.Path, retry(func() error { return unix.Ftruncate(g.fd, e.Size) }))
	}
	if err == nil {
		err = dress(g.fd, e, g.has)
	}
	// Some file systems say at the close that there is no space.
	if closed := unix.Close(g.fd); err == nil && closed != unix.EINTR {
		err = pathErr("close", e.Path, closed)
	}
	return err
}
