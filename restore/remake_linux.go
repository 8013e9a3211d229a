package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// adoptAgain ends the adoption of a process that died: back to where it came
// from as long as the tree has not left the volume, else forward.
func (d *Domain) adoptAgain(ctx context.Context, log *journal.Log) error {
	op := log.Op
	if op.Remake.Parked {
		return d.remake(ctx, log)
	}
	parked, err := d.root.MakeDir(Parking, 0o700)
	if err != nil {
		return d.adoptFault(op, err)
	}
	shape, err := parked.Shape(op.ID)
	parked.Close()
	switch {
	case err != nil:
		return d.adoptFault(op, err)
	case shape != durable.Missing:
		return d.remake(ctx, log)
	}
	if err := d.putBack(op); err != nil {
		return d.adoptFault(op, err)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultFailed, Error: errInterrupted.Error(), Recovered: true}
	if err := log.Close(); err != nil {
		return d.adoptFault(op, err)
	}
	return nil
}

// remake goes on with an adoption from wherever it is.
func (d *Domain) remake(ctx context.Context, log *journal.Log) error {
	op := log.Op
	parked, err := d.root.MakeDir(Parking, 0o700)
	if err != nil {
		return d.adoptFault(op, err)
	}
	defer parked.Close()
	shape, err := parked.Shape(op.ID)
	if err == nil && !op.Remake.Parked {
		if shape == durable.Missing {
			if err = d.park(op, parked); err != nil {
				return d.unpark(log, err)
			}
		} else {
			err = parked.Sync() // who parked it may have died before
		}
		// In either case: later the tree is not here any more, which must not
		// look as if it never was.
		if err == nil {
			op.Remake.Parked = true
			err = log.Write(journal.Working)
		}
	}
	if err == nil {
		err = d.exchangeDrivers(ctx, op, parked)
	}
	if err == nil {
		err = d.unload(ctx, op, parked)
	}
	if err != nil {
		return d.adoptFault(op, err)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	if err := log.Close(); err != nil {
		return fault.New(fault.InDoubt, "adopt volume %s: %w", op.Volumes[0].Name, err).
			WithState("it has its new driver, and its data").
			WithHint("docker snaprestore recover %s", op.ID)
	}
	return nil
}

func (d *Domain) adoptFault(op *journal.Operation, err error) error {
	return fault.New(fault.InDoubt, "adopt volume %s: %w", op.Volumes[0].Name, err).
		WithState("its data is safe, but the volume is not usable yet").
		WithHint("docker snaprestore recover %s", op.ID)
}

// park takes the tree out of its volume: nothing can start on it from here.
func (d *Domain) park(op *journal.Operation, parked *durable.Dir) error {
	v := &op.Volumes[0]
	dir, err := durable.Open(v.Dir, d.Fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	fence := fenceName(op.ID, v.Live)
	s, err := shapeOf(dir, &journal.Volume{Live: v.Live, Stage: fence, Fence: fence, Old: fence})
	if err != nil {
		return err
	}
	if s[2] == durable.Missing {
		if err := dir.Symlink(fence, fenceTarget(op.ID)); err != nil {
			return err
		}
		s[2] = durable.Link
	}
	if s[0] == durable.Directory && s[2] == durable.Link {
		if err := dir.Exchange(v.Live, fence); err != nil {
			return err
		}
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	if holders, err := d.holders(op.ID); err != nil || len(holders) > 0 {
		return errors.Join(err, fmt.Errorf("it came into use meanwhile (processes %v)", holders))
	}
	if err := dir.RenameTo(fence, parked, op.ID); err != nil {
		return err
	}
	return errors.Join(parked.Sync(), dir.Sync())
}

// unpark ends an adoption whose tree could not be taken out: it is put back
// where it moved at all.
func (d *Domain) unpark(log *journal.Log, cause error) error {
	op := log.Op
	if err := d.putBack(op); err != nil {
		return d.adoptFault(op, errors.Join(cause, err))
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultRolledBack, Error: cause.Error()}
	if err := log.Close(); err != nil {
		return d.adoptFault(op, errors.Join(cause, err))
	}
	return fault.New(fault.Failed, "adopt volume %s: %w", op.Volumes[0].Name, cause).
		WithState("the volume is as before").WithHint("docker snaprestore status %s", op.ID)
}

// putBack undoes what park did before the tree left its volume.
func (d *Domain) putBack(op *journal.Operation) error {
	v := &op.Volumes[0]
	dir, err := durable.Open(v.Dir, d.Fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	fence := fenceName(op.ID, v.Live)
	live, err := dir.Shape(v.Live)
	if err != nil {
		return err
	}
	kept, err := dir.Shape(fence)
	if err != nil {
		return err
	}
	if live == durable.Link && kept == durable.Directory {
		if err := dir.Exchange(v.Live, fence); err != nil {
			return err
		}
		kept = durable.Link
	}
	if kept == durable.Link {
		if err := dir.Unlink(fence); err != nil {
			return err
		}
	}
	if live == durable.Link && kept == durable.Missing {
		return errors.New("its tree is parked already")
	}
	return dir.Sync()
}

// exchangeDrivers has the engine remove the volume and make it again. An engine
// that dies after the driver made the volume and before it has the labels on
// record (moby volume/service/store.go, create) finds it without them: such a
// volume is made once more, as long as the data is not in it yet.
func (d *Domain) exchangeDrivers(ctx context.Context, op *journal.Operation, parked *durable.Dir) error {
	name, to := op.Volumes[0].Name, op.Remake.To
	var now Volume
	err := d.patiently(ctx, func() (err error) { now, err = d.Engine.Volume(ctx, name); return err })
	switch {
	case errors.Is(err, ErrNoSuch):
	case err != nil:
		return err
	case now.Driver == to.Driver || volume.Served(now.Driver) && volume.Served(to.Driver):
		waiting, err := parked.Shape(op.ID)
		if err != nil || waiting != durable.Directory || maps.Equal(now.Labels, to.Labels) {
			return err
		}
		if err := d.checkEmpty(now); err != nil {
			return err
		}
		fallthrough
	default:
		if err := d.Engine.RemoveVolume(ctx, name); err != nil && !errors.Is(err, ErrNoSuch) {
			return err
		}
	}
	_, err = d.Engine.CreateVolume(ctx, plan.CreateVolume{Name: name, Driver: to.Driver, Labels: to.Labels, Options: to.Options})
	return err
}

// unload swaps the parked tree into the new volume.
func (d *Domain) unload(ctx context.Context, op *journal.Operation, parked *durable.Dir) error {
	var made Volume
	err := d.patiently(ctx, func() (err error) { made, err = d.Engine.Volume(ctx, op.Volumes[0].Name); return err })
	if err != nil {
		return err
	}
	at, err := d.placeOf(made)
	if err != nil {
		return err
	}
	dir, err := durable.Open(at.dir, d.Fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	v := &journal.Volume{Name: op.Volumes[0].Name, Dir: at.dir, Live: at.live, Stage: stageName(op.ID, at.live),
		Fence: fenceName(op.ID, at.live), Old: oldName(op.ID, at.live)}
	waiting, err := parked.Shape(op.ID)
	if err != nil {
		return err
	}
	if waiting == durable.Directory {
		// The engine makes the directories of local volumes and syncs nothing.
		if err := syncParent(at.dir, d.Fail); err != nil {
			return err
		}
		if err := parked.RenameTo(op.ID, dir, v.Stage); err != nil {
			return err
		}
		if err := errors.Join(dir.Sync(), parked.Sync()); err != nil {
			return err
		}
	}
	s, err := shapeOf(dir, v)
	if err != nil {
		return err
	}
	if s[1] != durable.Missing || s[2] != durable.Missing {
		if err := d.bring(op.ID, v, toNew); err != nil {
			return err
		}
	}
	return dropEmpty(dir, v.Old)
}
