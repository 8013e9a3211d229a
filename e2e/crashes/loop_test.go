//go:build e2e && linux

package crashes

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kind is a file system to be tried out.
type kind struct {
	name    string
	size    int64
	sector  int64 // bytes, the smallest unit that a power loss spares
	mkfs    []string
	fstype  string
	options string
}

var (
	ext4 = kind{"ext4", 64 << 20, 4096, []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "has_journal", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"},
		"ext4", "noinit_itable"}
	xfs       = kind{"xfs", 320 << 20, 512, []string{"mkfs.xfs", "-q", "-f", "-K", "-s", "size=512"}, "xfs", ""}
	btrfsDisk = kind{"btrfs", 128 << 20, 4096, []string{"mkfs.btrfs", "-q", "-f", "-K"}, "btrfs", "nodiscard"}

	noJournal = kind{"ext4 without a journal", 64 << 20, 4096, []string{"mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard"},
		"ext4", "noinit_itable"}
	noBarrier = kind{"ext4 without barriers", ext4.size, ext4.sector, ext4.mkfs, "ext4", "noinit_itable,nobarrier"}
)

// make makes the file system in a new file.
func (k kind) make(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(k.size); err != nil {
		return err
	}
	return command(k.mkfs[0], append(k.mkfs[1:len(k.mkfs):len(k.mkfs)], file)...)
}

// mount mounts the file system in a file, by way of a loop device that is
// gone again when it is unmounted.
func (k kind) mount(file, dir string) error {
	loop, err := attach(file, k.sector)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.Mount(loop.Name(), dir, k.fstype, 0, k.options); err != nil {
		return fmt.Errorf("mount %s of %s: %w", k.name, file, err)
	}
	return nil
}

// unmount unmounts it, and has btrfs forget the device: it would refuse an
// older image of the same file system on another one.
func (k kind) unmount(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := unix.Unmount(dir, 0)
		if err == nil {
			break
		}
		// A process of ours that was killed lets go of its files a moment later.
		if err != unix.EBUSY || time.Now().After(deadline) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if k.fstype != "btrfs" {
		return nil
	}
	control, err := unix.Open("/dev/btrfs-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/btrfs-control: %w", err)
	}
	defer unix.Close(control)
	// BTRFS_IOC_FORGET_DEV without a path: every device that is not mounted.
	var args [4096]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), 0x50009405, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return fmt.Errorf("have btrfs forget its devices: %w", errno)
	}
	return nil
}

// attach gives a free loop device a file. It clears itself when nobody uses it.
func attach(file string, sector int64) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	back, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(n)))); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		loop, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(back.Fd()), Size: uint32(sector)}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
		copy(config.Info.File_name[:], filepath.Base(file))
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if err != unix.EBUSY {
			return nil, fmt.Errorf("attach %s to %s: %w", file, path, err)
		}
	}
}

// mountRecorded mounts the file system in a file by way of a server that
// records, and gives the log's name and what unmounts it again.
func (k kind) mountRecorded(file, dir string) (log string, unmount func() error, err error) {
	point := file + ".disk"
	if err := os.WriteFile(point, nil, 0o600); err != nil {
		return "", nil, err
	}
	log = file + ".log"
	disk := again("disk", file, point, log)
	disk.Stderr = os.Stderr
	out, err := disk.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := start(disk); err != nil {
		return "", nil, err
	}
	stop := func() error {
		err := unix.Unmount(point, unix.MNT_DETACH)
		if err != nil {
			disk.Process.Kill()
		}
		waited := disk.Wait()
		if err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
		return waited
	}
	said := make([]byte, 16)
	n, err := out.Read(said)
	if err != nil || strings.TrimSpace(string(said[:n])) != "ready" {
		disk.Process.Kill()
		disk.Wait()
		return "", nil, fmt.Errorf("start the disk: %w (%q)", err, said[:n])
	}
	if err := k.mount(point, dir); err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return log, func() error { return errors.Join(k.unmount(dir), stop()) }, nil
}

// command runs a program, and gives what it said where it fails.
func command(name string, args ...string) error {
	said, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return nil
}
