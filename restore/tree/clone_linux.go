package tree

import (
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
	fd, err := openat(dir.fd, base(n.Path), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return pathErr("create", n.Path, err)
	}
	err = m.share(fd, n, each)
	if err == nil {
		err = dress(fd, &n.Entry)
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
		return fill(fd, &n.Entry, n.content(), m.buf, each)
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

// CanClone tells whether files in dir can share blocks: nil, or why not.
func CanClone(dir *os.Root) (err error) {
	const names = ".probe-clone-"
	var files [2]*os.File
	for i := range files {
		name := fmt.Sprint(names, i)
		f, err := dir.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("probe for shared blocks: %w", err)
		}
		defer func() {
			if left := dir.Remove(name); err == nil && left != nil {
				err = fmt.Errorf("remove probe: %w", left)
			}
		}()
		defer f.Close()
		files[i] = f
	}
	if _, err := files[0].Write(make([]byte, 64<<10)); err != nil {
		return fmt.Errorf("probe for shared blocks: %w", err)
	}
	if err := unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd())); err != nil {
		return fmt.Errorf("the file system cannot share blocks between files: %w", err)
	}
	return nil
}
