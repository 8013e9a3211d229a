package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/tree"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// stage writes the new tree of every volume beside the old one, while the
// workload runs, and syncs them all. The snapshot is verified on the way:
// what is damaged ends here, before anything is stopped.
func (d *Domain) stage(ctx context.Context, log *journal.Log, p *plan.Plan) error {
	op := log.Op
	if p.Restore != nil {
		ctx = budget.With(ctx, p.Restore.LimitRate)
	}
	if err := d.makeVolumes(ctx, log, p); err != nil {
		return err
	}
	d.phase(op.ID, "stage")
	devices := map[uint64]*durable.Dir{}
	defer func() {
		for _, dir := range devices {
			dir.Close()
		}
	}()
	for i := range op.Volumes {
		v := &op.Volumes[i]
		dir, err := durable.Open(v.Dir, d.Fail)
		if err != nil {
			return fmt.Errorf("open the directory of volume %s: %w", v.Name, err)
		}
		device, err := dir.Device()
		if err == nil && !v.Keep {
			err = d.stageVolume(ctx, op, dir, v, p.Snapshot)
		}
		if _, have := devices[device]; have || err != nil {
			dir.Close()
		} else {
			devices[device] = dir
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	d.phase(op.ID, "sync")
	for _, dir := range devices {
		if err := dir.SyncFS(); err != nil {
			return err
		}
	}
	return nil
}

func (d *Domain) stageVolume(ctx context.Context, op *journal.Operation, dir *durable.Dir, v *journal.Volume, snap snapshot.Snapshot) error {
	if done, err := d.graft(ctx, op, dir, v, snap); done || err != nil {
		return err
	}
	if err := d.makeStage(dir, v); err != nil {
		return err
	}
	sub, err := dir.OpenDir(v.Stage)
	if err != nil {
		return err
	}
	defer sub.Close()
	root, err := sub.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	return d.load(ctx, op.ID, v.Name, snap, v.Index, root)
}

// graft stages a volume as a whole, and reports false where its copy engine
// does not do that, or not to this place. The engine's own directories, of the
// driver local, get no subvolume: it removes them as it removes files.
func (d *Domain) graft(ctx context.Context, op *journal.Operation, dir *durable.Dir, v *journal.Volume, snap snapshot.Snapshot) (bool, error) {
	if subvolumes, err := d.keepsSubvolumes(dir, v); err != nil || !subvolumes {
		return false, err
	}
	sv := snap.Volumes[v.Index]
	var err error
	if sv.Engine == treeEngine {
		err = d.graftTree(ctx, dir, v.Stage, sv)
	} else {
		err = d.graftStored(ctx, dir, v.Stage, snap.ID, sv)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	if err == nil {
		d.taken(op.ID, v.Name)
	}
	return true, err
}

// graftStored grafts what a copy engine stored, or is errors.ErrUnsupported.
func (d *Domain) graftStored(ctx context.Context, dir *durable.Dir, stage, id string, sv snapshot.Volume) error {
	engine, err := d.Copiers.Named(sv.Engine)
	if err != nil {
		return err
	}
	whole, ok := engine.(copyengine.Whole)
	if !ok {
		return errors.ErrUnsupported
	}
	store, err := d.snapshots.Content(id)
	if err != nil {
		return err
	}
	defer store.Close()
	return dir.Graft(stage, func(into *os.Root) error {
		return whole.LoadAs(ctx, store, contentOf(sv), into, stage)
	})
}

// graftTree grafts the tree that a safety snapshot names, or is
// errors.ErrUnsupported.
func (d *Domain) graftTree(ctx context.Context, dir *durable.Dir, stage string, sv snapshot.Volume) error {
	kept, err := d.openKept(sv)
	if err != nil {
		return err
	}
	defer kept.Close()
	root, err := dir.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	for _, engine := range d.Copiers {
		if whole, ok := engine.(copyengine.Whole); ok && whole.Able(kept, root) == nil {
			return dir.Graft(stage, func(into *os.Root) error { return whole.CopyAs(ctx, kept, into, stage) })
		}
	}
	return errors.ErrUnsupported
}

// openKept opens the tree that a safety snapshot names.
func (d *Domain) openKept(sv snapshot.Volume) (*os.Root, error) {
	kept, err := d.openTree(sv.Tree)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "the kept tree %s is no longer there: %w", sv.Tree, err).
			WithHint("docker snaprestore ls")
	}
	return kept, err
}

// makeStage makes the directory that a volume is staged in.
func (d *Domain) makeStage(dir *durable.Dir, v *journal.Volume) error {
	subvolumes, err := d.keepsSubvolumes(dir, v)
	if err != nil {
		return err
	}
	if subvolumes {
		return dir.MakeTree(v.Stage, 0o700)
	}
	return dir.Mkdir(v.Stage, 0o700)
}

// keepsSubvolumes tells whether the trees of a volume are subvolumes where the
// file system has such: those of the driver are, and a volume whose tree was
// one stays so.
func (d *Domain) keepsSubvolumes(dir *durable.Dir, v *journal.Volume) (bool, error) {
	if filepath.Dir(v.Dir) == filepath.Join(d.Root, volume.Folder) {
		return true, nil
	}
	return dir.IsSubvolume(v.Live)
}

// load writes one volume of a snapshot into an empty directory.
func (d *Domain) load(ctx context.Context, op, name string, snap snapshot.Snapshot, index int, into *os.Root) error {
	sv := snap.Volumes[index]
	progress, end := d.meter(op, name, sv.Bytes, sv.Files)
	switch sv.Engine {
	case treeEngine:
		kept, err := d.openKept(sv)
		if err != nil {
			return err
		}
		defer kept.Close()
		lost := func(path, reason string) { d.warn(op, "volume %s: %s: %s", name, path, reason) }
		if err := budget.Do(ctx, func() error {
			return tree.Copy(ctx, kept, into, lost, budget.Progress(ctx, progress))
		}); err != nil {
			return err
		}
	default:
		engine, err := d.Copiers.Named(sv.Engine)
		if err != nil {
			return err
		}
		store, err := d.snapshots.Content(snap.ID)
		if err != nil {
			return err
		}
		defer store.Close()
		if err := budget.Do(ctx, func() error {
			return engine.Load(ctx, store, contentOf(sv), into, progress)
		}); err != nil {
			return err
		}
	}
	end()
	return nil
}

func contentOf(sv snapshot.Volume) copyengine.Content {
	return copyengine.Content{File: sv.File, SHA256: sv.SHA256, Bytes: sv.Bytes, Files: sv.Files, Stored: sv.Stored, Uncounted: sv.Uncounted}
}

// makeVolumes makes the volumes that do not exist, and records where they lie.
func (d *Domain) makeVolumes(ctx context.Context, log *journal.Log, p *plan.Plan) error {
	made := false
	for i := range p.Volumes {
		if p.Volumes[i].Create == nil {
			continue
		}
		made = true
		created, err := d.Engine.CreateVolume(ctx, *p.Volumes[i].Create)
		if err != nil {
			return fmt.Errorf("make volume %s: %w", p.Volumes[i].Name, err)
		}
		at, err := d.placeOf(created)
		if err != nil {
			return placeFault(created.Name, err)
		}
		if err := d.check(created.Name, at); err != nil {
			return err
		}
		v := &log.Op.Volumes[i]
		v.Dir, v.Live, v.Fence, v.Old = at.dir, at.live, fenceName(log.Op.ID, at.live), oldName(log.Op.ID, at.live)
	}
	if !made {
		return nil
	}
	return log.Write(journal.Staging)
}

// unstage removes what stage made.
func (d *Domain) unstage(ctx context.Context, op *journal.Operation) error {
	var failed []error
	for i := range op.Volumes {
		if err := d.bring(op.ID, &op.Volumes[i], toOld); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// removeCreated removes the volumes that an operation made and gave up. One
// that holds anything was not made by it, or is in use already, and stays.
func (d *Domain) removeCreated(ctx context.Context, op *journal.Operation) error {
	var failed []error
	for _, v := range op.Volumes {
		if !v.Created {
			continue
		}
		err := d.removeEmpty(ctx, v.Name)
		if err != nil && !errors.Is(err, ErrNoSuch) {
			failed = append(failed, fmt.Errorf("remove volume %s, which was made for this: %w", v.Name, err))
		}
	}
	return errors.Join(failed...)
}

func (d *Domain) removeEmpty(ctx context.Context, name string) error {
	v, err := d.Engine.Volume(ctx, name)
	if err != nil {
		return err
	}
	at, err := d.placeOf(v)
	if err != nil {
		return err
	}
	dir, err := durable.Open(at.dir, d.Fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	live, err := dir.OpenDir(at.live)
	if err != nil {
		return err
	}
	defer live.Close()
	entries, err := live.Names()
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return errors.New("it is not empty")
	}
	return d.Engine.RemoveVolume(ctx, name)
}
