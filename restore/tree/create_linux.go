package tree

import "golang.org/x/sys/unix"

// nature is what a new file in a tree has by itself: an owner, and those bits of
// the mode that it was made with which the process's umask lets through. The
// first file that is made tells, since the file system has a word in both, and
// all other files of a Maker's tree have the same, as no directory passes
// anything on before Finish. To set what a file has already would take a fifth
// of the time that a small file takes (measured on ext4). Each goroutine has its
// own.
type nature struct {
	known    bool
	uid, gid uint32
	mask     uint32
}

// born is what a file has since it was made.
type born struct {
	known          bool
	uid, gid, mode uint32
}

// create makes an empty file. Nobody else reaches it, whatever its mode: the
// top of the tree is closed to others until Finish.
func (n *nature) create(dir *held, e *Entry, flags int) (int, born, error) {
	mode := e.Mode & 0o777
	if !n.known {
		mode = 0o777
	}
	fd, err := openat(dir.fd, base(e.Path), flags|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return -1, born{}, pathErr("create", e.Path, err)
	}
	if !n.known {
		st, err := statx(fd, "")
		if err != nil {
			unix.Close(fd)
			return -1, born{}, pathErr("stat", e.Path, err)
		}
		*n = nature{true, st.Uid, st.Gid, uint32(st.Mode) & 0o777}
	}
	return fd, born{true, n.uid, n.gid, mode & n.mask}, nil
}
