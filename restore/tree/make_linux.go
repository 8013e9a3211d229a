package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Maker makes a tree entry by entry in an empty directory.
type Maker struct {
	dirs   dirs
	crew   *crew
	files  nature
	behind *behind
	made   []Entry        // directories, whose attributes are set at the end
	index  map[string]int // of implied directories in made
	buf    []byte
}

// NewMaker begins a tree in the directory root. What root itself passes on to
// what is made in it, a default ACL or a group, is taken off it.
func NewMaker(root *os.Root) (*Maker, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	m := &Maker{index: map[string]int{}, buf: make([]byte, 256<<10)}
	m.dirs = dirs{path: ".", stack: []step{{h: hold(fd)}}}
	err = unix.Fchmod(fd, 0o700)
	if err == nil {
		err = removeXattr(fd, "system.posix_acl_default")
	}
	if err == nil {
		m.behind, err = newBehind(root)
	}
	if err != nil {
		m.dirs.close()
		return nil, fmt.Errorf("prepare tree: %w", err)
	}
	m.crew = newCrew()
	return m, nil
}

func removeXattr(fd int, name string) error {
	err := unix.Fremovexattr(fd, name)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP {
		return nil
	}
	return err
}

// Close ends the work in the background and frees what the maker holds.
func (m *Maker) Close() {
	m.crew.close()
	m.behind.end()
	m.dirs.close()
}

// Make makes one entry; content gives a file's Stored bytes. Each is called
// with the bytes taken since its last call; an error of it ends Make. A small
// file may still be in the making when Make returns: its error comes from a
// later call, of Finish at the latest, as does one of writing out. Directories
// that e's path needs and that are not there yet belong to root, mode 0755,
// unless an entry of their own follows.
func (m *Maker) Make(e *Entry, content io.Reader, each func(bytes int64) error) error {
	if e.Path == "." {
		m.made = append(m.made, *e)
		return nil
	}
	if err := errors.Join(m.crew.err(), m.behind.err()); err != nil {
		return err
	}
	dir, err := m.parent(e.Path)
	if err != nil {
		return err
	}
	defer dir.release()
	switch e.Type {
	case Directory:
		err = m.directory(dir, e)
	case File:
		if n := e.Stored(); n <= small {
			if err = m.crew.take(dir, e, content); err == nil && n > 0 {
				err = each(n)
			}
			m.behind.wrote(n + perFile)
			break
		}
		err = m.files.makeFile(dir, e, content, m.buf, func(n int64) error {
			m.behind.wrote(n)
			return each(n)
		})
	case Symlink:
		err = m.symlink(dir, e)
	case HardLink:
		err = m.hardLink(dir, e)
	default:
		err = m.device(dir, e)
	}
	return err
}

// parent opens the directory that holds path, and makes what is missing of
// it.
func (m *Maker) parent(path string) (*held, error) {
	dir := parent(path)
	h, err := m.dirs.open(dir)
	if !errors.Is(err, unix.ENOENT) {
		return h, err
	}
	e := &Entry{Path: dir, Type: Directory, Mode: 0o755, ModTime: time.Now()}
	if err := m.Make(e, nil, nil); err != nil {
		return nil, err
	}
	m.index[strings.Clone(dir)] = len(m.made) - 1
	return m.dirs.open(dir)
}

func (m *Maker) directory(dir *held, e *Entry) error {
	if i, ok := m.index[e.Path]; ok {
		delete(m.index, e.Path)
		m.made[i] = *e
		return nil
	}
	err := retry(func() error { return unix.Mkdirat(dir.fd, base(e.Path), 0o700) })
	if err != nil {
		return pathErr("mkdir", e.Path, err)
	}
	m.made = append(m.made, *e)
	return nil
}

// makeFile makes a file: content, then owner, since that takes setuid and
// capabilities off, then mode, then attributes, which an ACL needs, then time.
func (n *nature) makeFile(dir *held, e *Entry, content io.Reader, buf []byte, each func(int64) error) error {
	fd, has, err := n.create(dir, e, unix.O_WRONLY)
	if err != nil {
		return err
	}
	err = fill(fd, e, content, buf, each)
	if err == nil {
		err = dress(fd, e, has)
	}
	// Some file systems say at the close that there is no space.
	if closed := unix.Close(fd); err == nil && closed != unix.EINTR {
		err = pathErr("close", e.Path, closed)
	}
	return err
}

// fill writes the content, leaving the holes.
func fill(fd int, e *Entry, content io.Reader, buf []byte, each func(int64) error) error {
	if !e.Sparse {
		return write(fd, e, Extent{0, e.Size}, content, buf, each)
	}
	for _, x := range e.Data {
		if err := write(fd, e, x, content, buf, each); err != nil {
			return err
		}
	}
	return pathErr("truncate", e.Path, retry(func() error { return unix.Ftruncate(fd, e.Size) }))
}

func write(fd int, e *Entry, x Extent, content io.Reader, buf []byte, each func(int64) error) error {
	for x.Length > 0 {
		part := buf[:min(int64(len(buf)), x.Length)]
		n, err := io.ReadFull(content, part)
		if err != nil {
			return err
		}
		for part := part; len(part) > 0; {
			var n int
			err := retry(func() (err error) { n, err = unix.Pwrite(fd, part, x.Offset); return err })
			if err != nil {
				return pathErr("write", e.Path, err)
			}
			part = part[n:]
			x.Offset += int64(n)
			x.Length -= int64(n)
		}
		if err := each(int64(n)); err != nil {
			return err
		}
	}
	return nil
}

// dress gives an open file or directory its owner, mode, attributes and time,
// but for those that it is known to have.
func dress(fd int, e *Entry, has born) error {
	if !has.known || has.uid != e.UID || has.gid != e.GID {
		if err := retry(func() error { return unix.Fchown(fd, int(e.UID), int(e.GID)) }); err != nil {
			return pathErr("chown", e.Path, err)
		}
	}
	if !has.known || has.mode != e.Mode {
		if err := retry(func() error { return unix.Fchmod(fd, e.Mode) }); err != nil {
			return pathErr("chmod", e.Path, err)
		}
	}
	for _, x := range e.Xattrs {
		err := retry(func() error { return unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0) })
		if err != nil {
			return pathErr("set attribute "+x.Name, e.Path, err)
		}
	}
	times := e.times()
	if err := retry(func() error { return futimens(fd, &times) }); err != nil {
		return pathErr("set time", e.Path, err)
	}
	return nil
}

// times are both set to the time of the last change: there is none of the
// last access.
func (e *Entry) times() [2]unix.Timespec {
	t := unix.Timespec{Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())}
	return [2]unix.Timespec{t, t}
}

// futimens is utimensat(2) without a path, as the C library's futimens(3).
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (m *Maker) symlink(dir *held, e *Entry) error {
	name := base(e.Path)
	if err := retry(func() error { return unix.Symlinkat(e.Link, dir.fd, name) }); err != nil {
		return pathErr("symlink", e.Path, err)
	}
	err := retry(func() error {
		return unix.Fchownat(dir.fd, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return pathErr("chown", e.Path, err)
	}
	return m.finish(dir, name, e)
}

// finish sets attributes and time of an entry that is not opened.
func (m *Maker) finish(dir *held, name string, e *Entry) error {
	for _, x := range e.Xattrs {
		err := retry(func() error { return unix.Lsetxattr(at(dir.fd, name), x.Name, []byte(x.Value), 0) })
		if err != nil {
			return pathErr("set attribute "+x.Name, e.Path, err)
		}
	}
	times := e.times()
	return pathErr("set time", e.Path, retry(func() error {
		return unix.UtimesNanoAt(dir.fd, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// hardLink gives an entry of the tree a second name. A symbolic link is
// linked itself, never what it points to.
func (m *Maker) hardLink(dir *held, e *Entry) error {
	if err := m.crew.wait(); err != nil { // the file may be in the making
		return err
	}
	target, err := m.dirs.open(parent(e.Link))
	if err != nil {
		return err
	}
	defer target.release()
	return pathErr("link", e.Path, retry(func() error {
		return unix.Linkat(target.fd, base(e.Link), dir.fd, base(e.Path), 0)
	}))
}

func (m *Maker) device(dir *held, e *Entry) error {
	var format uint32
	switch e.Type {
	case CharDevice:
		format = unix.S_IFCHR
	case BlockDevice:
		format = unix.S_IFBLK
	case Fifo:
		format = unix.S_IFIFO
	default:
		return pathErr("make", e.Path, fmt.Errorf("unknown type %q", byte(e.Type)))
	}
	name := base(e.Path)
	dev := int(unix.Mkdev(e.Major, e.Minor))
	if err := retry(func() error { return unix.Mknodat(dir.fd, name, format|0o600, dev) }); err != nil {
		return pathErr("mknod", e.Path, err)
	}
	err := retry(func() error {
		return unix.Fchownat(dir.fd, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return pathErr("chown", e.Path, err)
	}
	// chmod follows links; through a descriptor of the entry itself it cannot.
	fd, err := openOnce(dir.fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathErr("open", e.Path, err)
	}
	defer unix.Close(fd)
	if err := retry(func() error { return unix.Chmod(self(fd), e.Mode) }); err != nil {
		return pathErr("chmod", e.Path, err)
	}
	return m.finish(dir, name, e)
}

// Finish gives the directories their attributes, deepest first. A tree without
// an entry of its top gets root's, mode 0755.
func (m *Maker) Finish() error {
	if err := m.crew.wait(); err != nil {
		return err
	}
	top := -1
	for i := len(m.made) - 1; i >= 0; i-- {
		e := &m.made[i]
		if e.Path == "." {
			top = i
			continue
		}
		if err := m.dressDirectory(e); err != nil {
			return err
		}
	}
	first := &Entry{Path: ".", Type: Directory, Mode: 0o755, ModTime: time.Now()}
	if top >= 0 {
		first = &m.made[top]
	}
	if err := m.dressDirectory(first); err != nil {
		return err
	}
	m.behind.end()
	return m.behind.err()
}

func (m *Maker) dressDirectory(e *Entry) error {
	dir, err := m.dirs.open(e.Path)
	if err != nil {
		return err
	}
	defer dir.release()
	if e.Path == "." {
		if err := m.strip(dir, e); err != nil {
			return err
		}
	}
	return dress(dir.fd, e, born{})
}

// strip takes attributes off the top that the stored one does not have. Those
// of the security modules, which label every file by themselves, stay.
func (m *Maker) strip(dir *held, e *Entry) error {
	have, err := attributes(dir.fd)
	if err != nil {
		return pathErr("read", e.Path, err)
	}
	want := map[string]bool{}
	for _, x := range e.Xattrs {
		want[x.Name] = true
	}
	for _, x := range have {
		if want[x.Name] || strings.HasPrefix(x.Name, "security.") && x.Name != "security.capability" {
			continue
		}
		if err := removeXattr(dir.fd, x.Name); err != nil {
			return pathErr("remove attribute "+x.Name, e.Path, err)
		}
	}
	return nil
}
