package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// Parking is the folder of the state root where a tree lies while its volume
// is made anew under another driver.
const Parking = "parked"

// Adopt turns local volumes into plugin volumes of the same names, labels and
// data, or back. Containers must not use them, not even stopped ones, since
// the engine cannot change a volume's driver in place.
//
// For each volume: its live directory is exchanged for a dangling link, the
// tree is moved to the state root, the engine removes the volume and makes it
// again, and the tree is swapped in as a restore would. Until the tree is
// parked a crash leads back, from then on forward: what is in the engine and
// where the tree lies tells how far it came.
func (d *Domain) Adopt(ctx context.Context, id string, r plan.AdoptRequest) ([]plan.Adopted, error) {
	done := []plan.Adopted{}
	inv, err := d.inventory(ctx)
	if err != nil {
		return done, err
	}
	var ops []*journal.Operation
	var locks []string
	for i, name := range r.Volumes {
		op, at, err := d.planAdopt(inv, name, r.Back)
		if err != nil {
			return done, err
		}
		if op.ID = id; i > 0 {
			op.ID = journal.NewID()
		}
		ops, locks = append(ops, op), append(locks, at.lock)
	}
	held, err := d.lock(ctx, id, journal.Adopt, journal.Exclusive(locks...), r.LockTimeout)
	if err != nil {
		return done, err
	}
	defer held.Release()
	// Only now nothing moves: look again.
	if inv, err = d.inventory(ctx); err != nil {
		return done, err
	}
	for i, op := range ops {
		if _, _, err := d.planAdopt(inv, r.Volumes[i], r.Back); err != nil {
			return done, err
		}
		op.Locks = []string{locks[i]}
		if err := d.adopt(ctx, op); err != nil {
			return done, err
		}
		done = append(done, plan.Adopted{
			Operation: op.ID, Volume: op.Volumes[0].Name, From: op.Remake.From.Driver, To: op.Remake.To.Driver,
			Project: op.Project, Key: op.Remake.To.Labels[labelVolume],
		})
	}
	return done, nil
}

// planAdopt makes the operation for one volume, or says why it cannot be.
func (d *Domain) planAdopt(inv *inventory, name string, back bool) (*journal.Operation, place, error) {
	refuse := func(kind fault.Kind, hint, format string, args ...any) (*journal.Operation, place, error) {
		return nil, place{}, fault.New(kind, format, args...).WithState("nothing was changed").WithHint("%s", hint)
	}
	v, ok := inv.volumes[name]
	if !ok || v.Driver == bindDriver {
		return refuse(fault.NotFound, "docker volume ls", "adopt volume %s: no such volume", name)
	}
	if err := inv.reasons[name]; err != nil {
		return refuse(fault.Failed, "docker volume inspect "+name, "adopt volume %s: %w", name, err)
	}
	at := inv.places[name]
	to := "local"
	if !back {
		if to = pluginDriver(inv.host); to == "" {
			return refuse(fault.Failed, "docker snaprestore install", "adopt volume %s: the volume plugin is not installed", name)
		}
	}
	switch {
	case volume.Served(v.Driver) != back:
		return refuse(fault.Failed, "docker volume inspect "+name, "adopt volume %s: it is a volume of driver %s already", name, v.Driver)
	case back && len(inv.sharing(name)) > 1:
		return refuse(fault.Failed, "docker volume rm the others first", "adopt volume %s back: %s share its data", name, strings.Join(others(inv.sharing(name), name), ", "))
	}
	if users := inv.users(inv.trees(name)); len(users) > 0 {
		var names []string
		for _, c := range users {
			names = append(names, c.Name)
		}
		hint := "remove the containers first; the volume stays: docker rm " + strings.Join(names, " ")
		if p := commonProject(users); p != "" {
			hint = fmt.Sprintf("remove the containers first; the volumes stay: docker compose -p %s down", p)
		}
		return refuse(fault.Failed, hint, "adopt volume %s: containers use it: %s", name, strings.Join(names, ", "))
	}
	if err := d.check(name, at); err != nil {
		return nil, at, err
	}
	kept, err := keptTrees(at)
	if err != nil {
		return nil, at, placeFault(name, err)
	}
	if len(kept) > 0 {
		return refuse(fault.Failed, "docker snaprestore ls shows them as pre-…; docker snaprestore rm removes them",
			"adopt volume %s: %d safety snapshots keep data beside it, which would be lost with the old volume", name, len(kept))
	}
	// Compose holds the hash against the compose file, where the driver has to
	// be changed now, and would offer to make the volume anew; one without a
	// hash it takes as it is.
	labels := map[string]string{}
	for key, value := range v.Labels {
		if key != labelConfig {
			labels[key] = value
		}
	}
	return &journal.Operation{
		Kind: journal.Adopt, State: journal.Working, Created: time.Now().UTC(), Project: v.Labels[labelProject],
		Volumes: []journal.Volume{{Name: name, Dir: at.dir, Live: at.live}},
		Remake: &journal.Remake{
			From: journal.Spec{Driver: v.Driver, Labels: v.Labels, Options: v.Options},
			To:   journal.Spec{Driver: to, Labels: labels},
		},
	}, at, nil
}

// pluginDriver is the name under which the engine knows the volume plugin, or
// "" where it does not.
func pluginDriver(h Host) string {
	for _, driver := range h.VolumeDrivers {
		if volume.Served(driver) {
			return driver
		}
	}
	return ""
}

// keptTrees lists what safety snapshots keep beside a live tree.
func keptTrees(at place) (kept []string, err error) {
	dir, err := durable.Open(at.dir, nil)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.Names()
	for _, name := range entries {
		if strings.HasPrefix(name, besidePrefix) {
			kept = append(kept, name)
		}
	}
	sort.Strings(kept)
	return kept, err
}

// adopt runs one operation from its first record to its last.
func (d *Domain) adopt(ctx context.Context, op *journal.Operation) error {
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		return journalFault(err)
	}
	defer log.Release()
	d.say(op.ID, event.Event{Type: event.Started, Verb: "adopt", Message: op.Volumes[0].Name})
	return d.remake(detached(ctx), log)
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
	return journalFault(log.Close())
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
	v := &op.Volumes[0]
	back := func() error {
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
	if err := back(); err != nil {
		return d.adoptFault(op, errors.Join(cause, err))
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultRolledBack, Error: cause.Error()}
	if err := log.Close(); err != nil {
		return d.adoptFault(op, errors.Join(cause, err))
	}
	return fault.New(fault.Failed, "adopt volume %s: %w", v.Name, cause).
		WithState("the volume is as before").WithHint("docker snaprestore status %s", op.ID)
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
