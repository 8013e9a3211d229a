package volplugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// errNoFolder says that it is not known where an engine keeps the mounts of
// this process, as for a service of the host.
var errNoFolder = errors.New("the engine's folder for the mounts is not known")

// pluginRoot matches what a managed plugin has at its root: the folder
// <id>/rootfs of the engine (moby plugin/manager_linux.go).
var pluginRoot = regexp.MustCompile(`/plugins/([0-9a-f]{64})/rootfs$`)

// folderOf is where the engine, in its own namespace, keeps the mounts of the
// managed plugin that this process is. The state root lies in the engine's
// data root. Empty: this process is none.
func folderOf(root string) (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter("/"))
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	for _, m := range mounts {
		if found := pluginRoot.FindStringSubmatch(m.Root); found != nil {
			return filepath.Join(filepath.Dir(root), "plugins", found[1], volume.EngineFolder), nil
		}
	}
	return "", nil
}

// repair makes the mount paths reach the engine again. An engine that was
// killed and started again handles the end of the old plugin while it starts
// the new one, and may take away the mount that it has just made for that:
// all of it, or the driver's own on top (moby plugin/manager.go,
// HandleExitEvent; measured, 20.10 and 28.5). The start that asks for a volume
// then cannot be saved by a new driver, since an engine repeats a lost call
// without its content.
//
// What is bound on the paths may be gone after it. A crash within leaves what
// the next driver takes away. Errors: errUnseen wrapped, with the reason.
func (p *points) repair(engine process) error {
	own, err := p.top()
	if err != nil {
		return err
	}
	if own == nil {
		if err := unix.Mount(p.sealed, p.dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%w: mount %s again: %w", errUnseen, p.dir, err)
		}
	}
	switch reaches, err := p.reach(engine); {
	case err != nil:
		return err
	case reaches:
		return nil
	}
	if err := p.attach(engine); err != nil {
		return fmt.Errorf("%w: attach the mount paths: %w", errUnseen, err)
	}
	if reaches, err := p.reach(engine); err != nil || !reaches {
		return errors.Join(errUnseen, err)
	}
	return nil
}

// top is the driver's file system at dir, nil when it was taken away.
func (p *points) top() (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.dir))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var last *mountinfo.Info // the last one covers the others
	for _, m := range mounts {
		if m.Mountpoint == p.dir {
			last = m
		}
	}
	if last == nil || last.FSType != "tmpfs" || last.Source != volume.FileSystem {
		return nil, nil
	}
	return last, nil
}

// attach puts a copy of the mount paths, with what is bound there, into the
// engine's namespace. The copy is a peer: later binds arrive there by
// themselves.
func (p *points) attach(engine process) error {
	if p.folder == "" || engine.pid == 0 {
		return errNoFolder
	}
	// Peers exchange mounts only where they are shared.
	if err := unix.Mount("", p.dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", p.dir, err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, p.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy mounts: %w", err)
	}
	defer unix.Close(tree)
	namespace, err := os.Open(filepath.Join(p.proc, strconv.Itoa(engine.pid), "ns", "mnt"))
	if err != nil {
		return err
	}
	defer namespace.Close()
	if engine.gone() { // its number may be another's by now
		return fmt.Errorf("%s has ended", engine)
	}
	return onSpareThread(func() error { return moveInto(int(namespace.Fd()), tree, p.folder) })
}

// onSpareThread runs do on a thread that ends afterwards, so that the process
// stays in its own namespace. That must not be the first thread, which Go
// never ends and which /proc/self stands for.
func onSpareThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onSpareThread(do) // this one is taken until that has ended
			runtime.UnlockOSThread()
			return
		}
		done <- do() // still locked: the thread ends
	}()
	return <-done
}

func moveInto(namespace, tree int, target string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the process's directories: %w", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the engine's namespace: %w", err)
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS}
	at, err := unix.Openat2(unix.AT_FDCWD, target, &how)
	if err != nil {
		return fmt.Errorf("open %s: %w", target, err)
	}
	defer unix.Close(at)
	if err := unix.MoveMount(tree, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount on %s: %w", target, err)
	}
	return nil
}
