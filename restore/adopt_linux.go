package restore

import (
	"context"
	"fmt"
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
func (d *Domain) Adopt(ctx context.Context, id string, r plan.AdoptRequest) (done []plan.Adopted, err error) {
	done = []plan.Adopted{}
	defer func() {
		if err != nil && len(done) > 0 {
			err = after(fmt.Sprintf("%d of %d volumes have another driver now", len(done), len(r.Volumes)), err)
		}
	}()
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
		err = fmt.Errorf("adopt volume %s: %w", op.Volumes[0].Name, journalFault(err))
		unchanged(&err)
		return err
	}
	defer log.Release()
	d.say(op.ID, event.Event{Type: event.Started, Verb: "adopt", Message: op.Volumes[0].Name})
	return d.remake(detached(ctx), log)
}
