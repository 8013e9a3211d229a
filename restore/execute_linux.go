package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// keysOf gives what a plan locks: its workload, its volumes, its containers,
// and the snapshot (alone where it is used up by an undo).
func keysOf(p *plan.Plan) []journal.Key {
	var locks []string
	for _, v := range p.Volumes {
		locks = append(locks, v.Lock)
	}
	keys := workloadKeys(p.Project, locks)
	if p.Remake != nil {
		return keys // there is no snapshot to it, and nobody is stopped
	}
	var containers []string
	for _, c := range p.Containers {
		containers = append(containers, c.Name)
	}
	return append(append(keys, containerKeys(containers)...),
		journal.Key{Name: snapshotKey(p.Snapshot.ID), Shared: p.Kind != journal.Undo})
}

func snapshotKey(id string) string { return "snapshot:" + id }

// Execute carries out a plan that was made a moment or a conversation ago: it
// takes the locks, plans again, and goes on only if the same would be done.
func (d *Domain) Execute(ctx context.Context, p *plan.Plan) (plan.Restored, error) {
	now, held, err := d.ready(ctx, p)
	if err != nil {
		return plan.Restored{}, err
	}
	defer held.Release()
	if now.Remake != nil {
		return d.unadopt(ctx, now)
	}
	return d.execute(ctx, now)
}

// ready takes the locks of a plan and makes it again.
func (d *Domain) ready(ctx context.Context, p *plan.Plan) (now *plan.Plan, held *journal.Held, err error) {
	defer unchanged(&err)
	var wait time.Duration
	switch {
	case p.Restore != nil:
		wait = p.Restore.LockTimeout
	case p.Undo != nil:
		wait = p.Undo.LockTimeout
	}
	d.phase(p.Operation, "lock")
	if held, err = d.lock(ctx, p.Operation, p.Kind, keysOf(p), wait); err != nil {
		return nil, nil, err
	}
	now, err = d.again(ctx, p)
	if err == nil && now.Digest() != p.Digest() {
		err = fault.New(fault.Failed, "%s: containers or volumes changed since the plan was made", p.Kind).
			WithHint("look at the new plan: run it again")
	}
	if err != nil {
		held.Release()
		return nil, nil, err
	}
	return now, held, nil
}

func (d *Domain) again(ctx context.Context, p *plan.Plan) (*plan.Plan, error) {
	if p.Undo != nil {
		return d.planUndo(ctx, p.Operation, *p.Undo)
	}
	if p.Restore != nil {
		return d.planRestore(ctx, p.Operation, *p.Restore)
	}
	return nil, fault.New(fault.Failed, "%s: the plan has no request", p.Kind).WithState("nothing was changed")
}

// execute runs a plan under its locks, from the first record to the last.
func (d *Domain) execute(ctx context.Context, p *plan.Plan) (plan.Restored, error) {
	op := &journal.Operation{
		ID: p.Operation, Kind: p.Kind, State: journal.Staging, Created: time.Now().UTC(),
		Project: p.Project, Snapshot: p.Snapshot.ID, Safety: journal.NewID(), Undoes: p.Undoes,
		Locks: names(keysOf(p)), Start: p.Start, Rollback: p.Rollback, Timeout: p.Timeout,
	}
	for _, v := range p.Volumes {
		op.Volumes = append(op.Volumes, journal.Volume{
			Name: v.Name, Shares: v.Shares, Dir: v.Dir, Live: v.Live, Stage: v.Stage,
			Fence: fenceName(op.ID, v.Live), Old: oldName(op.ID, v.Live),
			Keep: v.Engine == plan.Rename, Created: v.Create != nil, Index: v.Index,
		})
	}
	for _, c := range p.Containers {
		op.Containers = append(op.Containers, c.Container)
	}
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		err = journalFault(err)
		unchanged(&err)
		return plan.Restored{}, err
	}
	defer log.Release()
	d.say(op.ID, event.Event{Type: event.Started, Verb: string(op.Kind),
		Message: fmt.Sprintf("%d volumes, %d containers", len(op.Volumes), len(op.Containers))})
	if err := d.stage(ctx, log, p); err != nil {
		return d.giveUp(ctx, log, fmt.Errorf("stage: %w", err))
	}
	op.Stopped = time.Now().UTC()
	if err := log.Write(journal.Stopping); err != nil {
		op.Stopped = time.Time{}
		return d.giveUp(ctx, log, err)
	}
	if err := d.stopAll(ctx, op); err != nil {
		return d.giveUp(ctx, log, err)
	}
	return d.swap(ctx, log)
}

// swap is the part with the workload down, and its start. Recovery comes in
// here too.
func (d *Domain) swap(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	op := log.Op
	if op.State == journal.Stopping {
		d.phase(op.ID, "fence")
		if err := d.makeFences(op); err != nil {
			return d.giveUp(ctx, log, err)
		}
		if err := log.Prepare(); err != nil {
			return d.afterPrepareError(ctx, log, err)
		}
	}
	for i := range op.Volumes {
		if err := d.bring(op.ID, &op.Volumes[i], toFenced); err != nil {
			return d.goBack(ctx, log, err)
		}
	}
	if err := d.expel(ctx, log); err != nil {
		return d.goBack(ctx, log, err)
	}
	d.phase(op.ID, "commit")
	if err := log.Decide(journal.Committed); err != nil {
		return d.result(op), inDoubt(op, err)
	}
	return d.forward(ctx, log)
}

// makeFences makes the dangling links before PREPARED promises them.
func (d *Domain) makeFences(op *journal.Operation) error {
	for i := range op.Volumes {
		v := &op.Volumes[i]
		dir, err := durable.Open(v.Dir, d.Fail)
		if err != nil {
			return fmt.Errorf("open the directory of volume %s: %w", v.Name, err)
		}
		s, err := shapeOf(dir, v)
		if err == nil && s[2] == durable.Missing {
			err = apply(dir, op.ID, v, makeFence)
		}
		dir.Close()
		if err != nil {
			return fmt.Errorf("fence volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// afterPrepareError handles a PREPARED that may or may not be on the disk.
// Nothing was exchanged, so both are the old data; only the record differs.
func (d *Domain) afterPrepareError(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	current, err := d.journal.Load(log.Op.ID)
	if err != nil || current.State == journal.Prepared {
		return d.result(log.Op), inDoubt(log.Op, errors.Join(cause, err))
	}
	return d.giveUp(ctx, log, cause)
}

func inDoubt(op *journal.Operation, err error) error {
	return fault.New(fault.InDoubt, "%s %s: %w", op.Kind, op.ID, err).
		WithState("no container runs on the volumes, and nothing is lost; recovery decides between the old data and the new").
		WithHint("docker snaprestore recover %s", op.ID)
}

// giveUp ends an operation before anything was exchanged.
func (d *Domain) giveUp(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	ctx = detached(ctx)
	op := log.Op
	// The stages go first: on a full disk that is the room for the record.
	if err := d.unstage(ctx, op); err != nil {
		d.warn(op.ID, "%v", err)
	}
	if err := log.Write(journal.Aborting); err != nil {
		// The last record leads recovery to the same end.
		startErr := d.startAgain(ctx, log)
		return d.result(op), fault.New(fault.InDoubt, "%s %s: %w", op.Kind, op.ID, errors.Join(cause, err, startErr)).
			WithState("the old data is in place%s, but the journal could not be written", running(startErr)).
			WithHint("docker snaprestore recover %s", op.ID)
	}
	return d.backward(ctx, log, cause)
}

func running(startErr error) string {
	if startErr != nil {
		return ", not every container was started"
	}
	return " and its containers run"
}

// goBack ends an operation after PREPARED and before the decision.
func (d *Domain) goBack(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	ctx = detached(ctx)
	if err := log.Decide(journal.Aborting); err != nil {
		return d.result(log.Op), inDoubt(log.Op, errors.Join(cause, err))
	}
	return d.backward(ctx, log, cause)
}

// backward brings every volume to its old tree and starts the workload.
func (d *Domain) backward(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	op := log.Op
	d.phase(op.ID, "roll back")
	if op.Outcome == nil {
		op.Outcome = &journal.Outcome{Result: journal.ResultRolledBack}
		if cause != nil {
			op.Outcome.Error = cause.Error()
		}
	}
	var failed []error
	for i := range op.Volumes {
		if err := d.bring(op.ID, &op.Volumes[i], toOld); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		err := errors.Join(append([]error{cause}, failed...)...)
		return d.result(op), fault.New(fault.InDoubt, "%s %s: %w", op.Kind, op.ID, err).
			WithState("decided for the old data, which is not in its place everywhere; nothing can start on the volumes").
			WithHint("docker snaprestore recover %s", op.ID)
	}
	if err := d.removeCreated(ctx, op); err != nil {
		d.warn(op.ID, "%v", err)
	}
	return d.finish(ctx, log, cause)
}

// forward brings every volume to its new tree, keeps the old ones as a safety
// snapshot, and starts the workload.
func (d *Domain) forward(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	ctx = detached(ctx)
	op := log.Op
	d.phase(op.ID, "switch")
	var failed []error
	for i := range op.Volumes {
		if err := d.bring(op.ID, &op.Volumes[i], toNew); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return d.result(op), fault.New(fault.InDoubt, "%s %s: %w", op.Kind, op.ID, errors.Join(failed...)).
			WithState("decided for the new data, which is not in its place everywhere; nothing can start on those volumes").
			WithHint("docker snaprestore recover %s", op.ID)
	}
	if op.Outcome == nil {
		op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	}
	if err := d.keepSafety(ctx, op); err != nil {
		startErr := d.startAgain(ctx, log)
		return d.result(op), fault.New(fault.InDoubt, "%s %s: keep the old data as a snapshot: %w", op.Kind, op.ID, errors.Join(err, startErr)).
			WithState("the new data is in place%s, and the old data lies beside it", running(startErr)).
			WithHint("make room if the disk is full, then: docker snaprestore recover %s", op.ID)
	}
	return d.finish(ctx, log, nil)
}

// startAgain starts what ran, where something was stopped and the operation
// wants it started. Going back does not ask for health: who was not healthy
// before need not be so now.
//
// A recovery starts what ran in any case: what restarted the agent may have
// been a restart of the engine, after which a workload with the policy
// unless-stopped is down (measured, 20.10 and 28.5, after SIGKILL of dockerd).
func (d *Domain) startAgain(ctx context.Context, log *journal.Log) error {
	op := log.Op
	// A stop that hung behind a start takes effect once the volumes are open
	// again: before the container is started, not after.
	if err := d.departing.wait(ctx, departTimeout); err != nil {
		d.warn(op.ID, "%v", err)
	}
	done := op.Outcome != nil && op.Outcome.Result != journal.ResultRolledBack
	switch {
	case op.Stopped.IsZero() && !log.Taken():
		return nil
	case !done:
		return d.startAll(ctx, op, noHealth)
	case !op.Start:
		// The containers stay down, but get their policies back.
		return together(op.Containers, func(c journal.Container) error { return d.rearm(ctx, c) })
	}
	return d.startAll(ctx, op, op.Timeout)
}

// finish records that every volume has its final tree, starts the workload,
// and closes the operation.
func (d *Domain) finish(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	op := log.Op
	if err := log.Write(journal.Starting); err != nil {
		startErr := d.startAgain(ctx, log)
		return d.result(op), fault.New(fault.InDoubt, "%s %s: %w", op.Kind, op.ID, errors.Join(cause, err, startErr)).
			WithState("the data is in place%s, but the journal could not be written", running(startErr)).
			WithHint("make room if the disk is full, then: docker snaprestore recover %s", op.ID)
	}
	return d.restart(ctx, log, cause)
}

// restart is the last part: containers, outcome, record.
func (d *Domain) restart(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	op := log.Op
	startErr := d.startAgain(ctx, log)
	done := op.Outcome.Result == journal.ResultDone
	if startErr != nil && done && op.Rollback {
		return d.rollBack(ctx, log, startErr)
	}
	if !op.Stopped.IsZero() && anyRan(op) && op.Restarted.After(op.Stopped) {
		op.Outcome.Downtime = op.Restarted.Sub(op.Stopped)
	}
	if startErr != nil {
		op.Outcome.Error = errors.Join(cause, startErr).Error()
		if done {
			op.Outcome.Result = journal.ResultNotStarted
		}
	}
	if err := log.Close(); err != nil {
		d.warn(op.ID, "close operation %s: %v; docker snaprestore recover closes it", op.ID, err)
	}
	d.phase(op.ID, "done")
	switch {
	case startErr != nil && done:
		return d.result(op), fault.New(fault.NotStarted, "start the workload: %w", startErr).
			WithState("the new data is in place in all volumes").
			WithHint("docker logs CONTAINER tells why; the old data comes back with: docker snaprestore undo %s", op.ID)
	case startErr != nil:
		return d.result(op), fault.New(fault.NotStarted, "%s: %w", op.Kind, errors.Join(cause, startErr)).
			WithState("the old data is in place in all volumes").
			WithHint("docker ps -a; docker start what is not running")
	case !done:
		return d.result(op), d.rolledBack(op, cause)
	}
	return d.result(op), nil
}

func anyRan(op *journal.Operation) bool {
	for _, c := range op.Containers {
		if c.Running {
			return true
		}
	}
	return false
}

// rolledBack says that the operation failed and the old data runs. Where
// nothing had been stopped yet, the cause keeps its own kind.
func (d *Domain) rolledBack(op *journal.Operation, cause error) error {
	if cause == nil {
		cause = errors.New(op.Outcome.Error)
	}
	f := fault.From(cause)
	if op.Stopped.IsZero() {
		out := fault.New(f.Kind, "%s: %w", op.Kind, cause).WithState("the old data is in place, nothing was stopped")
		out.Hint = f.Hint
		if out.Hint == "" {
			out.Hint = "docker snaprestore doctor"
		}
		return out
	}
	return fault.New(fault.RolledBack, "%s: %w", op.Kind, cause).
		WithState("rolled back: the old data is in place and its containers run").
		WithHint("docker snaprestore status %s", op.ID)
}

// rollBack takes a restore back whose workload did not get healthy.
func (d *Domain) rollBack(ctx context.Context, log *journal.Log, cause error) (plan.Restored, error) {
	op := log.Op
	d.warn(op.ID, "the workload did not get healthy, going back: %v", cause)
	op.Outcome.Result, op.Outcome.Error = journal.ResultNotStarted, cause.Error()
	if err := log.Close(); err != nil {
		return d.result(op), fault.New(fault.NotStarted, "%s: %w", op.Kind, errors.Join(cause, err)).
			WithState("the new data is in place in all volumes").
			WithHint("docker snaprestore recover %s, then docker snaprestore undo %s", op.ID, op.ID)
	}
	back, err := d.PlanUndo(ctx, journal.NewID(), plan.UndoRequest{Operation: op.ID, Timeout: op.Timeout})
	if err == nil {
		// What ran before the restore is to run, not what has survived it.
		for i := range back.Containers {
			if was := op.Find(back.Containers[i].ID); was != nil {
				back.Containers[i].Container = *was
			}
		}
		var undone plan.Restored
		undone, err = d.execute(ctx, back)
		if err == nil {
			result := d.result(op)
			result.Result, result.Downtime = journal.ResultRolledBack, undone.Downtime+result.Downtime
			return result, fault.New(fault.RolledBack, "%s: %w", op.Kind, cause).
				WithState("rolled back: the old data is in place and its containers run").
				WithHint("the data that did not work is kept: docker snaprestore ls")
		}
	}
	f := *fault.From(err)
	if f.Kind != fault.InDoubt && f.Kind != fault.NotStarted {
		// Whatever ended the way back, it ended where it began.
		f.Kind, f.State = fault.NotStarted, "the new data is in place in all volumes; going back failed"
	}
	return d.result(op), fault.New(f.Kind, "%s: %w; going back: %s", op.Kind, cause, f.Message).
		WithState("%s", f.State).WithHint("docker snaprestore status; docker snaprestore undo %s", op.ID)
}

// result describes an operation as it stands.
func (d *Domain) result(op *journal.Operation) plan.Restored {
	r := plan.Restored{Operation: op.ID, Kind: op.Kind, Snapshot: op.Snapshot, Project: op.Project}
	if op.Outcome != nil {
		r.Result, r.Downtime = op.Outcome.Result, op.Outcome.Downtime
		if r.Result != journal.ResultRolledBack {
			r.Safety = op.Safety
		}
	}
	for _, v := range op.Volumes {
		r.Volumes = append(r.Volumes, v.Name)
	}
	if op.Start || r.Result == journal.ResultRolledBack {
		for _, c := range op.Containers {
			if c.Running {
				r.Started = append(r.Started, c.Name)
			}
		}
	}
	return r
}
