package restore

import (
	"context"
	"errors"
	"path/filepath"
	"sort"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// PlanUndo says how a restore or an undo would be taken back: the trees that
// it replaced still lie beside the volumes, and are exchanged in again. An
// adoption, which has to be named, is taken back by another. Up to
// r.LockTimeout it waits for operations that are at work on the same things.
func (d *Domain) PlanUndo(ctx context.Context, id string, r plan.UndoRequest) (_ *plan.Plan, err error) {
	defer unchanged(&err)
	return d.settled(ctx, r.LockTimeout, func() (*plan.Plan, error) { return d.planUndo(ctx, id, r) })
}

func (d *Domain) planUndo(ctx context.Context, id string, r plan.UndoRequest) (*plan.Plan, error) {
	if adopted, err := d.adoption(r.Operation); err != nil || adopted != nil {
		if err != nil {
			return nil, err
		}
		return d.planUnadopt(ctx, id, r, adopted)
	}
	snap, err := d.undoable(r)
	if err != nil {
		return nil, err
	}
	r.Operation = snap.Operation
	inv, err := d.inventory(ctx)
	if err != nil {
		return nil, err
	}
	p := &plan.Plan{
		Kind: journal.Undo, Operation: id, Snapshot: snap, Undoes: snap.Operation,
		Project: snap.Project, Start: true, Timeout: r.Timeout, Undo: &r,
	}
	if p.Timeout <= 0 {
		p.Timeout = HealthTimeout
	}
	for i, sv := range snap.Volumes {
		v, err := d.planTree(inv, snap, i, sv)
		if err != nil {
			return nil, err
		}
		p.Volumes = append(p.Volumes, v)
	}
	if err := d.planContainers(ctx, inv, p, r.StopTimeout); err != nil {
		return nil, err
	}
	p.Warnings = append(p.Warnings, imageWarnings(snap, p.Containers)...)
	return p, nil
}

// planTree plans the return of one kept tree.
func (d *Domain) planTree(inv *inventory, snap snapshot.Snapshot, index int, sv snapshot.Volume) (plan.Volume, error) {
	v := plan.Volume{
		Name: sv.Name, From: sv.Name, Index: index, Engine: plan.Rename,
		Stage: filepath.Base(sv.Tree), Bytes: sv.Bytes, Files: sv.Files,
	}
	gone := func(reason string) error {
		return fault.New(fault.NotFound, "undo %s: volume %s: %s", snap.Operation, sv.Name, reason).
			WithState("nothing was changed").
			WithHint("see what there is to restore: docker snaprestore ls")
	}
	if _, ok := inv.volumes[sv.Name]; !ok {
		return v, gone("the volume was removed, and its old data with it")
	}
	if err := inv.reasons[sv.Name]; err != nil {
		return v, gone(err.Error())
	}
	at := inv.places[sv.Name]
	if err := d.needMounts(at); err != nil {
		return v, err
	}
	if filepath.Dir(sv.Tree) != at.dir || !strings.HasPrefix(v.Stage, ".snaprestore-") {
		return v, gone("the volume lies elsewhere now than its old data")
	}
	if err := d.check(sv.Name, at); err != nil {
		return v, err
	}
	dir, err := durable.Open(at.dir, d.Fail)
	if err != nil {
		return v, placeFault(sv.Name, err)
	}
	defer dir.Close()
	shape, err := dir.Shape(v.Stage)
	if err != nil {
		return v, placeFault(sv.Name, err)
	}
	if shape != durable.Directory {
		return v, gone("its old data is no longer there")
	}
	v.Dir, v.Live, v.Lock = at.dir, at.live, at.lock
	v.Shares = others(inv.sharing(sv.Name), sv.Name)
	return v, nil
}

// undoable finds the safety snapshot of the operation to undo: the one named,
// or the newest.
func (d *Domain) undoable(r plan.UndoRequest) (snapshot.Snapshot, error) {
	all, err := d.snapshots.List()
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Created.After(all[j].Created) })
	var found []snapshot.Snapshot
	for _, s := range all {
		if s.Kind != snapshot.Safety || (r.Project != "" && s.Project != r.Project) {
			continue
		}
		if r.Operation == "" {
			return s, nil
		}
		if strings.HasPrefix(s.Operation, r.Operation) || s.ID == r.Operation || s.Name == r.Operation {
			found = append(found, s)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return snapshot.Snapshot{}, fault.New(fault.Failed, "undo %s: several operations begin so", r.Operation).
			WithState("nothing was changed").WithHint("docker snaprestore status")
	case r.Operation == "":
		return snapshot.Snapshot{}, fault.New(fault.NotFound, "undo: there is no restore or undo to take back").
			WithState("nothing was changed").WithHint("docker snaprestore ls")
	}
	return snapshot.Snapshot{}, d.notUndoable(r.Operation)
}

// notUndoable says why an operation that is named cannot be undone.
func (d *Domain) notUndoable(ref string) error {
	f := func(kind fault.Kind, reason string) error {
		return fault.New(kind, "undo %s: %s", ref, reason).
			WithState("nothing was changed").WithHint("docker snaprestore status")
	}
	op, err := d.journal.Load(ref)
	switch {
	case errors.Is(err, journal.ErrNotFound):
		return f(fault.NotFound, "there is no such operation with kept data")
	case err != nil:
		return journalFault(err)
	case op.State != journal.Closed:
		return fault.New(fault.Interrupted, "undo %s: it is not finished, it is %s", ref, op.State).
			WithState("nothing was changed").WithHint("docker snaprestore recover %s", ref)
	case op.Kind != journal.Restore && op.Kind != journal.Undo && op.Kind != journal.Adopt:
		return f(fault.Failed, "it is a "+string(op.Kind)+", which replaces no data")
	case op.Outcome != nil && op.Outcome.Result == journal.ResultRolledBack:
		return f(fault.Failed, "it was rolled back, so the data is as before")
	}
	return f(fault.NotFound, "it was undone already, or its old data was removed")
}
