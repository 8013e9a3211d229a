package tree

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes a file that shares the blocks of the node n, which lies on the
// same file system, and sets n's size, holes and time to those of the clone:
// while n was described it may have changed, the clone is of one moment. A file
// that cannot share its blocks, as one without copy-on-write on btrfs, is
// copied. Each is called with the bytes of data; other types are left to Make.
func (m *Maker) Clone(n *Node, each func(bytes int64) error) error {
	if n.Type != File {
		return m.Make(&n.Entry, nil, each)
	}
	dir, err := m.parent(n.Path)
	if err != nil {
		return err
	}
	defer dir.release()
	fd, has, err := m.files.create(dir, &n.Entry, unix.O_RDWR)
	if err != nil {
		return err
	}
	err = m.share(fd, n, each)
	if err == nil {
		err = dress(fd, &n.Entry, has)
	}
	if closed := unix.Close(fd); err == nil && closed != unix.EINTR {
		err = pathErr("close", n.Path, closed)
	}
	return err
}

// share fills an empty file with the blocks of n.
func (m *Maker) share(fd int, n *Node, each func(int64) error) error {
	err := retry(func() error { return unix.IoctlFileClone(fd, n.FD) })
	switch err {
	case nil:
	case unix.EINVAL, unix.EOPNOTSUPP, unix.EXDEV:
		return fill(fd, &n.Entry, n.Content(), m.buf, each)
	default:
		return pathErr("clone", n.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return pathErr("stat", n.Path, err)
	}
	clone := Node{Entry: n.Entry, FD: fd}
	clone.Size, clone.Data, clone.Sparse = st.Size, nil, false
	if err := clone.findHoles(); err != nil {
		return err
	}
	n.Size, n.Data, n.Sparse = clone.Size, clone.Data, clone.Sparse
	return each(n.Stored())
}

// CanClone tells whether files in the directory from can share their blocks
// with files in to: nil, or why not. It tries with files that have no name
// (O_TMPFILE), so that nobody sees them and none stays, whatever dies.
func CanClone(from, to *os.Root) error {
	source, err := nameless(from)
	if err != nil {
		return err
	}
	defer unix.Close(source)
	target, err := nameless(to)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if _, err := unix.Pwrite(source, make([]byte, 64<<10), 0); err != nil {
		return fmt.Errorf("try to share blocks: write: %w", err)
	}
	switch err := unix.IoctlFileClone(target, source); err {
	case nil:
		return nil
	case unix.EXDEV:
		return errors.New("the volume and the store are on different file systems")
	default:
		return fmt.Errorf("the file system cannot share blocks between files, as XFS and btrfs can: %w", err)
	}
}

// nameless opens a new file without a name in a directory.
func nameless(dir *os.Root) (int, error) {
	f, err := dir.Open(".")
	if err != nil {
		return -1, fmt.Errorf("try to share blocks: %w", err)
	}
	defer f.Close()
	fd, err := openOnce(int(f.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("the file system cannot share blocks between files, or not make one without a name: %w", err)
	}
	return fd, nil
}
