package volplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// mount binds the volume's tree at its path for the engine, and waits for an
// operation first.
func (d *Driver) mount(ctx context.Context, name, id string, engine process) (string, error) {
	w := &waiting{driver: d, name: name}
	for {
		v, err := d.find(name)
		if err != nil {
			return "", err
		}
		blocking, err := d.blocking(v)
		if err != nil {
			return "", err
		}
		if blocking == nil {
			path, err := d.bindFor(ctx, v, id, engine)
			if !errors.Is(err, errShut) {
				return path, err
			}
		}
		if err := w.wait(ctx, blocking); err != nil {
			return "", err
		}
	}
}

// blocking finds the operation that forbids to mount the volume.
func (d *Driver) blocking(v volume.Volume) (*journal.Operation, error) {
	open, err := d.journal.Open()
	if err != nil {
		return nil, fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	op, err := restore.Blocking(open, v.Dir)
	if err != nil {
		return nil, fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	return op, nil
}

// errShut says that a fence was raised while the volume was being mounted.
var errShut = errors.New("an operation shut the volume")

// bindFor binds the tree and records the mount, unless an operation comes
// between.
func (d *Driver) bindFor(ctx context.Context, v volume.Volume, id string, engine process) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	tree, err := openTree(v.Dir, volume.Live)
	if err != nil {
		return "", d.noTree(v, err)
	}
	defer tree.Close()
	if err := d.show(v, tree, engine); err != nil {
		d.release(v.Name)
		return "", fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	if d.afterBind != nil {
		d.afterBind()
	}
	// With the bind in place: an operation that has fenced the volume since
	// is seen now, and one that fences it from now on sees the bind.
	switch open, err := d.stillOpen(v); {
	case err != nil:
		d.release(v.Name)
		return "", err
	case !open:
		d.release(v.Name)
		return "", errShut
	case ctx.Err() != nil: // the engine does not want it any more
		d.release(v.Name)
		return "", ctx.Err()
	}
	d.leases.add(v.Name, lease{id: id, asked: engine, since: time.Now()})
	return d.points.path(v.Name), nil
}

// show binds the tree at the volume's path so that the engine sees it there.
func (d *Driver) show(v volume.Volume, tree *os.File, engine process) error {
	for repaired := false; ; repaired = true {
		mounted, current, err := d.points.bound(v.Name, tree)
		if err == nil && mounted && !current {
			err = d.replace(v)
		}
		if err == nil && !current {
			err = d.points.bind(v.Name, tree)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) { // not so when the file system of the paths was taken away
			err = d.points.seen(v.Name, engine)
		}
		if !errors.Is(err, errUnseen) || repaired {
			return err
		}
		if err := d.points.repair(engine); err != nil {
			return err
		}
		log.Printf("mount volume %s: the engine had lost the mount paths, and has them again", v.Name)
	}
}

// Watch makes sure that the engine has the mount paths, also when no Mount
// asks for one. An error is what only a new driver mends.
func (d *Driver) watch(engine process) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	reaches, err := d.points.reach(engine)
	if err != nil || reaches {
		return err
	}
	if err := d.points.repair(engine); err != nil {
		return err
	}
	log.Printf("the engine had lost the mount paths, and has them again")
	return nil
}

// stillOpen reports whether what is bound is the live tree and no operation
// forbids to mount it.
func (d *Driver) stillOpen(v volume.Volume) (bool, error) {
	blocking, err := d.blocking(v)
	if err != nil || blocking != nil {
		return false, err
	}
	tree, err := openTree(v.Dir, volume.Live)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
		return false, nil // in the midst of a swap
	}
	if err != nil {
		return false, fmt.Errorf("mount volume %s: %w", v.Name, err)
	}
	defer tree.Close()
	_, current, err := d.points.bound(v.Name, tree)
	return current, err
}

// noTree explains why a volume's tree cannot be opened though no operation
// that is known forbids it.
func (d *Driver) noTree(v volume.Volume, err error) error {
	if blocking, blockErr := d.blocking(v); blockErr == nil && blocking != nil {
		return errShut
	}
	f := fault.New(fault.Interrupted, "mount volume %s: %w", v.Name, err).WithHint("docker snaprestore status")
	if target, linkErr := os.Readlink(filepath.Join(v.Dir, volume.Live)); linkErr == nil {
		f = fault.New(fault.Interrupted, "mount volume %s: it is shut by an operation that the journal does not have (%s)", v.Name, target)
	}
	return f.WithState("its data lies in %s", v.Dir).WithHint("docker snaprestore doctor")
}

// replace takes away a bind of a tree that is not the live one any more. While
// containers run on that tree the volume is not mounted for others.
func (d *Driver) replace(v volume.Volume) error {
	users, err := d.points.users(v.Name)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.New(fault.Failed, "process %d still runs on data that was replaced", users[0]).
			WithState("nothing was changed").WithHint("stop its container: docker ps --filter volume=%s", v.Name)
	}
	delete(d.leases, v.Name)
	return d.points.detach(v.Name)
}

// mountpoint is the volume's path while it is mounted there, else "".
func (d *Driver) mountpoint(name string) (string, error) {
	if _, err := d.find(name); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	mounted, _, err := d.points.bound(name, nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errNotReady, err)
	}
	if !mounted {
		return "", nil
	}
	return d.points.path(name), nil
}

// release detaches the volume's path when no mount needs it.
func (d *Driver) release(name string) {
	if len(d.leases[name]) > 0 {
		return
	}
	if err := d.points.detach(name); err != nil {
		log.Printf("detach volume %s: %v", name, err)
	}
}

// unmount ends one mount.
func (d *Driver) unmount(name, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases.drop(name, id)
	d.release(name)
}

// Reap drops the mounts of engines that are gone and of containers that never
// came, and detaches the paths that nobody needs.
func (d *Driver) Reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases.expire(func(name string, one lease) bool {
		if one.asked.gone() {
			return true
		}
		if time.Since(one.since) < leaseLife {
			return false
		}
		users, err := d.points.users(name)
		return err == nil && len(users) == 0
	})
	names, err := d.points.names()
	if err != nil {
		log.Printf("look for mounts: %v", err)
		return
	}
	for _, name := range names {
		d.release(name)
	}
}

// stranded reports whether an operation's volumes include one whose path is
// bound for a container that has not come up yet: the operation waits for it,
// and it may wait, in another volume, for the operation.
func (d *Driver) stranded(op *journal.Operation) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.leases {
		v, err := d.volumes.Get(name)
		if err != nil || !worksIn([]*journal.Operation{op}, v.Dir) {
			continue
		}
		if users, err := d.points.users(name); err == nil && len(users) == 0 {
			return true
		}
	}
	return false
}
