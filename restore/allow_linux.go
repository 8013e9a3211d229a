package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// allowFile, in the state root, lists the prefixes under which directories of
// the host may be snapshot and restored as bind mounts. No file allows none.
const allowFile = "allow.json"

// allowed is the file's content.
type allowed struct {
	Prefixes []string `json:"prefixes"`
}

// Allowed lists the allowed prefixes, sorted.
func (d *Domain) Allowed() ([]string, error) {
	data, err := d.root.ReadFile(allowFile, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, nil
	}
	var list allowed
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	for _, prefix := range list.Prefixes {
		if !filepath.IsAbs(prefix) || filepath.Clean(prefix) != prefix || prefix == "/" {
			err = errors.Join(err, fmt.Errorf("%.200q is no prefix that was ever allowed", prefix))
		}
	}
	if err != nil {
		return nil, fault.New(fault.Corrupt, "read %s: %w", filepath.Join(d.Root, allowFile), err).
			WithState("nothing was changed").
			WithHint("remove the file, then allow the paths again: docker snaprestore install --allow-path PREFIX")
	}
	return append([]string{}, list.Prefixes...), nil
}

// allowLock is the journal's key of the list, and allowWait how long another
// one who adds to it is waited for.
const (
	allowLock = "allow"
	allowWait = 10 * time.Second
)

// Allow adds prefixes to the list and gives the whole of it. All are checked
// before the first is added. A crash leaves the old list or the new one.
func (d *Domain) Allow(ctx context.Context, prefixes []string) ([]string, error) {
	host, err := d.Engine.Host(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the engine: %w", err)
	}
	holder := journal.Holder{Kind: allowLock, Since: time.Now().UTC()}
	held, err := d.journal.Locks().Lock(ctx, journal.Exclusive(allowLock), holder, allowWait)
	if err != nil {
		return nil, journalFault(err)
	}
	defer held.Release()
	list, err := d.Allowed()
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, p := range list {
		have[p] = true
	}
	for _, p := range prefixes {
		if err := forbidden(p, host.DataRoot); err != nil {
			return nil, fault.New(fault.Failed, "allow path %s: %w", p, err).
				WithState("nothing was changed").
				WithHint("name a directory that holds the bind mounts' sources, e.g. --allow-path /srv/project")
		}
		if !have[p] {
			have[p] = true
			list = append(list, p)
		}
	}
	sort.Strings(list)
	data, err := json.Marshal(allowed{Prefixes: list})
	if err == nil {
		err = d.root.WriteFile(allowFile, append(data, '\n'), 0o600)
	}
	if err != nil {
		return nil, fault.New(fault.Failed, "allow paths: %w", err).
			WithState("the list is as before").WithHint("docker snaprestore doctor")
	}
	return list, nil
}

// systemDirectories hold the system itself: nothing in them is a workload's
// data. Those with a slash at the end are forbidden with all that they hold,
// the others only themselves.
var systemDirectories = []string{
	"/bin/", "/boot/", "/dev/", "/etc/", "/lib/", "/lib32/", "/lib64/", "/proc/", "/run/", "/sbin/", "/sys/", "/usr/",
	"/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib", "/var/log",
}

// forbidden says why a path can be neither an allowed prefix nor a source.
func forbidden(path, dataRoot string) error {
	switch {
	case !filepath.IsAbs(path):
		return errors.New("it is not an absolute path")
	case filepath.Clean(path) != path:
		return fmt.Errorf("it is not in its shortest form, %s", filepath.Clean(path))
	case within(path, dataRoot) || within(dataRoot, path):
		return errors.New("it holds, or lies in, the engine's own directory")
	}
	for _, dir := range systemDirectories {
		if path == strings.TrimSuffix(dir, "/") || path == dir ||
			(len(dir) > 1 && strings.HasSuffix(dir, "/") && strings.HasPrefix(path, dir)) {
			return fmt.Errorf("%s is a directory of the system", strings.TrimSuffix(dir, "/"))
		}
	}
	return nil
}

// bindDriver marks a bind mount's source among the volumes.
const bindDriver = "bind"

// nameLimit is the longest name of a source, so that the swap's names beside
// it, which contain it, are not over NAME_MAX.
const nameLimit = 200

// bindPlace finds the place of a bind mount's source, or says why it cannot be
// worked with.
func (d *Domain) bindPlace(source, dataRoot string, prefixes []string) (place, error) {
	prefix := ""
	for _, p := range prefixes {
		if source != p && within(source, p) && len(p) > len(prefix) {
			prefix = p
		}
	}
	for _, p := range prefixes {
		if source == p {
			return place{}, errors.New("it is an allowed prefix itself, and only what lies in one can be exchanged")
		}
	}
	if prefix == "" {
		return place{}, errors.New("it is a directory of the host outside every allowed path (docker snaprestore install --allow-path)")
	}
	if err := forbidden(source, dataRoot); err != nil {
		return place{}, err
	}
	if len(filepath.Base(source)) > nameLimit {
		return place{}, fmt.Errorf("its name is longer than %d bytes", nameLimit)
	}
	at := place{dir: filepath.Dir(source), live: filepath.Base(source), lock: "bind:" + source, prefix: prefix}
	if !d.reachable(prefix) {
		return at, nil // looked at once the agent sees it
	}
	return at, inspectSource(at, d.Fail)
}

// inspectSource refuses a source that is no directory of its own on the mount
// of its parent, or that a link leads to.
func inspectSource(at place, fail durable.Failpoint) error {
	dir, err := durable.Open(at.dir, fail)
	switch {
	case errors.Is(err, unix.ELOOP):
		return errors.New("there is a symbolic link on the way to it")
	case err != nil:
		return err
	}
	defer dir.Close()
	shape, err := dir.Shape(at.live)
	switch {
	case err != nil:
		return err
	case shape == durable.Missing:
		return errors.New("it does not exist")
	case shape == durable.Link:
		target, _ := dir.Readlink(at.live)
		if strings.HasPrefix(target, "snaprestore-restore-") {
			return nil // a fence: check says so
		}
		return errors.New("it is a symbolic link")
	case shape != durable.Directory:
		return errors.New("it is not a directory")
	}
	mounted, err := isMountPoint(at.path())
	switch {
	case err != nil:
		return err
	case mounted:
		return errors.New("it is a mount point, which cannot be exchanged")
	}
	return nil
}

// reachable reports whether the agent's container sees a prefix of the host.
func (d *Domain) reachable(prefix string) bool {
	if d.Mounts == nil {
		return true
	}
	for _, m := range d.Mounts {
		if within(prefix, m) {
			return true
		}
	}
	return false
}

// needDirs is needMounts for directories that a record names.
func (d *Domain) needDirs(dirs []string) error {
	if d.Mounts == nil {
		return nil
	}
	prefixes, err := d.Allowed()
	if err != nil {
		return err
	}
	var places []place
	for _, dir := range dirs {
		if within(dir, filepath.Dir(d.Root)) {
			continue
		}
		for _, p := range prefixes {
			if within(dir, p) {
				places = append(places, place{prefix: p})
			}
		}
	}
	return d.needMounts(places...)
}

// recordedDirs are the directories of an operation's volumes.
func recordedDirs(op *journal.Operation) (dirs []string) {
	for _, v := range op.Volumes {
		dirs = append(dirs, v.Dir)
	}
	return dirs
}

// needMounts fails where a place lies under a prefix that the agent does not
// see: its client starts another one that does.
func (d *Domain) needMounts(places ...place) error {
	missing := map[string]bool{}
	for _, p := range places {
		if p.prefix != "" && !d.reachable(p.prefix) {
			missing[p.prefix] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	f := fault.New(fault.Failed, "use bind mounts under %s: the agent does not see them", list(missing)).
		WithState("nothing was changed").WithHint("docker snaprestore doctor")
	for prefix := range missing {
		f.Mounts = append(f.Mounts, prefix)
	}
	sort.Strings(f.Mounts)
	return f
}
