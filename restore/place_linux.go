package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// place is where a volume's tree lies: an entry of a directory in which the
// swap has its other names.
type place struct {
	dir, live string
	// lock is the journal's key for the tree: one for all volumes that are it.
	lock string
	// prefix is the allowed prefix of a bind mount's source, else "".
	prefix string
}

// path is the tree's absolute path.
func (p place) path() string { return filepath.Join(p.dir, p.live) }

// placeOf finds a volume's place from what the engine says of it, or says why
// the volume cannot be worked with.
func (d *Domain) placeOf(v Volume) (place, error) {
	switch {
	case volume.Served(v.Driver):
		spec, err := volume.Parse(v.Name, v.Options)
		if err != nil {
			return place{}, err
		}
		return place{dir: filepath.Join(d.Root, volume.Folder, spec.Key()), live: volume.Live, lock: spec.LockKey()}, nil
	case v.Driver != "local":
		return place{}, fmt.Errorf("its driver is %q, and only volumes of the drivers local and %s are known", v.Driver, volume.Driver)
	case len(v.Options) > 0:
		return place{}, fmt.Errorf("it has driver options (%s), so its data is not in the engine's own directory", optionList(v.Options))
	case !filepath.IsAbs(v.Mountpoint) || filepath.Base(v.Mountpoint) != "_data":
		return place{}, fmt.Errorf("the engine gives it the unusual mount point %q", v.Mountpoint)
	}
	return place{dir: filepath.Dir(v.Mountpoint), live: filepath.Base(v.Mountpoint), lock: "volume:" + v.Name}, nil
}

func optionList(options map[string]string) string {
	var out []string
	for k, v := range options {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// check refuses a place where the swap could not be done, with the reason.
func (d *Domain) check(name string, p place) error {
	dir, err := durable.Open(p.dir, d.Fail)
	if err != nil {
		return placeFault(name, err)
	}
	defer dir.Close()
	shape, err := dir.Shape(p.live)
	if err != nil {
		return placeFault(name, err)
	}
	switch shape {
	case durable.Directory:
	case durable.Link:
		if err := d.atWork(name, dir, p.live); err != nil {
			return err
		}
		return fault.New(fault.Interrupted, "use volume %s: its directory is a link, as an unfinished restore leaves it", name).
			WithState("nothing was changed").
			WithHint("docker snaprestore recover")
	default:
		return placeFault(name, errors.New("its directory is missing"))
	}
	mounted, err := isMountPoint(p.path())
	if err != nil {
		return placeFault(name, err)
	}
	if mounted {
		return placeFault(name, errors.New("its directory is a mount point, which cannot be exchanged"))
	}
	return nil
}

// atWork says so where the fence in a volume's place is that of an operation
// which a living process works on.
func (d *Domain) atWork(name string, dir *durable.Dir, fence string) error {
	target, err := dir.Readlink(fence)
	if err != nil {
		return placeFault(name, err)
	}
	open, err := d.journal.Open()
	if err != nil {
		return journalFault(err)
	}
	for _, op := range open {
		if fenceTarget(op.ID) != target {
			continue
		}
		if alive, err := d.journal.Alive(op.ID); err != nil || !alive {
			return journalFault(err)
		}
		return lockedFault(&journal.LockedError{
			Key:    "volume " + name,
			Holder: journal.Holder{Operation: op.ID, Kind: op.Kind, Since: op.Created},
		})
	}
	return nil
}

func placeFault(name string, err error) error {
	f := fault.New(fault.Failed, "use volume %s: %w", name, err).WithState("nothing was changed")
	switch {
	case errors.Is(err, unix.ELOOP):
		f = f.WithHint("there is a symbolic link on the way to it; point the engine's data root at the real directory")
	case errors.Is(err, fs.ErrNotExist):
		f = f.WithHint("see what the engine says: docker volume inspect %s", name)
	default:
		f = f.WithHint("docker snaprestore doctor")
	}
	return f
}

// isMountPoint asks the kernel (statx, STATX_ATTR_MOUNT_ROOT, since Linux 5.8).
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	if err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
