package volume

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
)

// Holders lists one process of each mount namespace, of those that proc shows,
// that has a mount for which match is true.
//
// Copies of the driver's mounts are left out: a namespace that was made while
// the driver had a volume mounted keeps that mount if its mounts are private
// (mount_namespaces(7); measured with processes of the host). Nothing runs on
// it, and the driver cannot take it away.
func Holders(proc string, match func(*mountinfo.Info) bool) ([]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	looked := map[string]bool{}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(filepath.Join(proc, entry.Name(), "ns", "mnt")); err == nil {
			if looked[ns] {
				continue
			}
			looked[ns] = true
		}
		mounts, err := MountsOf(proc, pid)
		if err != nil {
			return nil, err
		}
		for _, m := range mounts {
			if match(m) && !isCopy(m, mounts) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// MountsOf reads the mounts of a process. One that has ended has none.
func MountsOf(proc string, pid int) ([]*mountinfo.Info, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "mountinfo"))
	if err == nil {
		defer f.Close()
		var mounts []*mountinfo.Info
		if mounts, err = mountinfo.GetMountsFromReader(f, nil); err == nil {
			return mounts, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
}

// isCopy reports whether a mount lies on the driver's file system and is
// connected to no other mount. A connected one goes when the driver detaches
// its own.
func isCopy(m *mountinfo.Info, all []*mountinfo.Info) bool {
	for _, tag := range strings.Fields(m.Optional) {
		if strings.HasPrefix(tag, "shared:") || strings.HasPrefix(tag, "master:") {
			return false
		}
	}
	for _, parent := range all {
		if parent.ID == m.Parent {
			return parent.FSType == "tmpfs" && parent.Source == FileSystem
		}
	}
	return false
}
