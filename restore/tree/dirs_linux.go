package tree

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// held is an open directory that several goroutines use; the last to let go
// closes it.
type held struct {
	fd   int
	uses atomic.Int32
}

func hold(fd int) *held {
	h := &held{fd: fd}
	h.uses.Store(1)
	return h
}

func (h *held) acquire() *held {
	h.uses.Add(1)
	return h
}

func (h *held) release() {
	if h.uses.Add(-1) == 0 {
		unix.Close(h.fd)
	}
}

// dirs keeps the directories on the way to the current one open, so that the
// entries of one directory cost no walk from the top. Only the deepest are
// kept; the others are opened again through "..".
type dirs struct {
	path  string // of the last in stack, "." for the top
	stack []step
}

// step is one directory on the way; h is nil while it is closed.
type step struct {
	h  *held
	id identity
}

// open gives the directory at a clean path. It must exist. The caller releases
// it.
func (d *dirs) open(path string) (*held, error) {
	for d.path != path && !below(d.path, path) {
		if err := d.pop(); err != nil {
			return nil, err
		}
	}
	for d.path != path {
		name := path
		if d.path != "." {
			name = path[len(d.path)+1:]
		}
		name, _, _ = strings.Cut(name, "/")
		if err := d.push(name); err != nil {
			return nil, err
		}
	}
	return d.stack[len(d.stack)-1].h.acquire(), nil
}

// below tells whether path lies below dir.
func below(dir, path string) bool {
	return path != "." && (dir == "." || len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir)
}

func (d *dirs) push(name string) error {
	path := name
	if d.path != "." {
		path = d.path + "/" + name
	}
	last := &d.stack[len(d.stack)-1]
	fd, err := openat(last.h.fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return pathErr("open", path, err)
	}
	s := step{h: hold(fd)}
	if n := len(d.stack) - keep; n > 0 {
		up := &d.stack[n]
		st, err := statx(up.h.fd, "")
		if err != nil {
			s.h.release()
			return pathErr("stat", path, err)
		}
		up.id = identify(&st)
		up.h.release()
		up.h = nil
	}
	d.stack = append(d.stack, s)
	d.path = path
	return nil
}

func (d *dirs) pop() error {
	n := len(d.stack) - 1
	last, up := d.stack[n], &d.stack[n-1]
	if up.h == nil {
		fd, err := openat(last.h.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return pathErr("open", d.path, err)
		}
		up.h = hold(fd)
		if st, err := statx(fd, ""); err != nil || identify(&st) != up.id {
			return fmt.Errorf("directory %q was moved while its tree was made: %w", d.path, errors.Join(err, unix.ESTALE))
		}
	}
	last.h.release()
	d.stack = d.stack[:n]
	d.path = parent(d.path)
	return nil
}

func (d *dirs) close() {
	for _, s := range d.stack {
		if s.h != nil {
			s.h.release()
		}
	}
	d.stack = nil
}

// parent is the path of the directory that holds path.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return "."
}

// base is the last name of a path.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }
