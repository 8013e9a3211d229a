package tree

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// keep is the number of levels whose directories stay open. Below, a parent is
// closed and later opened again through "..", so that the depth of a tree is
// not bounded by the number of open files.
const keep = 256

// walker is one walk.
type walker struct {
	ctx     context.Context
	top     unix.Statx_t
	links   map[identity]*first
	skipped func(path, reason string)
	known   func(*Node) bool // or nil
	visit   func(*Node) error
}

// first is the stored name of a file with several, and how many of them are
// still to come.
type first struct {
	path string
	left uint32
}

// level is a directory on the way down.
type level struct {
	fd   int
	path string
	id   identity
}

// Walk visits the tree's top, ".", and all below it, a directory before its
// entries, names in the order of their bytes. Sockets, and what lies on another
// mount, are not visited but named to skipped; of a directory on which
// something is mounted the directory itself is visited, empty. What vanishes
// during the walk is left out. A second name of a file is a HardLink. An error
// of visit ends the walk and is returned as it is.
func Walk(ctx context.Context, root *os.Root, skipped func(path, reason string), visit func(*Node) error) error {
	return WalkKnown(ctx, root, skipped, nil, visit)
}

// WalkKnown is Walk for who knows some files from before. Known is asked of each
// file, of which a node has all but attributes and holes; where it fills these
// in and says yes the file is not opened, which is most of the time that a walk
// takes, and Open opens it during the visit should it be needed after all.
func WalkKnown(ctx context.Context, root *os.Root, skipped func(path, reason string), known func(*Node) bool, visit func(*Node) error) error {
	f, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	w := &walker{ctx: ctx, links: map[identity]*first{}, skipped: skipped, known: known, visit: visit}
	top := &level{fd: fd, path: "."}
	defer top.close()
	if w.top, err = statx(fd, ""); err != nil {
		return pathErr("stat", ".", err)
	}
	return w.directory(top, &w.top, 0)
}

func (l *level) close() {
	if l.fd >= 0 {
		unix.Close(l.fd)
		l.fd = -1
	}
}

func (l *level) join(name string) string {
	if l.path == "." {
		return name
	}
	return l.path + "/" + name
}

// directory visits an open directory and everything in it.
func (w *walker) directory(l *level, st *unix.Statx_t, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	l.id = identify(st)
	n := &Node{FD: -1, Links: 1}
	n.Path = l.path
	n.describe(st)
	var err error
	if n.Xattrs, err = attributes(l.fd); err != nil {
		return pathErr("read", l.path, err)
	}
	if err := w.visit(n); err != nil {
		return err
	}
	if elsewhere(&w.top, st) {
		w.skipped(l.path, "another file system is mounted there")
		return nil
	}
	entries, err := list(l.fd)
	if errors.Is(err, unix.ENOENT) {
		return nil // it was removed since
	}
	if err != nil {
		return pathErr("list", l.path, err)
	}
	for _, entry := range entries {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := w.entry(l, entry, depth); err != nil {
			return err
		}
	}
	return nil
}

// list reads the entries of an open directory, sorted.
func list(fd int) ([]fs.DirEntry, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), ".")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// errChanged says that an entry became another type under the walk.
var errChanged = errors.New("its type changes all the time")

// entry visits one entry of a directory, once more when it changes its type
// in the middle.
func (w *walker) entry(l *level, entry fs.DirEntry, depth int) error {
	err := w.visitAs(l, entry.Name(), entry.Type(), depth)
	for tries := 0; err == errChanged && tries < 100; tries++ {
		var st unix.Statx_t
		if st, err = statx(l.fd, entry.Name()); err == nil {
			err = w.visitAs(l, entry.Name(), typeOf(&st), depth)
		}
	}
	switch err {
	case unix.ENOENT:
		return nil
	case errChanged:
		return pathErr("read", l.join(entry.Name()), err)
	}
	return err
}

func typeOf(st *unix.Statx_t) fs.FileMode {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 0
	case unix.S_IFDIR:
		return fs.ModeDir
	}
	return fs.ModeIrregular
}

func (w *walker) visitAs(l *level, name string, t fs.FileMode, depth int) error {
	flags := 0
	switch t {
	case 0:
		if w.known != nil {
			if done, err := w.remembered(l, name); done || err != nil {
				return err
			}
		}
		flags = unix.O_NONBLOCK | unix.O_NOCTTY
	case fs.ModeDir:
		flags = unix.O_DIRECTORY
	default:
		return w.special(l, name)
	}
	fd, err := openat(l.fd, name, unix.O_RDONLY|flags, 0)
	switch err {
	case nil:
	case unix.ENOENT:
		return err
	case unix.ELOOP, unix.ENOTDIR, unix.ENXIO, unix.ENODEV:
		return errChanged
	default:
		return pathErr("open", l.join(name), err)
	}
	sub := &level{fd: fd, path: l.join(name)}
	defer sub.close()
	st, err := statx(fd, "")
	if err != nil {
		return pathErr("stat", sub.path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return w.descend(l, sub, &st, depth)
	case unix.S_IFREG:
		return w.file(sub, &st)
	}
	return errChanged
}

// descend visits a directory below l, which is closed meanwhile when it lies
// deep.
func (w *walker) descend(l, sub *level, st *unix.Statx_t, depth int) error {
	if depth >= keep {
		l.close()
	}
	if err := w.directory(sub, st, depth+1); err != nil || l.fd >= 0 {
		return err
	}
	return l.reopen(sub)
}

// reopen opens a closed directory again through one in it.
func (l *level) reopen(sub *level) error {
	fd, err := openat(sub.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return pathErr("open", l.path, err)
	}
	st, err := statx(fd, "")
	if err == nil && identify(&st) != l.id {
		err = errors.New("a directory in it was moved away")
	}
	if err != nil {
		unix.Close(fd)
		return pathErr("open", l.path, err)
	}
	l.fd = fd
	return nil
}

// node describes a file.
func node(fd int, path string, st *unix.Statx_t) *Node {
	n := &Node{FD: fd, Links: st.Nlink, Inode: st.Ino, Changed: time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))}
	n.Path = path
	n.describe(st)
	return n
}

// remembered visits a file without opening it, if it is known; false if it is
// not.
func (w *walker) remembered(l *level, name string) (bool, error) {
	st, err := statx(l.fd, name)
	if err == unix.ENOENT {
		return false, err
	}
	path := l.join(name)
	if err != nil {
		return false, pathErr("stat", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || elsewhere(&w.top, &st) {
		return false, nil
	}
	n := node(-1, path, &st)
	if st.Nlink > 1 && w.links[identify(&st)] != nil || !w.known(n) {
		return false, nil
	}
	n.in, n.name = l.fd, name
	defer func() {
		n.name = ""
		if !n.kept {
			n.shut()
		}
	}()
	if err := w.visit(n); err != nil {
		return true, err
	}
	w.remember(n, &st)
	return true, nil
}

// file visits an open file.
func (w *walker) file(l *level, st *unix.Statx_t) error {
	if elsewhere(&w.top, st) {
		w.skipped(l.path, "another file is mounted there")
		return nil
	}
	n := node(l.fd, l.path, st)
	defer func() {
		if n.kept {
			l.fd = -1
		}
	}()
	if w.linked(n, st) {
		return w.visit(n)
	}
	var err error
	if n.Xattrs, err = attributes(l.fd); err != nil {
		return pathErr("read", l.path, err)
	}
	if !solid(n, st) {
		if err := n.findHoles(); err != nil {
			return err
		}
	}
	if err := w.visit(n); err != nil {
		return err
	}
	w.remember(n, st)
	return nil
}

// special visits what is not opened: links, devices, fifos.
func (w *walker) special(l *level, name string) error {
	st, err := statx(l.fd, name)
	if err == unix.ENOENT {
		return err
	}
	n := &Node{FD: -1, Links: st.Nlink}
	n.Path = l.join(name)
	if err != nil {
		return pathErr("stat", n.Path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		w.skipped(n.Path, "a socket means nothing without its process")
		return nil
	}
	if !n.describe(&st) || n.Type == File || n.Type == Directory {
		return errChanged
	}
	if elsewhere(&w.top, &st) {
		w.skipped(n.Path, "another file is mounted there")
		return nil
	}
	if w.linked(n, &st) {
		return w.visit(n)
	}
	if n.Type == Symlink {
		if n.Link, err = readlink(l.fd, name); err == nil && n.Link == "" {
			err = errors.New("empty link")
		}
	}
	if err == nil {
		n.Xattrs, err = attributesAt(l.fd, name)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return unix.ENOENT
	case errors.Is(err, unix.EINVAL): // readlink of what is no link any more
		return errChanged
	case err != nil:
		return pathErr("read", n.Path, err)
	}
	if err := w.visit(n); err != nil {
		return err
	}
	w.remember(n, &st)
	return nil
}

// linked makes n a hard link when an earlier entry is the same file.
func (w *walker) linked(n *Node, st *unix.Statx_t) bool {
	if st.Nlink < 2 {
		return false
	}
	id := identify(st)
	f := w.links[id]
	if f == nil {
		return false
	}
	if f.left--; f.left == 0 {
		delete(w.links, id)
	}
	n.Type, n.Link, n.FD, n.Size = HardLink, f.path, -1, 0
	n.Major, n.Minor = 0, 0
	return true
}

// remember notes the first name of a file that has several.
func (w *walker) remember(n *Node, st *unix.Statx_t) {
	if st.Nlink > 1 {
		w.links[identify(st)] = &first{n.Path, st.Nlink - 1}
	}
}

// openat opens name in dir without following a link. The time of the last
// access stays as it is where that is allowed.
func openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		fd, err = openOnce(dir, name, flags|unix.O_NOATIME, mode)
		if err != unix.EPERM {
			return fd, err
		}
	}
	return openOnce(dir, name, flags, mode)
}

func openOnce(dir int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error { fd, err = unix.Openat(dir, name, flags, mode); return err })
	return fd, err
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	var n int
	err := retry(func() (err error) { n, err = unix.Readlinkat(dir, name, buf); return err })
	return string(buf[:max(n, 0)]), err
}

func sortXattrs(x []Xattr) {
	slices.SortFunc(x, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
}
