package volplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// points are the paths at which volumes are mounted.
type points struct {
	// dir is where the engine looks for them: <dir>/<name>.
	dir string
	// making is another mount of the same small file system, on which the
	// paths can be made.
	making string
	// sealed is what is mounted at dir, kept where nobody takes it away.
	sealed string
	// proc is where the processes of the host are seen.
	proc string
	// folder is dir as the engine sees it, for a managed plugin.
	folder string
}

// Names of the private mounts in the driver's work directory.
const (
	makingName = "points"
	sealedName = "sealed"
)

// errUnseen says that a bind does not reach the engine's mount namespace.
var errUnseen = errors.New("the mount does not reach the engine")

// step is one mount(2).
type step struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// openPoints makes dir ready. Whatever an earlier driver mounted below it is
// taken away first: containers that run have mounts of their own, and one that
// is being started fails for lack of its path.
//
// The engine may take away the mount that it has just made for the driver,
// when it was killed and started again: hence a file system of the driver's
// own, whose arrival in the engine's namespace is checked (see repair).
// After the death of a driver alone that file system is what the engine hands
// to the next one, so it is used again: what would be mounted beside it would
// not reach the engine (measured, 20.10).
func openPoints(dir, work, proc string) (*points, error) {
	p := &points{dir: dir, making: filepath.Join(work, makingName), sealed: filepath.Join(work, sealedName), proc: proc}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make mount paths: %w", err)
	}
	there, err := p.clear()
	if err != nil {
		return nil, fmt.Errorf("clear mount paths: %w", err)
	}
	for _, path := range []string{p.making, p.sealed} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("make mount paths: %w", err)
		}
		if err := detachAll(path); err != nil {
			return nil, fmt.Errorf("make mount paths: %w", err)
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	steps := []step{
		{source: volume.FileSystem, target: p.making, fstype: "tmpfs", flags: safe, data: "mode=0711,size=16m"},
		{target: p.making, flags: unix.MS_PRIVATE},
		// The flag must be on the mount before it is bound where others see
		// it: a later change of it would not reach them.
		{source: p.making, target: p.sealed, flags: unix.MS_BIND},
		{target: p.sealed, flags: unix.MS_PRIVATE},
		{target: p.sealed, flags: unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | safe},
		{source: p.sealed, target: p.dir, flags: unix.MS_BIND},
	}
	if there {
		steps = []step{
			{source: p.dir, target: p.sealed, flags: unix.MS_BIND},
			{target: p.sealed, flags: unix.MS_PRIVATE},
			{source: p.dir, target: p.making, flags: unix.MS_BIND},
			{target: p.making, flags: unix.MS_PRIVATE},
			{target: p.making, flags: unix.MS_REMOUNT | unix.MS_BIND | safe},
		}
	}
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.fstype, s.flags, s.data); err != nil {
			return nil, fmt.Errorf("make mount paths: mount %s: %w", s.target, err)
		}
	}
	return p, nil
}

// clear takes away every mount below dir, and reports whether dir itself is
// the file system of an earlier driver.
func (p *points) clear() (there bool, err error) {
	for {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
		if err != nil {
			return false, err
		}
		below := ""
		for _, m := range mounts {
			switch {
			case m.Mountpoint == p.dir: // the last one covers the others
				there = m.FSType == "tmpfs" && m.Source == volume.FileSystem
			case len(m.Mountpoint) >= len(below):
				below = m.Mountpoint
			}
		}
		if below == "" {
			return there, nil
		}
		if err := unix.Unmount(below, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return false, fmt.Errorf("unmount %s: %w", below, err)
		}
	}
}

// detachAll takes away all mounts on one path.
func detachAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL): // not a mount point
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// path is the constant path of a volume. Names are checked by the registry
// and are one component.
func (p *points) path(name string) string { return filepath.Join(p.dir, name) }

// openTree opens the live tree in a volume's directory. No link is followed:
// a fence gives ELOOP.
func openTree(dir, live string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	path := filepath.Join(dir, live)
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// bound reports whether something is mounted at the volume's path, and
// whether that is this tree.
func (p *points) bound(name string, tree *os.File) (mounted, current bool, err error) {
	var there, want unix.Statx_t
	const mask = unix.STATX_INO | unix.STATX_TYPE
	err = unix.Statx(unix.AT_FDCWD, p.path(name), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, mask, &there)
	if errors.Is(err, unix.ENOENT) {
		return false, false, nil
	}
	if err != nil {
		return false, false, &fs.PathError{Op: "statx", Path: p.path(name), Err: err}
	}
	if there.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, false, nil
	}
	if tree == nil {
		return true, false, nil
	}
	if err := unix.Statx(int(tree.Fd()), "", unix.AT_EMPTY_PATH, mask, &want); err != nil {
		return true, false, &fs.PathError{Op: "statx", Path: tree.Name(), Err: err}
	}
	// A mounted directory keeps its inode, so its number is not used again.
	current = there.Ino == want.Ino && there.Dev_major == want.Dev_major && there.Dev_minor == want.Dev_minor
	return true, current, nil
}

// bind mounts the tree at the volume's path, where nothing must be mounted.
func (p *points) bind(name string, tree *os.File) error {
	if err := os.Mkdir(filepath.Join(p.making, name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make mount path: %w", err)
	}
	source := "/proc/self/fd/" + strconv.Itoa(int(tree.Fd()))
	if err := unix.Mount(source, p.path(name), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s at %s: %w", tree.Name(), p.path(name), err)
	}
	return nil
}

// detach takes away what is mounted at the volume's path, if anything is.
func (p *points) detach(name string) error {
	err := detachAll(p.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// names lists the volumes with something at their path.
func (p *points) names() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var names []string
	for _, m := range mounts {
		if filepath.Dir(m.Mountpoint) == p.dir {
			names = append(names, filepath.Base(m.Mountpoint))
		}
	}
	return names, nil
}

// at gives the kernel's entry for what is mounted at the volume's path, nil
// for nothing.
func (p *points) at(name string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(p.path(name)))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	if len(mounts) == 0 {
		return nil, nil
	}
	return mounts[0], nil // the filter ends at the first
}

// isPoint reports whether a mount point of any namespace is a volume's path,
// or a copy of it by propagation: the last two components tell.
func (p *points) isPoint(path, name string) bool {
	if filepath.Base(path) != name {
		return false
	}
	parent := filepath.Dir(path)
	return parent == p.dir || filepath.Base(parent) == volume.EngineFolder
}

// seen checks that the engine, or the host's first process where the engine
// is not known, has the volume's mount in its namespace; else errUnseen.
func (p *points) seen(name string, engine process) error {
	mine, err := p.at(name)
	if err != nil {
		return err
	}
	if mine == nil {
		return fmt.Errorf("volume %s: %w (it was taken away again)", name, errUnseen)
	}
	pid := engine.pid
	if pid == 0 {
		pid = 1
	}
	theirs, err := volume.MountsOf(p.proc, pid)
	if err != nil {
		return err
	}
	for _, m := range theirs {
		if sameTree(m, mine) && p.isPoint(m.Mountpoint, name) {
			return nil
		}
	}
	return fmt.Errorf("volume %s: %w (process %d)", name, errUnseen, pid)
}

// reach reports whether the engine has the file system of the mount paths in
// its namespace, which it must before any bind on it can be seen there.
func (p *points) reach(engine process) (bool, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		return false, fmt.Errorf("read mounts: %w", err)
	}
	theirs, err := volume.MountsOf(p.proc, engine.pid)
	if err != nil {
		return false, err
	}
	for _, mine := range mounts {
		if mine.Mountpoint != p.dir || mine.Source != volume.FileSystem {
			continue
		}
		for _, m := range theirs {
			if sameTree(m, mine) && (m.Mountpoint == p.dir || filepath.Base(m.Mountpoint) == volume.EngineFolder) {
				return true, nil
			}
		}
	}
	return false, nil
}

func sameTree(m, of *mountinfo.Info) bool {
	return m.Major == of.Major && m.Minor == of.Minor && m.Root == of.Root
}

// users lists one process of each mount namespace that has the tree now bound
// at the volume's path, or something in it, mounted elsewhere: the containers
// that run on it.
func (p *points) users(name string) ([]int, error) {
	mine, err := p.at(name)
	if err != nil || mine == nil {
		return nil, err
	}
	return volume.Holders(p.proc, func(m *mountinfo.Info) bool {
		return m.Major == mine.Major && m.Minor == mine.Minor && under(m.Root, mine.Root) && !p.isPoint(m.Mountpoint, name)
	})
}

// under reports whether path is dir or lies below it. The kernel marks a
// directory that was deleted.
func under(path, dir string) bool {
	path, dir = strings.TrimSuffix(path, deleted), strings.TrimSuffix(dir, deleted)
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

const deleted = "//deleted"
