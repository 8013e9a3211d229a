package volplugin

import (
	"context"
	"errors"
	"fmt"
	"log"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// Times of the driver.
const (
	// deadWait is how long a Mount waits for an operation that no process
	// works on: long enough for an agent that is started again, short enough
	// for an engine that starts and waits for its containers.
	deadWait = 15 * time.Second
	// strandedWait is how long a Mount waits for an operation that in turn
	// waits for a container which is being started.
	strandedWait = 5 * time.Second
	// leaseLife is how long a path is kept for a container that does not come.
	leaseLife = 5 * time.Minute

	gateInterval = 50 * time.Millisecond // how often the journal is asked
	liveInterval = time.Second           // how often it is asked who is alive
)

// Config says what a Driver works on.
type Config struct {
	Root   string // state root, absolute
	Points string // directory of the mount paths, as the driver sees it
	Work   string // directory for the driver's own mounts
	Proc   string // the host's processes: "/proc"
	Folder string // Points as the engine sees it, where its namespace is another; "" if it is not known
	Wait   time.Duration
	Fail   durable.Failpoint // nil outside tests
}

// Driver serves the volumes of one state root.
type Driver struct {
	config    Config
	journal   *journal.Store
	volumes   *volume.Registry
	folder    string // of the volumes
	snapshots *catalogue
	points    *points
	open      []*durable.Dir

	// afterBind runs between a bind and the second look; nil outside tests.
	afterBind func()

	mu     sync.Mutex // guards everything below, and binds and detaches
	leases leases
}

// errNotReady says that nothing certain can be answered: the connection is
// dropped, since an engine takes any answer for a fact.
var errNotReady = errors.New("not ready")

// Open opens the state root, which must exist, and takes the mount paths over.
func Open(c Config) (*Driver, error) {
	if c.Wait == 0 {
		c.Wait = volume.MountWait
	}
	d := &Driver{config: c, leases: leases{}}
	if err := d.openRoot(); err != nil {
		d.Close()
		return nil, fmt.Errorf("open state root %s: %w", c.Root, err)
	}
	var err error
	if d.points, err = openPoints(c.Points, c.Work, c.Proc); err != nil {
		d.Close()
		return nil, err
	}
	d.points.folder = c.Folder
	return d, nil
}

func (d *Driver) openRoot() error {
	root, err := durable.Open(d.config.Root, d.config.Fail)
	if err != nil {
		return err
	}
	d.open = append(d.open, root)
	if err := restore.CheckLayout(root); err != nil {
		return err
	}
	dirs := map[string]*durable.Dir{}
	for _, name := range []string{"journal", "snapshots", volume.Folder} {
		if dirs[name], err = root.MakeDir(name, 0o700); err != nil {
			return err
		}
		d.open = append(d.open, dirs[name])
	}
	if d.journal, err = journal.Open(dirs["journal"]); err != nil {
		return err
	}
	store, err := snapshot.Open(dirs["snapshots"])
	if err != nil {
		return err
	}
	d.snapshots = &catalogue{store: store, dir: dirs["snapshots"].Path()}
	d.volumes, d.folder = volume.Open(dirs[volume.Folder]), dirs[volume.Folder].Path()
	return nil
}

// Close lets go of the state root. Binds stay.
func (d *Driver) Close() error {
	var errs []error
	if d.journal != nil {
		errs = append(errs, d.journal.Close())
	}
	for _, dir := range d.open {
		errs = append(errs, dir.Close())
	}
	d.open = nil
	return errors.Join(errs...)
}

// Settle brings the volumes of operations that died into place, and finishes
// what a crash left of a removal. What cannot be settled is logged: its
// volumes stay shut.
func (d *Driver) Settle(ctx context.Context) {
	open, err := d.journal.Open()
	if err != nil {
		log.Printf("the journal cannot be read, no volume is mounted until it can: %v", err)
		return
	}
	for _, op := range open {
		if d.touches(op) {
			d.settle(ctx, op)
		}
	}
	if err := d.volumes.Sweep(func(dir string) bool { return worksIn(open, dir) }); err != nil {
		log.Printf("sweep the volumes: %v", err)
	}
}

func (d *Driver) settle(ctx context.Context, op *journal.Operation) {
	s := restore.Settler{Journal: d.journal, Mine: d.mine, Mounted: d.mounted, Fail: d.config.Fail}
	err := s.Settle(ctx, op.ID)
	var locked *journal.LockedError
	switch {
	case errors.As(err, &locked): // its process lives
	case err != nil:
		log.Printf("settle %s %s, which was %s: %v", op.Kind, op.ID, op.State, err)
	default:
		log.Printf("looked after the volumes of %s %s, which was %s and whose process is gone", op.Kind, op.ID, op.State)
	}
}

// mine reports whether a volume directory is the driver's.
func (d *Driver) mine(dir string) bool { return filepath.Dir(dir) == d.folder }

func (d *Driver) touches(op *journal.Operation) bool {
	for _, v := range op.Volumes {
		if d.mine(v.Dir) {
			return true
		}
	}
	return false
}

func worksIn(open []*journal.Operation, dir string) bool {
	for _, op := range open {
		for _, v := range op.Volumes {
			if v.Dir == dir {
				return true
			}
		}
	}
	return false
}

// mounted reports whether a process has something in these directories
// mounted. The driver's own path is one, until it is detached; a copy of that
// which a namespace keeps is not.
func (d *Driver) mounted(dirs []string) (bool, error) {
	roots := make([]*mountinfo.Info, 0, len(dirs))
	for _, dir := range dirs {
		at, err := onDisk(dir)
		if err != nil {
			return false, err
		}
		roots = append(roots, at)
	}
	holders, err := volume.Holders(d.config.Proc, func(m *mountinfo.Info) bool {
		for _, root := range roots {
			if m.Major == root.Major && m.Minor == root.Minor && under(m.Root, root.Root) {
				return true
			}
		}
		return false
	})
	return len(holders) > 0, err
}

// onDisk tells where a directory lies on its file system: device, and path
// from the file system's root, as mountinfo tells them of mounts.
func onDisk(dir string) (*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var on *mountinfo.Info
	for _, m := range mounts { // a later mount covers an earlier one
		if on == nil || len(m.Mountpoint) >= len(on.Mountpoint) {
			on = m
		}
	}
	if on == nil {
		return nil, fmt.Errorf("no mount holds %s", dir)
	}
	rel, err := filepath.Rel(on.Mountpoint, dir)
	if err != nil {
		return nil, err
	}
	return &mountinfo.Info{Major: on.Major, Minor: on.Minor, Root: filepath.Join(on.Root, rel)}, nil
}

// create makes a volume or finds it.
func (d *Driver) create(name string, options map[string]string) error {
	s, err := volume.Parse(name, options)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err = d.volumes.Create(s)
	return err
}

// find gives a volume. Its absence is told only when it is certain.
func (d *Driver) find(name string) (volume.Volume, error) {
	v, err := d.volumes.Get(name)
	if err == nil || errors.Is(err, volume.ErrNotFound) {
		return v, err
	}
	log.Printf("%v: no answer is given", err)
	return v, fmt.Errorf("%w: %w", errNotReady, err)
}
