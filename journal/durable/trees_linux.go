package durable

import (
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
)

// MakeTree makes an empty directory that is to be the top of a volume's tree:
// a subvolume where the file system is btrfs, so that a snapshot of it takes a
// moment, an ordinary directory elsewhere. A crash in the middle may leave the
// subvolume with the mode that the process's umask gives. The caller syncs d.
func (d *Dir) MakeTree(name string, mode fs.FileMode) error {
	if err := plain(name); err != nil {
		return err
	}
	on, err := subvolume.On(d.fd())
	if err != nil {
		return d.err("statfs", "", err)
	}
	if !on {
		return d.Mkdir(name, mode)
	}
	err = d.step(Step{Op: OpSubvolume, Name: name, Mode: mode.Perm()}, func() error {
		return subvolume.Create(d.fd(), name)
	})
	if err != nil {
		return err
	}
	return d.Chmod(name, mode)
}

// IsSubvolume reports whether an entry is a subvolume of btrfs. A missing one
// is none.
func (d *Dir) IsSubvolume(name string) (bool, error) {
	if err := plain(name); err != nil {
		return false, err
	}
	fd, err := openat2(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY, noLinks|unix.RESOLVE_BENEATH)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return false, nil
	default:
		return false, d.err("open", name, err)
	}
	defer unix.Close(fd)
	is, err := subvolume.Is(fd)
	return is, d.err("stat", name, err)
}

// Graft makes an entry by do, which is given d and makes the whole directory
// at once or nothing, as a snapshot of a subvolume does.
func (d *Dir) Graft(name string, do func(into *os.Root) error) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpGraft, Name: name}, func() error {
		root, err := d.Root()
		if err != nil {
			return err
		}
		defer root.Close()
		return do(root)
	})
}

// RemoveAll removes an entry and everything below it, following no link. A
// missing one is no error. A crash leaves a part. Subvolumes at the entry or
// directly in it are deleted as a whole, however large they are.
//
// The deletion of a subvolume is on the disk before the directory that it was
// in is removed. Without that a power loss may leave a btrfs that cannot be
// mounted: its log deletes the directory with all entries, takes a subvolume's
// for that of a file, and gives up (measured, Linux 6.18: log replay failed in
// unlink_inode_for_log_replay). An fsync of the directory is a commit after
// such a deletion (fs/btrfs/tree-log.c, btrfs_record_snapshot_destroy), also of
// one by a process that died.
func (d *Dir) RemoveAll(name string) error {
	if err := plain(name); err != nil {
		return err
	}
	return d.step(Step{Op: OpRemove, Name: name}, func() error { return d.removeAll(name) })
}

func (d *Dir) removeAll(name string) error {
	root, err := d.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	on, err := subvolume.On(d.fd())
	if err != nil {
		return err
	}
	if !on {
		return root.RemoveAll(name)
	}
	if err := uproot(d.f, name, 1); err != nil {
		return err
	}
	if root.RemoveAll(name) == nil {
		return nil
	}
	// What is deeper and read-only does not go away file by file.
	if err := uproot(d.f, name, -1); err != nil {
		return err
	}
	return root.RemoveAll(name)
}

// uproot deletes the subvolume at an entry of dir, or those so many levels
// below it, -1 for all; ordinary directories and files stay. One that this
// process may not delete as a whole is made writable, to be deleted file by
// file.
func uproot(dir *os.File, name string, levels int) error {
	fd, err := openat2(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY, noLinks|unix.RESOLVE_BENEATH)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return nil
	default:
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	is, err := subvolume.Is(fd)
	switch {
	case err != nil:
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	case is:
		return destroy(dir, f)
	case levels == 0:
		return nil
	}
	return uprootIn(f, levels-1)
}

// destroy deletes the subvolume that is open as f, an entry of dir.
func destroy(dir, f *os.File) error {
	err := subvolume.Destroy(int(dir.Fd()), f.Name())
	if err == unix.ENOTEMPTY { // there are subvolumes in it
		if err := uprootIn(f, -1); err != nil {
			return err
		}
		err = subvolume.Destroy(int(dir.Fd()), f.Name())
	}
	switch err {
	case nil, unix.ENOENT:
		return commit(dir)
	case unix.EPERM, unix.EACCES:
		err = subvolume.SetReadOnly(int(f.Fd()), false)
	}
	if err != nil {
		return &fs.PathError{Op: "delete subvolume", Path: f.Name(), Err: err}
	}
	return nil
}

// commit makes it durable that a subvolume is gone from a directory.
func commit(dir *os.File) error {
	err := retry(func() error { return unix.Fsync(int(dir.Fd())) })
	if err != nil {
		return &fs.PathError{Op: "sync", Path: dir.Name(), Err: err}
	}
	return nil
}

// uprootIn uproots every entry of an open directory.
func uprootIn(dir *os.File, levels int) error {
	for {
		entries, err := dir.ReadDir(1000)
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if err := uproot(dir, e.Name(), levels); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return commit(dir)
		}
		if err != nil {
			return err
		}
	}
}
