//go:build e2e && linux

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// sweep clears every run below base whose lock nobody holds.
func sweep(base string) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		dir := filepath.Join(base, entry.Name())
		lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			lock.Close() // that run is alive
			continue
		}
		err = clear(dir)
		if err == nil {
			err = os.Remove(dir + ".lock")
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// clear ends every process of the engines in dir, undoes their mounts and
// removes their network namespaces and dir itself.
func clear(dir string) error {
	if err := endProcesses(dir, "/"+namespacePrefix(dir)); err != nil {
		return err
	}
	if err := removeGroups(namespacePrefix(dir) + "*"); err != nil {
		return err
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	spaces, err := filepath.Glob("/run/netns/" + namespacePrefix(dir) + "*")
	if err != nil {
		return err
	}
	for _, space := range spaces {
		if out, err := exec.Command("ip", "netns", "delete", filepath.Base(space)).CombinedOutput(); err != nil {
			return fmt.Errorf("delete network namespace: %w: %s", err, out)
		}
	}
	return os.RemoveAll(dir)
}

// namespacePrefix begins the names of network namespaces and cgroups of the
// engines in a run's directory.
func namespacePrefix(dir string) string { return "snaprestore-e2e-" + filepath.Base(dir) + "-" }

// endProcesses kills the engines in dir, their helpers, and all that runs in
// their containers, which is known by group, a part of its cgroup's path.
func endProcesses(dir, group string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		pids := processes(dir, group)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("end processes of %s: %v still there", dir, pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		thaw(group)
		time.Sleep(20 * time.Millisecond)
	}
}

// thaw lets the processes of paused containers run: those that are frozen by
// the first version of cgroups do not even die before. A group that ends with
// a slash is one, otherwise it is the beginning of several.
func thaw(group string) {
	pattern := strings.TrimPrefix(group, "/")
	if !strings.HasSuffix(pattern, "/") {
		pattern += "*/"
	}
	for state, word := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
		for _, where := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			files, _ := filepath.Glob(where + pattern + "*/" + state)
			for _, file := range files {
				// A group may be gone by now.
				_ = os.WriteFile(file, []byte(word), 0)
			}
		}
	}
}

// helpers are the programs of an engine that name its directory as they run.
var helpers = []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker", "docker-compose", "docker-snaprestore", "snaprestored"}

func processes(dir, group string) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(stat), ") Z ") {
			continue
		}
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		program, _, _ := strings.Cut(string(line), "\x00")
		if strings.Contains(string(groups), group) ||
			slices.Contains(helpers, filepath.Base(program)) && strings.Contains(string(line), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeGroups removes the empty cgroups that engines leave behind: their
// containers' parent and what is below it, in every hierarchy.
func removeGroups(pattern string) error {
	for _, where := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		groups, err := filepath.Glob(where + pattern)
		if err != nil {
			return err
		}
		for _, group := range groups {
			var dirs []string
			err := filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					dirs = append(dirs, path)
				}
				if errors.Is(err, fs.ErrNotExist) {
					return nil // gone by itself
				}
				return err
			})
			if err != nil {
				return err
			}
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
					return fmt.Errorf("remove cgroup %s: %w", dir, err)
				}
			}
		}
	}
	return nil
}

// unmountBelow takes every mount below dir away, the deepest first. A FUSE
// server that is gone would block whoever syncs the machine, so its
// connection is aborted first.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return info.Mountpoint != dir && !strings.HasPrefix(info.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return err
	}
	slices.Reverse(mounts)
	var errs []error
	for _, mount := range mounts {
		if strings.HasPrefix(mount.FSType, "fuse") {
			_ = os.WriteFile(fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", mount.Minor), []byte("1"), 0)
		}
		err := unix.Unmount(mount.Mountpoint, unix.UMOUNT_NOFOLLOW)
		if err == unix.EBUSY {
			err = unix.Unmount(mount.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("unmount %s: %w", mount.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
