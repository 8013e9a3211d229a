// Package subvolume makes, snapshots, describes and deletes the subvolumes of
// btrfs: trees of files of which another one is made in a moment, whatever
// their size, and which go away as fast.
//
// Everything is one ioctl on an open directory. Numbers and layouts are those
// of the kernel's include/uapi/linux/btrfs.h, for machines whose ioctls are
// encoded as in asm-generic/ioctl.h (amd64, arm64).
//
// A crash leaves a subvolume or a snapshot made or not made, deleted or not
// deleted, and never a part of one. What is on the disk when:
//
//   - a snapshot is when Snapshot returns, with its name: the ioctl commits the
//     transaction (fs/btrfs/ioctl.c, create_snapshot);
//   - a new subvolume, a deletion, and a subvolume's rename or exchange are
//     after an fsync of the directory of the name, which is made a commit of
//     the whole transaction then (fs/btrfs/tree-log.c,
//     btrfs_record_new_subvolume and btrfs_record_snapshot_destroy;
//     fs/btrfs/inode.c, btrfs_set_log_full_commit in btrfs_rename_exchange).
//
// The space of what was deleted is given back some time later.
package subvolume

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls.
const (
	iocCreate   = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	iocDestroy  = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	iocSnapshot = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	iocGetFlags = 0x80089419 // BTRFS_IOC_SUBVOL_GETFLAGS
	iocSetFlags = 0x4008941a // BTRFS_IOC_SUBVOL_SETFLAGS
	iocFSInfo   = 0x8400941f // BTRFS_IOC_FS_INFO
	iocInfo     = 0x81f8943c // BTRFS_IOC_GET_SUBVOL_INFO
	iocRootRefs = 0xd000943d // BTRFS_IOC_GET_SUBVOL_ROOTREF
)

const (
	flagReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY
	rootReadOnly = 1 << 0 // BTRFS_ROOT_SUBVOL_RDONLY
	// rootInode is the inode number of every subvolume's root, and of no other
	// directory (include/uapi/linux/btrfs_tree.h, BTRFS_FIRST_FREE_OBJECTID).
	rootInode = 256
	// rootRefs is the most that one BTRFS_IOC_GET_SUBVOL_ROOTREF gives.
	rootRefs = 255
)

// ErrNone says that what a descriptor is of is no subvolume.
var ErrNone = errors.New("not a subvolume")

// nameArgs is struct btrfs_ioctl_vol_args.
type nameArgs struct {
	fd   int64
	name [4088]byte
}

// snapshotArgs is struct btrfs_ioctl_vol_args_v2.
type snapshotArgs struct {
	fd    int64
	_     uint64
	flags uint64
	_     [4]uint64
	name  [4040]byte
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return errno
		}
	}
}

// named fills in the name of an entry, which the kernel wants to end with a
// NUL within its 255 bytes.
func named(into []byte, name string) error {
	if name == "" || len(name) > 255 {
		return unix.ENAMETOOLONG
	}
	copy(into, name)
	return nil
}

// On reports whether an open file or directory lies on btrfs.
func On(fd int) (bool, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(fd, &st)
		if err == unix.EINTR {
			continue
		}
		return err == nil && st.Type == unix.BTRFS_SUPER_MAGIC, err
	}
}

// Is reports whether an open directory is the root of a subvolume.
func Is(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != rootInode || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false, err
	}
	return On(fd)
}

// FileSystem is the id of the btrfs that an open file or directory lies on.
// Snapshots go from one subvolume to another directory of the same one.
func FileSystem(fd int) (id [16]byte, err error) {
	var args [1024]byte // struct btrfs_ioctl_fs_info_args
	err = ioctl(fd, iocFSInfo, unsafe.Pointer(&args))
	copy(id[:], args[16:])
	return id, err
}

// Create makes an empty subvolume in the directory dir. Its mode is 0777 less
// the process's umask, as the kernel has it.
func Create(dir int, name string) error {
	var args nameArgs
	if err := named(args.name[:], name); err != nil {
		return err
	}
	return ioctl(dir, iocCreate, unsafe.Pointer(&args))
}

// Snapshot makes a snapshot of the subvolume that is open as source: the entry
// name in the directory dir. What was written to the source is written out
// first, so the time depends on that, and on nothing else of its size.
// Subvolumes in the source are empty directories in the snapshot. EXDEV says
// that the two lie on different file systems.
func Snapshot(source, dir int, name string, readOnly bool) error {
	args := snapshotArgs{fd: int64(source)}
	if readOnly {
		args.flags = flagReadOnly
	}
	if err := named(args.name[:], name); err != nil {
		return err
	}
	return ioctl(dir, iocSnapshot, unsafe.Pointer(&args))
}

// Destroy deletes a subvolume, the entry name of the directory dir, with
// everything in it. ENOTEMPTY says that there is another subvolume in it, EPERM
// that the process may not (it needs CAP_SYS_ADMIN, or the mount option
// user_subvol_rm_allowed), or that the subvolume is in use by a send.
func Destroy(dir int, name string) error {
	var args nameArgs
	if err := named(args.name[:], name); err != nil {
		return err
	}
	return ioctl(dir, iocDestroy, unsafe.Pointer(&args))
}

// SetReadOnly makes the subvolume that is open as fd read-only or writable.
func SetReadOnly(fd int, readOnly bool) error {
	var flags uint64
	if err := ioctl(fd, iocGetFlags, unsafe.Pointer(&flags)); err != nil {
		return err
	}
	if flags&flagReadOnly != 0 == readOnly {
		return nil
	}
	flags ^= flagReadOnly
	return ioctl(fd, iocSetFlags, unsafe.Pointer(&flags))
}

// Info is what btrfs has on record of a subvolume.
type Info struct {
	// UUID is its own: no other subvolume has or gets it.
	UUID [16]byte
	// Made and Changed are the transactions that made it and that last changed
	// an inode of it. They only grow.
	Made, Changed uint64
	ReadOnly      bool
}

// Describe tells of the subvolume whose root is open as fd; ErrNone where it
// is no root.
func Describe(fd int) (i Info, err error) {
	if is, err := Is(fd); err != nil || !is {
		return i, errors.Join(err, ErrNone)
	}
	var args [504]byte // struct btrfs_ioctl_get_subvol_info_args
	if err := ioctl(fd, iocInfo, unsafe.Pointer(&args)); err != nil {
		return i, fmt.Errorf("describe subvolume: %w", err)
	}
	copy(i.UUID[:], args[296:])
	i.Changed = binary.NativeEndian.Uint64(args[344:])
	i.Made = binary.NativeEndian.Uint64(args[352:])
	i.ReadOnly = binary.NativeEndian.Uint64(args[288:])&rootReadOnly != 0
	return i, nil
}

// Inner counts the subvolumes that lie directly in the one that fd is of, up
// to 255.
func Inner(fd int) (int, error) {
	var args [4096]byte // struct btrfs_ioctl_get_subvol_rootref_args
	err := ioctl(fd, iocRootRefs, unsafe.Pointer(&args))
	if err != nil && err != unix.EOVERFLOW { // there are more of them
		return 0, fmt.Errorf("look for subvolumes: %w", err)
	}
	return int(args[8+16*rootRefs]), nil
}
