// Package durable holds the file-system primitives that promises rest on:
// directories by descriptor, files that appear whole, renames and exchanges
// with the syncs that order them, and a failpoint at every step.
//
// Paths are opened with openat2 and no symbolic link is followed on the way,
// so that a directory swapped for a link leads nowhere. An error of a sync is
// never retried: the kernel drops what it could not write and reports it once
// (fsyncgate; Linux mm/filemap.c, errseq_t), so the caller gives the operation
// up and a new one starts from what is on disk.
//
// A crash between two steps leaves the effect of the first; a crash inside one
// leaves it done or not done, except removeall, which may leave a part of the
// tree, and create, which may leave a torn temporary file that nobody reads.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Its methods work relative to the descriptor, so
// it stays the same directory whatever is renamed around it.
type Dir struct {
	f    *os.File
	path string
	fail Failpoint
}

// noLinks are the openat2 rules of every path that is opened.
const noLinks = unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Open opens the directory at an absolute path, following no link. Fail may
// be nil.
func Open(path string, fail Failpoint) (*Dir, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("open directory %s: not an absolute path", path)
	}
	fd, err := openat2(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY, noLinks)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{f: os.NewFile(uintptr(fd), path), path: path, fail: fail}, nil
}

// openat2 is unix.Openat2 with O_CLOEXEC, again after EINTR and EAGAIN (a
// rename elsewhere raced the walk; openat2(2)).
func openat2(dir int, path string, flags int, resolve uint64, mode ...fs.FileMode) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for _, m := range mode {
		how.Mode = uint64(m.Perm())
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// OpenDir opens a directory below d by a relative path of one or more names.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	fd, err := openat2(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY, noLinks|unix.RESOLVE_BENEATH)
	if err != nil {
		return nil, d.err("open", name, err)
	}
	path := filepath.Join(d.path, name)
	return &Dir{f: os.NewFile(uintptr(fd), path), path: path, fail: d.fail}, nil
}

// MakeDir opens the directory name in d, and makes it first, with this mode,
// where it is missing. Its entry is synced in either case: who made it may
// have died before its own sync.
func (d *Dir) MakeDir(name string, mode fs.FileMode) (*Dir, error) {
	sub, err := d.OpenDir(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.Mkdir(name, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		sub, err = d.OpenDir(name)
	}
	if err != nil {
		return nil, err
	}
	if err := d.Sync(); err != nil {
		sub.Close()
		return nil, err
	}
	return sub, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.f.Close() }

// Path is where the directory was opened, for messages.
func (d *Dir) Path() string { return d.path }

// Private returns ErrForeign where another user owns the directory or may
// write in it: nothing in such a directory can be believed.
func (d *Dir) Private() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return d.err("stat", "", err)
	}
	if foreign(&st) {
		return d.err("open", "", ErrForeign)
	}
	return nil
}

func foreign(st *unix.Stat_t) bool {
	return int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0
}

// Root opens the directory once more as an os.Root, for a copy engine.
func (d *Dir) Root() (*os.Root, error) {
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", d.fd()))
}

func (d *Dir) fd() int { return int(d.f.Fd()) }

func (d *Dir) err(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// step runs one durable step between its two failpoints.
func (d *Dir) step(s Step, do func() error) error {
	s.Dir = d.path
	if d.fail != nil {
		if err := d.fail(s); err != nil {
			return d.err(string(s.Op), s.Name, err)
		}
	}
	if err := do(); err != nil {
		return d.err(string(s.Op), s.Name, err)
	}
	if d.fail != nil {
		s.Done = true
		if err := d.fail(s); err != nil {
			return d.err(string(s.Op), s.Name, err)
		}
	}
	return nil
}

// retry calls do again after EINTR, which says that nothing was done yet; a
// sync that reports EINTR has not consumed any error of a write.
func retry(do func() error) error {
	for {
		if err := do(); err != unix.EINTR {
			return err
		}
	}
}

// plain refuses a name that is not one entry of a directory.
func plain(names ...string) error {
	for _, name := range names {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%q is not the name of a directory entry", name)
		}
	}
	return nil
}

// Mkdir makes a directory.
func (d *Dir) Mkdir(name string, mode fs.FileMode) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpMkdir, Name: name, Mode: mode.Perm()}, func() error {
		return retry(func() error { return unix.Mkdirat(d.fd(), name, uint32(mode.Perm())) })
	})
}

// Symlink makes a symbolic link that says target.
func (d *Dir) Symlink(name, target string) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpSymlink, Name: name, To: target}, func() error {
		return retry(func() error { return unix.Symlinkat(target, d.fd(), name) })
	})
}

// Unlink removes an entry that is not a directory. A missing one is no error.
func (d *Dir) Unlink(name string) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpUnlink, Name: name}, func() error {
		err := retry(func() error { return unix.Unlinkat(d.fd(), name, 0) })
		if err == unix.ENOENT {
			return nil
		}
		return err
	})
}

// Rename renames an entry to a name that must not exist. The caller syncs.
func (d *Dir) Rename(from, to string) error { return d.renameat(d, from, to, unix.RENAME_NOREPLACE) }

// Replace renames an entry over another one of the same kind, or to a free
// name. The caller syncs.
func (d *Dir) Replace(from, to string) error { return d.renameat(d, from, to, 0) }

// RenameTo moves an entry into another directory of the same mount, to a name
// that must not exist. The caller syncs both.
func (d *Dir) RenameTo(from string, into *Dir, to string) error {
	return d.renameat(into, from, to, unix.RENAME_NOREPLACE)
}

func (d *Dir) renameat(into *Dir, from, to string, flags uint) error {
	if err := plain(from, to); err != nil {
		return err
	}
	s := Step{Op: OpRename, Name: from, To: to}
	if into != d {
		s.ToIn = into.path
	}
	return d.step(s, func() error {
		return retry(func() error { return unix.Renameat2(d.fd(), from, into.fd(), to, flags) })
	})
}

// Exchange swaps two entries in one atomic step (renameat2, RENAME_EXCHANGE).
// The caller syncs: btrfs loses an exchange whose directory was not synced
// while a later, synced rename elsewhere survives (measured, Linux 6.18).
func (d *Dir) Exchange(a, b string) error {
	if err := plain(a, b); err != nil {
		return err
	}
	return d.step(Step{Op: OpExchange, Name: a, To: b}, func() error {
		return retry(func() error { return unix.Renameat2(d.fd(), a, d.fd(), b, unix.RENAME_EXCHANGE) })
	})
}

// Sync makes the directory's entries durable.
func (d *Dir) Sync() error {
	return d.step(Step{Op: OpSyncDir}, func() error {
		return retry(func() error { return unix.Fsync(d.fd()) })
	})
}

// SyncFS makes everything on the directory's file system durable. For a
// staged tree it is 20 to 40 times faster than a sync of each file (measured,
// 5,000 files: 0.13-0.25 s against 5-6 s). It reports write errors that
// happened since d was opened, from Linux 5.8 on (syncfs(2)): open d before
// the first write.
func (d *Dir) SyncFS() error {
	return d.step(Step{Op: OpSyncFS}, func() error {
		return retry(func() error { return unix.Syncfs(d.fd()) })
	})
}

// Chmod sets the permission bits of an entry that is a directory or a file; a
// link is refused, not followed.
func (d *Dir) Chmod(name string, mode fs.FileMode) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpChmod, Name: name, Mode: mode.Perm()}, func() error {
		fd, err := openat2(d.fd(), name, unix.O_PATH, noLinks|unix.RESOLVE_BENEATH)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return retry(func() error {
			// fchmod refuses O_PATH; the descriptor's own name does not.
			return unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), uint32(mode.Perm()), 0)
		})
	})
}

// Shape is the kind of a directory entry, as far as recovery needs it.
type Shape byte

// The shapes.
const (
	Missing   Shape = '-'
	Directory Shape = 'D'
	Link      Shape = 'L'
	Other     Shape = '?'
)

// Shape tells what an entry is, without following a link.
func (d *Dir) Shape(name string) (Shape, error) {
	if err := plain(name); err != nil {
		return Other, err
	}
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	switch {
	case err == unix.ENOENT:
		return Missing, nil
	case err != nil:
		return Other, d.err("stat", name, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return Directory, nil
	case unix.S_IFLNK:
		return Link, nil
	}
	return Other, nil
}

// Readlink reads what a symbolic link says.
func (d *Dir) Readlink(name string) (string, error) {
	if err := plain(name); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(d.fd(), name, buf)
	if err != nil {
		return "", d.err("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// Names lists the entries, sorted.
func (d *Dir) Names() ([]string, error) {
	fd, err := openat2(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY, noLinks)
	if err != nil {
		return nil, d.err("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	sort.Strings(names)
	return names, d.err("list", "", err)
}

// Sweep removes the temporary files that a crash left. Call it only while
// nobody else writes in the directory.
func (d *Dir) Sweep() error {
	names, err := d.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, temporary) {
			if err := d.Unlink(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Free tells the bytes that can still be written to the file system, and the
// number of files that can still be made (0 where the file system has no
// limit of its own, as btrfs).
func (d *Dir) Free() (bytes, files int64, err error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(d.fd(), &st) }); err != nil {
		return 0, 0, d.err("statfs", "", err)
	}
	if st.Files > 0 {
		files = int64(st.Ffree)
	}
	return int64(st.Bavail) * st.Bsize, files, nil
}

// Device tells the file system that the directory is on, comparable only
// while it stays mounted.
func (d *Dir) Device() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return 0, d.err("stat", "", err)
	}
	return st.Dev, nil
}
