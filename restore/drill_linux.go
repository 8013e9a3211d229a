package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Labels of what a drill makes.
const (
	labelDrill    = "com.snaprestore.drill"    // the operation
	labelSnapshot = "com.snaprestore.snapshot" // its id
	labelOf       = "com.snaprestore.of"       // name of the volume or container in whose place it is
)

// trialPrefix begins the names of all that a drill makes.
func trialPrefix(op string) string { return "snaprestore-drill-" + op }

// trialNameLimit keeps the name of a volume one of a directory, in bytes.
const trialNameLimit = 200

// trialName names what stands in for something: the n-th of its kind.
func trialName(op, of string, n int) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_.-", r):
			return r
		}
		return '-'
	}, of), "-")
	name = fmt.Sprintf("%s-%d-%s", trialPrefix(op), n, name)
	return name[:min(len(name), trialNameLimit)]
}

// Drill tries a snapshot out in operation id: its volumes are restored into
// throwaway ones and compared with it, and where that is asked for, the
// workload is started on them. Then all of it is removed. The names of what is
// made are on record before any of it is, so whoever recovers can remove it.
// Nothing of the workload is touched.
func (d *Domain) Drill(ctx context.Context, id string, r plan.DrillRequest) (_ plan.Drilled, err error) {
	none := plan.Drilled{}
	defer unchanged(&err)
	began := time.Now()
	if r.Timeout <= 0 {
		r.Timeout = HealthTimeout
	}
	snap, err := d.snapshots.Resolve(r.Snapshot, r.Project)
	if err != nil {
		return none, err
	}
	keys := []journal.Key{{Name: snapshotKey(snap.ID), Shared: true}}
	held, err := d.lock(ctx, id, journal.Drill, keys, r.LockTimeout)
	if err != nil {
		return none, err
	}
	defer held.Release()
	if snap, err = d.snapshots.Load(snap.ID); err != nil {
		return none, err
	}
	op := &journal.Operation{
		ID: id, Kind: journal.Drill, State: journal.Drilling, Created: time.Now().UTC(),
		Project: snap.Project, Snapshot: snap.ID, Locks: names(keys), Start: r.Start, Timeout: r.Timeout,
	}
	if err := d.planTrial(op, snap, r.Volumes); err != nil {
		return none, err
	}
	var twins []twin
	if r.Start {
		if twins, err = d.planTwins(ctx, op, snap, r); err != nil {
			return none, err
		}
	}
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		return none, journalFault(err)
	}
	defer log.Release()
	d.say(id, event.Event{Type: event.Started, Verb: "drill",
		Message: fmt.Sprintf("%d volumes of snapshot %s", len(op.Volumes), snap.ID)})
	for _, k := range snap.Skipped {
		d.say(id, event.Event{Type: event.Skipped, Volume: k.What, Message: "not in the snapshot: " + k.Reason})
	}
	out := plan.Drilled{Operation: id, Snapshot: snap.ID, Name: snap.Name, Project: snap.Project}
	if out.Volumes, err = d.tryVolumes(ctx, op, snap); err != nil {
		return none, d.endTrial(ctx, log, false, err)
	}
	if r.Start {
		if out.Containers, err = d.tryTwins(ctx, op, twins, r); err != nil {
			kind := fault.NotStarted
			if ctx.Err() != nil {
				kind = fault.Failed
			}
			return none, d.endTrial(ctx, log, r.Keep, fault.New(kind, "%w", err))
		}
	}
	if err := d.endTrial(ctx, log, r.Keep, nil); err != nil {
		return none, err
	}
	out.Kept, out.Took = r.Keep, time.Since(began)
	if out.Kept {
		out.Network = op.Network
	}
	return out, nil
}

// planTrial puts the throwaway volumes on record, and refuses those that would
// not fit.
func (d *Domain) planTrial(op *journal.Operation, snap snapshot.Snapshot, wanted []string) error {
	chosen, err := choose(snap, wanted)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		return fault.New(fault.NotFound, "drill: snapshot %s holds no volume", snap.ID)
	}
	p := &plan.Plan{Kind: journal.Drill}
	var kept snapshot.Snapshot
	for _, index := range chosen {
		sv := snap.Volumes[index]
		op.Volumes = append(op.Volumes, journal.Volume{Name: trialName(op.ID, sv.Name, index), Created: true, Index: index})
		p.Volumes = append(p.Volumes, plan.Volume{Name: sv.Name, Engine: sv.Engine, Bytes: sv.Bytes, Files: sv.Files, Uncounted: sv.Uncounted})
		kept.Volumes = append(kept.Volumes, sv)
	}
	if err := d.needDirs(keptDirs(kept)); err != nil {
		return err
	}
	return d.checkSpace(p)
}

// tryVolumes restores the volumes and holds them against the snapshot. They are
// synced in between, so that what is compared can be read from the disk.
func (d *Domain) tryVolumes(ctx context.Context, op *journal.Operation, snap snapshot.Snapshot) ([]plan.DrilledVolume, error) {
	d.phase(op.ID, "try")
	var out []plan.DrilledVolume
	var trees []*durable.Dir
	defer func() {
		for _, tree := range trees {
			tree.Close()
		}
	}()
	for _, v := range op.Volumes {
		began := time.Now()
		name := snap.Volumes[v.Index].Name
		tree, err := d.makeTrial(ctx, op, v, snap)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
		trees = append(trees, tree)
		root, err := tree.Root()
		if err == nil {
			err = d.load(ctx, op.ID, name, snap, v.Index, root)
			root.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("restore volume %s: %w", name, err)
		}
		out = append(out, plan.DrilledVolume{Volume: name, Trial: v.Name, Took: time.Since(began)})
	}
	d.phase(op.ID, "sync")
	if err := trees[0].SyncFS(); err != nil {
		return nil, err
	}
	d.phase(op.ID, "compare")
	for i, v := range op.Volumes {
		began := time.Now()
		if err := d.compare(ctx, op.ID, snap, v.Index, trees[i], &out[i]); err != nil {
			return nil, fmt.Errorf("compare volume %s: %w", out[i].Volume, err)
		}
		out[i].Took += time.Since(began)
	}
	return out, nil
}

// makeTrial makes a throwaway volume and opens its tree, which is empty.
func (d *Domain) makeTrial(ctx context.Context, op *journal.Operation, v journal.Volume, snap snapshot.Snapshot) (*durable.Dir, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// A call that is given up may be carried out after what it made was removed.
	made, err := d.Engine.CreateVolume(detached(ctx), plan.CreateVolume{Name: v.Name, Driver: "local", Labels: map[string]string{
		labelDrill: op.ID, labelSnapshot: snap.ID, labelOf: snap.Volumes[v.Index].Name,
	}})
	if err != nil {
		return nil, fmt.Errorf("make volume %s: %w", v.Name, err)
	}
	at, err := d.placeOf(made)
	if err != nil {
		return nil, placeFault(v.Name, err)
	}
	dir, err := durable.Open(at.dir, d.Fail)
	if err != nil {
		return nil, placeFault(v.Name, err)
	}
	defer dir.Close()
	return dir.OpenDir(at.live)
}

// endTrial ends a drill: with keep its containers are stopped and all of it
// stays, else it is removed. What cannot be removed leaves the operation open,
// for recovery to try again.
func (d *Domain) endTrial(ctx context.Context, log *journal.Log, keep bool, cause error) error {
	ctx = detached(ctx)
	op := log.Op
	var err error
	if keep {
		err = d.stopTrial(ctx, op)
		for i := range op.Volumes {
			op.Volumes[i].Keep = true
		}
	} else {
		err = d.removeTrial(ctx, op)
	}
	if err == nil {
		op.Outcome = &journal.Outcome{Result: journal.ResultDone}
		if cause != nil {
			op.Outcome.Result, op.Outcome.Error = journal.ResultFailed, cause.Error()
			if fault.Is(cause, fault.NotStarted) {
				op.Outcome.Result = journal.ResultNotStarted
			}
		}
		if err = log.Close(); err != nil && !keep {
			d.warn(op.ID, "close operation %s: %v; docker snaprestore recover closes it", op.ID, err)
			err = nil
		}
	}
	if err != nil {
		kind := fault.Failed
		if cause != nil {
			kind = fault.From(cause).Kind
		}
		return fault.New(kind, "drill: %w", errors.Join(cause, err)).
			WithState("nothing of the workload was touched; what the drill made is still there").
			WithHint("docker snaprestore recover %s removes it", op.ID)
	}
	return drillFault(op, cause, keep)
}

// drillFault explains an error of a drill that has ended.
func drillFault(op *journal.Operation, cause error, kept bool) error {
	if cause == nil {
		return nil
	}
	f := fault.From(cause)
	out := fault.New(f.Kind, "drill: %w", cause)
	made := "removed again"
	if kept {
		made = "kept, its containers stopped"
	}
	out = out.WithState("nothing of the workload was touched; what the drill made was %s", made)
	switch {
	case f.Kind == fault.NotStarted && kept:
		return out.WithHint("docker logs CONTAINER tells why; %s", discardHint(op.ID))
	case f.Kind == fault.NotStarted:
		return out.WithHint("docker snaprestore drill --start --keep %s leaves the containers, and docker logs tells why", op.Snapshot)
	case f.Kind == fault.Corrupt:
		return out.WithHint("docker snaprestore verify %s; take a new one with docker snaprestore create", op.Snapshot)
	}
	out.Hint = f.Hint
	if out.Hint == "" {
		out.Hint = "docker snaprestore doctor"
	}
	return out
}

// discardHint has the commands that remove what a drill left on request.
func discardHint(op string) string {
	return fmt.Sprintf("docker rm -v $(docker ps -aq --filter label=%s=%s); docker network prune --force --filter label=%[1]s=%[2]s; "+
		"docker volume rm $(docker volume ls -q --filter label=%[1]s=%[2]s) removes it all", labelDrill, op)
}

// removeTrial removes all that a drill may have made, by the record. It tries
// everything.
func (d *Domain) removeTrial(ctx context.Context, op *journal.Operation) error {
	d.phase(op.ID, "remove")
	failed := []error{together(op.Containers, func(c journal.Container) error {
		if !strings.HasPrefix(c.Name, trialPrefix(op.ID)) {
			return fmt.Errorf("remove container %s: no drill made it", c.Name)
		}
		return d.removeTwin(ctx, c.Name)
	})}
	if op.Network != "" {
		err := d.patiently(ctx, func() error { return d.Engine.RemoveNetwork(ctx, op.Network) })
		if err != nil && !errors.Is(err, ErrNoSuch) {
			failed = append(failed, fmt.Errorf("remove network %s: %w", op.Network, err))
		}
	}
	for _, v := range op.Volumes {
		if !strings.HasPrefix(v.Name, trialPrefix(op.ID)) {
			failed = append(failed, fmt.Errorf("remove volume %s: no drill made it", v.Name))
			continue
		}
		err := d.patiently(ctx, func() error { return d.Engine.RemoveVolume(ctx, v.Name) })
		if err != nil && !errors.Is(err, ErrNoSuch) {
			failed = append(failed, fmt.Errorf("remove volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(failed...)
}

// endDrill ends a drill whose process died: nothing of it stays.
func (d *Domain) endDrill(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	op := log.Op
	if err := d.removeTrial(ctx, op); err != nil {
		return d.result(op), fault.New(fault.Failed, "recover drill %s: %w", op.ID, err).
			WithState("nothing of the workload was touched; what the drill made is not all removed").
			WithHint("docker ps -a and docker volume ls show what is in the way; then: docker snaprestore recover %s", op.ID)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultFailed, Error: "it was interrupted, and what it made was removed", Recovered: true}
	return d.result(op), journalFault(log.Close())
}

// Drilled gives the result of a drill that succeeded from its record, for an
// agent that has lost what its predecessor had to say.
func (d *Domain) Drilled(id string) (plan.Drilled, error) {
	op, err := d.journal.Load(id)
	if err != nil {
		return plan.Drilled{}, journalFault(err)
	}
	out := plan.Drilled{Operation: id, Snapshot: op.Snapshot, Project: op.Project, Took: op.Updated.Sub(op.Created)}
	snap, err := d.snapshots.Load(op.Snapshot)
	if err != nil {
		return out, err
	}
	out.Name = snap.Name
	for _, v := range op.Volumes {
		if v.Index >= len(snap.Volumes) {
			return out, fault.New(fault.Corrupt, "drill %s: snapshot %s has no volume %d", id, snap.ID, v.Index)
		}
		sv := snap.Volumes[v.Index]
		out.Volumes = append(out.Volumes, plan.DrilledVolume{Volume: sv.Name, Trial: v.Name, Bytes: sv.Bytes, Files: sv.Files})
		out.Kept = v.Keep
	}
	for _, c := range op.Containers {
		status := "running"
		if c.Health {
			status = "healthy"
		}
		out.Containers = append(out.Containers, plan.DrilledContainer{Container: c.Service, Trial: c.Name, Status: status})
	}
	if out.Kept {
		out.Network = op.Network
	}
	return out, nil
}

// endedDrill is the error with which a drill ended.
func endedDrill(op *journal.Operation) error {
	switch op.Outcome.Result {
	case journal.ResultDone:
		return nil
	case journal.ResultNotStarted:
		return drillFault(op, fault.New(fault.NotStarted, "%s", op.Outcome.Error), kept(op))
	}
	return drillFault(op, errors.New(op.Outcome.Error), kept(op))
}
