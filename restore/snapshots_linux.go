package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// List gives the snapshots, newest first, of one project or of all. Damaged
// ones are in the error, and the others are given all the same.
func (d *Domain) List(ctx context.Context, project string) ([]snapshot.Snapshot, error) {
	all, err := d.snapshots.List()
	return ofProject(all, project), errors.Join(err, ctx.Err())
}

// Inspect gives the snapshots that are named, in that order, each with the last
// drill of it that the journal remembers.
func (d *Domain) Inspect(ctx context.Context, refs []string, project string) (_ []plan.Inspected, err error) {
	defer unchanged(&err)
	out := []plan.Inspected{}
	ops, err := d.journal.List()
	if err != nil {
		d.warn("", "what the journal has of drills is not all known: %v", err)
	}
	var failed []error
	for _, ref := range refs {
		s, err := d.snapshots.Resolve(ref, project)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, plan.Inspected{Snapshot: s, Drilled: lastDrill(ops, s)})
	}
	return out, errors.Join(append(failed, ctx.Err())...)
}

// lastDrill is the newest drill of a whole snapshot that succeeded.
func lastDrill(ops []*journal.Operation, s snapshot.Snapshot) (last *plan.LastDrill) {
	for _, op := range ops {
		if op.Snapshot != s.ID {
			continue
		}
		if drill := plan.Drill(op, len(s.Volumes)); drill != nil {
			last = drill // the list has the oldest first
		}
	}
	return last
}

// Remove removes snapshots for good. All are looked up, and locked, before the
// first is removed.
func (d *Domain) Remove(ctx context.Context, id string, refs []string, project string) (_ []string, err error) {
	defer unchanged(&err)
	removed := []string{}
	snaps, err := d.removable(refs, project)
	if err != nil {
		return removed, err
	}
	var keys []journal.Key
	for _, s := range snaps {
		keys = append(keys, journal.Key{Name: snapshotKey(s.ID)})
	}
	held, err := d.lock(ctx, id, journal.Remove, keys, 0)
	if err != nil {
		return removed, err
	}
	defer held.Release()
	for i, s := range snaps {
		opID := id
		if i > 0 {
			opID = journal.NewID()
		}
		if contains(removed, s.ID) {
			continue
		}
		if err := d.removeOne(ctx, opID, s, names(keys)); err != nil {
			if len(removed) > 0 {
				err = after("removed before it: "+strings.Join(removed, ", "), err)
			}
			return removed, err
		}
		removed = append(removed, s.ID)
	}
	return removed, nil
}

// removable looks up snapshots to be removed. What is damaged can be removed
// too: its trees, if it kept any, are those of the operation on record.
func (d *Domain) removable(refs []string, project string) ([]snapshot.Snapshot, error) {
	var out []snapshot.Snapshot
	var failed []error
	for _, ref := range refs {
		s, err := d.snapshots.Resolve(ref, project)
		if fault.Is(err, fault.Corrupt) {
			if s.ID, err = d.snapshots.ResolveID(ref, project); err == nil {
				s.Volumes, err = d.keptTrees(s.ID)
			}
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(failed...)
}

// keptTrees gives the volumes of the safety snapshot with this id from the
// record of the operation that made it; none where there is no such record.
func (d *Domain) keptTrees(id string) (out []snapshot.Volume, err error) {
	ops, err := d.journal.List()
	if err != nil {
		return nil, journalFault(err)
	}
	for _, op := range ops {
		if op.Safety != id {
			continue
		}
		for _, v := range op.Volumes {
			out = append(out, snapshot.Volume{Name: v.Name, Tree: filepath.Join(v.Dir, v.Old)})
		}
	}
	return out, nil
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func (d *Domain) removeOne(ctx context.Context, id string, s snapshot.Snapshot, locks []string) error {
	op := &journal.Operation{ID: id, Kind: journal.Remove, State: journal.Working, Created: time.Now().UTC(),
		Project: s.Project, Snapshot: s.ID, Locks: locks}
	for i, v := range s.Volumes {
		if v.Tree != "" {
			op.Volumes = append(op.Volumes, journal.Volume{Name: v.Name, Dir: filepath.Dir(v.Tree), Old: filepath.Base(v.Tree), Index: i})
		}
	}
	if err := d.needDirs(recordedDirs(op)); err != nil {
		return err
	}
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		return journalFault(err)
	}
	defer log.Release()
	if err := d.removeVolumes(op); err != nil {
		return fault.New(fault.Failed, "remove snapshot %s: %w", s.ID, err).
			WithState("a part of it is gone").WithHint("docker snaprestore recover %s", id)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	if err := log.Close(); err != nil {
		d.warn(id, "close operation %s: %v; docker snaprestore recover closes it", id, err)
	}
	return nil
}

// removeVolumes takes a snapshot off the list, then removes the trees that it
// kept beside volumes.
func (d *Domain) removeVolumes(op *journal.Operation) error {
	if err := d.snapshots.Remove(op.Snapshot); err != nil {
		return err
	}
	for _, v := range op.Volumes {
		dir, err := durable.Open(v.Dir, d.Fail)
		if isMissing(err) {
			continue // the volume was removed, and this with it
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		err = dir.RemoveAll(v.Old)
		if err == nil {
			err = dir.Sync()
		}
		dir.Close()
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// share holds a snapshot against its removal while it is read, for a verb.
func (d *Domain) share(ctx context.Context, by journal.Kind, ref, project string) (snapshot.Snapshot, *journal.Held, error) {
	s, err := d.snapshots.Resolve(ref, project)
	if err != nil {
		return s, nil, err
	}
	held, err := d.journal.Locks().Lock(ctx, []journal.Key{{Name: snapshotKey(s.ID), Shared: true}}, journal.Holder{Kind: by, Since: time.Now().UTC()}, takeoverWait)
	if err != nil {
		return s, nil, journalFault(err)
	}
	if _, err := d.snapshots.Load(s.ID); err != nil {
		held.Release()
		return s, nil, err
	}
	return s, held, nil
}

// Verify reads snapshots whole and checks every byte: those named, or all. A
// damaged one is a row that says so; the error is for what could not be looked
// at.
func (d *Domain) Verify(ctx context.Context, refs []string, project string) (_ []plan.Verified, err error) {
	defer unchanged(&err)
	out := []plan.Verified{}
	named := len(refs) > 0
	if !named {
		ids, err := d.snapshots.IDs()
		if err != nil {
			return out, err
		}
		refs = ids
	}
	for _, ref := range refs {
		id, err := d.snapshots.ResolveID(ref, project)
		if fault.Is(err, fault.NotFound) && !named {
			continue // it was removed meanwhile
		}
		if err != nil {
			return out, err
		}
		row := plan.Verified{Snapshot: id, Result: "ok"}
		s, held, err := d.share(ctx, "verify", id, project)
		switch {
		case fault.Is(err, fault.Corrupt):
			row.Result, row.Error = "damaged", err.Error()
			out = append(out, row)
			continue
		case fault.Is(err, fault.NotFound) && !named:
			continue
		case err != nil:
			return out, err
		}
		row.Name = s.Name
		if err := d.needDirs(keptDirs(s)); err != nil {
			held.Release()
			return out, err
		}
		if project == "" || s.Project == project {
			row.Bytes, err = d.verify(ctx, s)
			if err != nil {
				row.Result, row.Error = "damaged", err.Error()
			}
			out = append(out, row)
		}
		held.Release()
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
	}
	return out, nil
}

// keptDirs are the trees of a safety snapshot.
func keptDirs(s snapshot.Snapshot) (dirs []string) {
	for _, v := range s.Volumes {
		if v.Tree != "" {
			dirs = append(dirs, v.Tree)
		}
	}
	return dirs
}

func (d *Domain) verify(ctx context.Context, s snapshot.Snapshot) (bytes int64, err error) {
	for _, v := range s.Volumes {
		progress, end := d.meter("", s.ID+"/"+v.Name, v.Bytes, v.Files)
		count := func(b, f int64) { bytes += b; progress(b, f) }
		switch v.Engine {
		case treeEngine:
			// A kept tree has no checksums: that it is there is all there is.
			tree, err := d.openTree(v.Tree)
			if err != nil {
				return bytes, fmt.Errorf("volume %s: %w", v.Name, err)
			}
			tree.Close()
		default:
			engine, err := d.Copiers.Named(v.Engine)
			if err != nil {
				return bytes, fmt.Errorf("volume %s: %w", v.Name, err)
			}
			store, err := d.snapshots.Content(s.ID)
			if err != nil {
				return bytes, err
			}
			err = engine.Verify(ctx, store, contentOf(v), count)
			store.Close()
			if err != nil {
				return bytes, fmt.Errorf("volume %s: %w", v.Name, err)
			}
		}
		end()
	}
	return bytes, nil
}
