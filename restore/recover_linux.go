package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// errInterrupted is the cause of an operation that nobody carried on with.
var errInterrupted = errors.New("it was interrupted before it was decided")

// recoveries is what to do with an operation whose process died, by its last
// durable record. What is on disk beyond the record is told by the shape of
// each volume, which the moves of the swap start from.
var recoveries = []struct {
	State  journal.State
	Action func(*Domain, context.Context, *journal.Log) (plan.Restored, error)
}{
	{journal.Working, (*Domain).endWorking},
	{journal.Drilling, (*Domain).endDrill},     // as before
	{journal.Staging, (*Domain).endUndecided},  // old
	{journal.Stopping, (*Domain).endUndecided}, // old, containers started again
	{journal.Prepared, (*Domain).carryOn},      // new
	{journal.Committed, (*Domain).forwardAgain},
	{journal.Aborting, (*Domain).backwardAgain},
	{journal.Starting, (*Domain).restartAgain},
}

func (d *Domain) endUndecided(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	return d.giveUp(ctx, log, errInterrupted)
}

// carryOn goes forward from PREPARED. Nothing is stopped before the fences are
// up: who runs on the old trees is expelled then, and a stop of a container
// whose start waits for its volume would hang (measured).
func (d *Domain) carryOn(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	return d.swap(ctx, log)
}

func (d *Domain) forwardAgain(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	return d.forward(ctx, log)
}

func (d *Domain) backwardAgain(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	return d.backward(ctx, log, errInterrupted)
}

func (d *Domain) restartAgain(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	return d.restart(ctx, log, nil)
}

// endWorking ends an operation that swaps nothing.
func (d *Domain) endWorking(ctx context.Context, log *journal.Log) (plan.Restored, error) {
	op := log.Op
	var err error
	switch op.Kind {
	case journal.Adopt:
		err := d.adoptAgain(ctx, log)
		return d.result(op), err
	case journal.Remove:
		err = d.removeVolumes(op)
	default:
		if err := d.snapshots.Settle(); err != nil {
			return d.result(op), err
		}
		_, loadErr := d.snapshots.Load(op.Snapshot)
		if loadErr != nil {
			err = d.snapshots.Discard(op.Snapshot)
			op.Outcome = &journal.Outcome{Result: journal.ResultFailed, Error: "it was interrupted, and no snapshot was made"}
		}
	}
	if err != nil {
		return d.result(op), err
	}
	if op.Outcome == nil {
		op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	}
	thawErr := d.thaw(ctx, log)
	if thawErr != nil {
		op.Outcome.Error = thawErr.Error()
	}
	op.Outcome.Recovered = true
	if err := log.Close(); err != nil {
		return d.result(op), journalFault(err)
	}
	if thawErr != nil {
		return d.result(op), fault.New(fault.NotStarted, "let the workload run on: %w", thawErr).
			WithState("the data is as it was").
			WithHint("docker ps -a; docker unpause or docker start what is not running")
	}
	return d.result(op), nil
}

// takeoverWait is how long recovery waits for locks that a dying process is
// about to lose.
const takeoverWait = 5 * time.Second

// Resume carries on with the operation of a process that died, under its
// locks, and ends as the operation itself would have: Restored and error are
// those of Execute. What fails without an end of its own leaves the operation
// open, as a crash would, and is of the kind fault.Interrupted.
func (d *Domain) Resume(ctx context.Context, id string) (_ plan.Restored, err error) {
	op, err := d.journal.Load(id)
	if err != nil {
		err = journalFault(err)
		unchanged(&err)
		return plan.Restored{}, err
	}
	defer func() { err = stillOpen(id, err) }()
	if err := d.needDirs(recordedDirs(op)); err != nil {
		return plan.Restored{}, err
	}
	log, err := d.journal.Takeover(ctx, id, takeoverWait)
	if err != nil {
		return plan.Restored{}, journalFault(err)
	}
	defer log.Release()
	op = log.Op
	if op.State == journal.Closed {
		return d.closedResult(op)
	}
	var keys []journal.Key
	for _, name := range op.Locks {
		shared := strings.HasPrefix(name, snapshotKey("")) && (op.Kind == journal.Restore || op.Kind == journal.Drill)
		keys = append(keys, journal.Key{Name: name, Shared: shared})
	}
	held, err := d.journal.Locks().Lock(ctx, keys, journal.Holder{Operation: op.ID, Kind: op.Kind, Since: time.Now().UTC()}, takeoverWait)
	if err != nil {
		return plan.Restored{}, journalFault(err)
	}
	defer held.Release()
	d.say(op.ID, event.Event{Type: event.Started, Verb: "recover",
		Message: fmt.Sprintf("%s %s, which was %s", op.Kind, op.ID, op.State)})
	d.endStrays(ctx, op)
	for _, r := range recoveries {
		if r.State == op.State {
			return r.Action(d, ctx, log)
		}
	}
	return plan.Restored{}, fault.New(fault.Corrupt, "recover %s: no rule for state %q", op.ID, op.State).
		WithState("nothing was changed").WithHint("docker snaprestore version")
}

// stillOpen completes an error of a recovery that says neither what state the
// data is in nor what to do.
func stillOpen(id string, err error) error {
	if err == nil {
		return nil
	}
	f := *fault.From(err)
	if f.State != "" {
		return err
	}
	f.State = "the operation is still open, and nothing of it is lost"
	if f.Kind == fault.Failed {
		f.Kind = fault.Interrupted
	}
	if f.Hint == "" {
		f.Hint = "mend what failed, then docker snaprestore recover " + id
	}
	return &f
}

// closedResult is what an operation that ended had to say.
func (d *Domain) closedResult(op *journal.Operation) (plan.Restored, error) {
	r := d.result(op)
	if op.Outcome == nil {
		return r, nil
	}
	if op.Kind == journal.Drill {
		return r, endedDrill(op)
	}
	switch op.Outcome.Result {
	case journal.ResultDone:
		return r, nil
	case journal.ResultRolledBack:
		return r, d.rolledBack(op, nil)
	case journal.ResultNotStarted:
		return r, fault.New(fault.NotStarted, "start the workload: %s", op.Outcome.Error).
			WithState("the data is in place").WithHint("docker ps -a")
	}
	return r, fault.New(fault.Failed, "%s %s: %s", op.Kind, op.ID, op.Outcome.Error).
		WithState("the data is as before").WithHint("docker snaprestore status %s", op.ID)
}

// Recover ends the operation with this id, or every open one whose process is
// gone. Operations that live are left alone.
func (d *Domain) Recover(ctx context.Context, id string) (plan.Recovered, error) {
	out := plan.Recovered{Operations: []plan.RecoveredOperation{}}
	all, err := d.journal.Open()
	if err != nil {
		return out, journalFault(err)
	}
	open := all
	if id != "" {
		op, err := d.operation(id)
		if err != nil {
			return out, err
		}
		if op.State == journal.Closed {
			return out, nil
		}
		open = []*journal.Operation{op}
	}
	others := map[string]bool{} // which are not asked for, or at work
	for _, op := range all {
		others[op.ID] = true
	}
	var dirs []string
	for _, op := range open {
		delete(others, op.ID)
		dirs = append(dirs, recordedDirs(op)...)
	}
	if err := d.needDirs(dirs); err != nil {
		return out, err
	}
	var worst error
	for _, op := range open {
		if alive, err := d.journal.Alive(op.ID); err == nil && alive {
			if id != "" {
				return out, fault.New(fault.Locked, "recover %s: it is at work", op.ID).
					WithState("nothing was changed").WithHint("docker snaprestore status %s", op.ID)
			}
			others[op.ID] = true
			continue
		}
		restored, err := d.Resume(ctx, op.ID)
		r := plan.RecoveredOperation{Operation: op.ID, Kind: op.Kind, Was: op.State, Result: restored.Result}
		if err != nil {
			r.Error = fault.From(err).Error()
			// A way back that did not end has a record of its own.
			unsettled := fault.Is(err, fault.NotStarted) || fault.Is(err, fault.InDoubt)
			if now, loadErr := d.journal.Load(op.ID); loadErr != nil || now.State != journal.Closed || unsettled {
				worst = err
				if r.Result == "" {
					r.Result = journal.ResultFailed
				}
			}
		}
		out.Operations = append(out.Operations, r)
	}
	if err := d.sweepTrials(ctx); err != nil {
		d.warn(id, "look for what drills left: %v", err)
	}
	d.journal.Tidy()
	if worst == nil && len(open) > 0 {
		worst = d.unclosed(others)
	}
	if worst == nil {
		if err := d.snapshots.Sweep(d.busy); err != nil {
			return out, fault.New(fault.Failed, "sweep the snapshots: %w", err).
				WithState("nothing is open any more; what was to be removed takes up room").
				WithHint("docker snaprestore recover")
		}
	}
	return out, worst
}

// unclosed tells of an operation that is open although all that were asked for
// came to their ends: a record could not be closed, or that of a way back.
func (d *Domain) unclosed(others map[string]bool) error {
	open, err := d.journal.Open()
	if err != nil {
		return journalFault(err)
	}
	for _, op := range open {
		if alive, err := d.journal.Alive(op.ID); err == nil && !alive && !others[op.ID] {
			return fault.New(fault.Interrupted, "recover: operation %s is still open", op.ID).
				WithState("nothing of it is lost").
				WithHint("make room if the disk is full, then: docker snaprestore recover %s", op.ID)
		}
	}
	return nil
}

// operation finds an operation by id or unique prefix.
func (d *Domain) operation(ref string) (_ *journal.Operation, err error) {
	defer unchanged(&err)
	if journal.ValidID(ref) {
		op, err := d.journal.Load(ref)
		return op, journalFault(err)
	}
	all, err := d.journal.List()
	if err != nil {
		return nil, journalFault(err)
	}
	var found []*journal.Operation
	for _, op := range all {
		if ref != "" && strings.HasPrefix(op.ID, ref) {
			found = append(found, op)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fault.New(fault.NotFound, "operation %q: no such operation", ref).
			WithState("nothing was changed").WithHint("docker snaprestore status")
	}
	return nil, fault.New(fault.Failed, "operation %q: %d operations begin so", ref, len(found)).
		WithState("nothing was changed").WithHint("docker snaprestore status")
}

// Status lists operations, newest first: the one named, or all.
func (d *Domain) Status(ctx context.Context, id string) ([]plan.Status, error) {
	var ops []*journal.Operation
	var bad error
	if id != "" {
		op, err := d.operation(id)
		if err != nil {
			return nil, err
		}
		ops = []*journal.Operation{op}
	} else {
		ops, bad = d.journal.List()
	}
	out := []plan.Status{}
	for i := len(ops) - 1; i >= 0; i-- {
		alive := false
		if ops[i].State != journal.Closed {
			var err error
			if alive, err = d.journal.Alive(ops[i].ID); err != nil {
				return nil, journalFault(err)
			}
		}
		out = append(out, plan.Status{Operation: *ops[i], Alive: alive})
	}
	if bad != nil {
		return out, journalFault(bad)
	}
	return out, ctx.Err()
}
