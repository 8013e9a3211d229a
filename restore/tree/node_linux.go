package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Node is an entry of a tree on disk.
type Node struct {
	Entry
	// FD is a file's open descriptor, valid during the visit, and after it if
	// the visit calls Keep; -1 for all other types and for the later names of a
	// hard link.
	FD int
	// Links is the number of its names, 1 for what cannot have more.
	Links uint32
	// Inode is a file's number, and Changed when it was last changed in any
	// way (ctime), which no program can set.
	Inode   uint64
	Changed time.Time

	kept    bool
	fetched int    // one more than the slot of a Fetcher that has its content, or 0
	in      int    // the open directory of a file that was not opened
	name    string // its name there, "" after the visit and of all others
}

// Keep takes the descriptor over from the walk: who calls it closes the node.
func (n *Node) Keep() { n.kept = true }

// Close closes the descriptor of a kept node, once; any other's is the walk's.
func (n *Node) Close() {
	if n.kept {
		n.shut()
	}
}

func (n *Node) shut() {
	if n.FD >= 0 {
		unix.Close(n.FD)
		n.FD = -1
	}
}

// errReplaced says that a file is another one than was described.
var errReplaced = errors.New("it was replaced while it was read")

// Open opens a file that was known, and so was not opened, during its visit.
func (n *Node) Open() error {
	if n.FD >= 0 || n.name == "" {
		return nil
	}
	fd, err := openat(n.in, n.name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return pathErr("open", n.Path, err)
	}
	st, err := statx(fd, "")
	if err == nil && (st.Ino != n.Inode || st.Mode&unix.S_IFMT != unix.S_IFREG) {
		err = errReplaced
	}
	if err != nil {
		unix.Close(fd)
		return pathErr("open", n.Path, err)
	}
	n.FD = fd
	return nil
}

// Ahead tells the kernel that the content is read soon (POSIX_FADV_WILLNEED),
// so that the disk has many small files to look for at a time.
func (n *Node) Ahead() {
	_ = unix.Fadvise(n.FD, 0, n.Size, unix.FADV_WILLNEED) // advice: a refusal costs time only
}

// ReadNow reads the first len(p) bytes of the content if they are in memory,
// and reports false where the disk would be asked, or it is not known.
func (n *Node) ReadNow(p []byte) bool {
	got, err := unix.Preadv2(n.FD, [][]byte{p}, 0, unix.RWF_NOWAIT)
	return err == nil && got == len(p)
}

// ReadAt fills p from a kept or visited file. What is missing because the file
// shrank comes as zeros.
func (n *Node) ReadAt(p []byte, offset int64) error {
	for len(p) > 0 {
		got, err := pread(n.FD, p, offset)
		if err != nil {
			return pathErr("read", n.Path, err)
		}
		if got == 0 {
			clear(p)
			return nil
		}
		p, offset = p[got:], offset+int64(got)
	}
	return nil
}

// Copy writes the content's Stored bytes to w: what is missing because the
// file shrank comes as zeros. Each is called with the bytes written since its
// last call; an error of it ends the copy.
func (n *Node) Copy(w io.Writer, buf []byte, each func(bytes int64) error) error {
	if !n.Sparse {
		return n.copy(w, buf, Extent{0, n.Size}, each)
	}
	for _, x := range n.Data {
		if err := n.copy(w, buf, x, each); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) copy(w io.Writer, buf []byte, x Extent, each func(int64) error) error {
	for x.Length > 0 {
		part := buf[:min(int64(len(buf)), x.Length)]
		got, err := pread(n.FD, part, x.Offset)
		if err != nil {
			return pathErr("read", n.Path, err)
		}
		if got == 0 { // shrank while it was read
			clear(part)
			got = len(part)
		}
		if _, err := w.Write(part[:got]); err != nil {
			return err
		}
		x.Offset += int64(got)
		x.Length -= int64(got)
		if err := each(int64(got)); err != nil {
			return err
		}
	}
	return nil
}

func pread(fd int, p []byte, offset int64) (n int, err error) {
	err = retry(func() error { n, err = unix.Pread(fd, p, offset); return err })
	return n, err
}

// retry calls do again after EINTR.
func retry(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

func pathErr(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// identity tells one file from another, also from a later one with the same
// inode number, where the file system records when a file was made.
type identity struct {
	major, minor uint32
	ino          uint64
	born         unix.StatxTimestamp
}

func identify(st *unix.Statx_t) identity {
	return identity{st.Dev_major, st.Dev_minor, st.Ino, st.Btime}
}

// statx describes name in dir, or with name "" what dir itself is.
func statx(dir int, name string) (st unix.Statx_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	mask := unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	err = retry(func() error { return unix.Statx(dir, name, flags, mask, &st) })
	return st, err
}

// elsewhere tells whether st lies on another mount than top. The mount's
// number says so exactly (Linux 5.8); before it the device does, which takes a
// btrfs subvolume for a mount.
func elsewhere(top, st *unix.Statx_t) bool {
	if top.Mask&st.Mask&unix.STATX_MNT_ID != 0 {
		return top.Mnt_id != st.Mnt_id
	}
	return top.Dev_major != st.Dev_major || top.Dev_minor != st.Dev_minor
}

// describe fills what stat tells. It reports false for a type that is not one
// of ours.
func (e *Entry) describe(st *unix.Statx_t) bool {
	e.Mode = uint32(st.Mode) & 0o7777
	e.UID, e.GID = st.Uid, st.Gid
	e.ModTime = time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec))
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type = File
		e.Size = int64(st.Size)
	case unix.S_IFDIR:
		e.Type = Directory
	case unix.S_IFLNK:
		e.Type = Symlink
	case unix.S_IFCHR:
		e.Type = CharDevice
		e.Major, e.Minor = st.Rdev_major, st.Rdev_minor
	case unix.S_IFBLK:
		e.Type = BlockDevice
		e.Major, e.Minor = st.Rdev_major, st.Rdev_minor
	case unix.S_IFIFO:
		e.Type = Fifo
	default:
		return false
	}
	return true
}

// solidSize is the size of a file up to which it is not asked for holes that
// its blocks say are not there. Four blocks of 4 KiB are four extents at most,
// which lie in ext4's inode itself, so that nothing else of it is a block.
const solidSize = 16 << 10

// solid tells of a small file that it has no holes, without a look for them,
// which is a system call in six: it takes as much of the disk as it has content,
// and has no attributes that might take some, too. Where a file system counts
// other blocks, such as those set aside for it, a hole comes back as zeros.
func solid(n *Node, st *unix.Statx_t) bool {
	return n.Size <= solidSize && len(n.Xattrs) == 0 && int64(st.Blocks)*512 >= n.Size
}

// findHoles sets the map of a file that has holes.
func (n *Node) findHoles() error {
	if n.Size == 0 {
		return nil
	}
	end, err := unix.Seek(n.FD, 0, unix.SEEK_HOLE)
	if err == unix.EINVAL || err == nil && end >= n.Size {
		return nil // no holes, or a file system that cannot tell
	}
	if err == unix.ENXIO {
		return nil // shrank to nothing since; the copy gives zeros
	}
	at := int64(0)
	for err == nil && at < n.Size {
		at, err = unix.Seek(n.FD, at, unix.SEEK_DATA)
		if err != nil || at >= n.Size {
			break
		}
		if len(n.Data) == MaxExtents-1 {
			n.Data = append(n.Data, Extent{at, n.Size - at})
			break
		}
		if end, err = unix.Seek(n.FD, at, unix.SEEK_HOLE); err == nil {
			end = min(end, n.Size)
			n.Data = append(n.Data, Extent{at, end - at})
			at = end
		}
	}
	if err != nil && err != unix.ENXIO { // ENXIO: no data behind this
		return pathErr("seek", n.Path, err)
	}
	n.Sparse = true
	return nil
}

// attributes reads extended attributes of an open file or directory.
func attributes(fd int) ([]Xattr, error) {
	return xattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

// attributesAt reads those of an entry that cannot be opened, such as a
// symbolic link, through its directory's descriptor.
func attributesAt(dir int, name string) ([]Xattr, error) {
	path := at(dir, name)
	return xattrs(
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
}

// at is a path that leads through an open directory and nowhere else.
func at(dir int, name string) string { return self(dir) + "/" + name }

// self is a path to what a descriptor is open on.
func self(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattrs lists and reads attributes, in the order of their names. One that
// vanishes meanwhile is left out.
func xattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]Xattr, error) {
	var small [1024]byte
	names, err := grow(small[:], list)
	if err == unix.EOPNOTSUPP || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out []Xattr
	for name := range strings.SplitSeq(string(bytes.TrimSuffix(names, []byte{0})), "\x00") {
		value, err := grow(small[:], func(b []byte) (int, error) { return get(name, b) })
		if err == unix.ENODATA || err == unix.EOPNOTSUPP {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, err)
		}
		out = append(out, Xattr{name, string(value)})
	}
	sortXattrs(out)
	return out, nil
}

// grow calls read with a buffer that is large enough.
func grow(buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(buf)
		switch {
		case err == unix.EINTR:
		case err == unix.ERANGE && len(buf) < 1<<16:
			buf = make([]byte, 1<<16) // XATTR_LIST_MAX and XATTR_SIZE_MAX
		case err != nil:
			return nil, err
		default:
			return buf[:n], nil
		}
	}
}
