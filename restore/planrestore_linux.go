package restore

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// HealthTimeout is how long a restored workload gets to become healthy where
// nobody says otherwise.
const HealthTimeout = 60 * time.Second

// treeEngine names the storage of a safety snapshot's volume.
const treeEngine = "tree"

// PlanRestore says what a restore would do, and refuses what could not be
// done. Nothing is changed. Up to r.LockTimeout it waits for operations that
// are at work on the same things.
func (d *Domain) PlanRestore(ctx context.Context, id string, r plan.RestoreRequest) (_ *plan.Plan, err error) {
	defer unchanged(&err)
	return d.settled(ctx, r.LockTimeout, func() (*plan.Plan, error) { return d.planRestore(ctx, id, r) })
}

// settled makes a plan, and makes it again when the operations that hold what
// it needs have ended: their containers are down for a moment and their fences
// up, which is nothing to plan from. The locks are not kept, since a person may
// think about the plan for long.
func (d *Domain) settled(ctx context.Context, wait time.Duration, make func() (*plan.Plan, error)) (*plan.Plan, error) {
	deadline := time.Now().Add(wait)
	for {
		p, err := make()
		left := time.Until(deadline)
		switch {
		case left <= 0 || err != nil && !fault.Is(err, fault.Locked):
			return p, err
		case err == nil:
			held, err := d.journal.Locks().Lock(ctx, keysOf(p), journal.Holder{Kind: p.Kind, Since: time.Now().UTC()}, left)
			if err != nil {
				return nil, journalFault(err)
			}
			defer held.Release()
			return make()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(left, settleInterval)):
		}
	}
}

// settleInterval is how often a volume is looked at whose fence is up.
const settleInterval = 50 * time.Millisecond

func (d *Domain) planRestore(ctx context.Context, id string, r plan.RestoreRequest) (*plan.Plan, error) {
	snap, err := d.snapshots.Resolve(r.Snapshot, r.Project)
	if err != nil {
		return nil, err
	}
	r.Snapshot = snap.ID
	inv, err := d.inventory(ctx)
	if err != nil {
		return nil, err
	}
	p := &plan.Plan{
		Kind: journal.Restore, Operation: id, Snapshot: snap, Project: r.Project,
		Start: !r.NoStart, Rollback: r.Rollback, Timeout: r.Timeout, Restore: &r,
	}
	if p.Project == "" {
		p.Project = snap.Project
	}
	if p.Timeout <= 0 {
		p.Timeout = HealthTimeout
	}
	if r.NoStart && r.Rollback {
		return nil, fault.New(fault.Failed, "plan restore: --no-start and --rollback exclude each other").
			WithState("nothing was changed").
			WithHint("without a start nothing can get unhealthy: leave one of them out")
	}
	if err := d.planVolumes(inv, p, r.Volumes); err != nil {
		return nil, err
	}
	if err := d.planContainers(ctx, inv, p, r.StopTimeout); err != nil {
		return nil, err
	}
	p.Warnings = append(p.Warnings, imageWarnings(snap, p.Containers)...)
	if err := d.checkSpace(p); err != nil {
		return nil, err
	}
	return p, nil
}

// planVolumes matches the snapshot's volumes and places each one.
func (d *Domain) planVolumes(inv *inventory, p *plan.Plan, wanted []string) error {
	chosen, err := choose(p.Snapshot, wanted)
	if err != nil {
		return err
	}
	taken := map[string]string{}
	for _, index := range chosen {
		sv := p.Snapshot.Volumes[index]
		found, warning, err := match(inv, p.Snapshot, sv, p.Project)
		if err != nil {
			return err
		}
		if sv.Tree != "" {
			if err := d.needDirs([]string{sv.Tree}); err != nil {
				return err
			}
		}
		if warning != "" {
			p.Warnings = append(p.Warnings, warning)
		}
		v := plan.Volume{
			From: sv.Name, Index: index, Engine: sv.Engine,
			Bytes: sv.Bytes, Files: sv.Files, Uncounted: sv.Uncounted, Stage: stageName(p.Operation, volume.Live),
		}
		if found == "" {
			if v.Create, err = d.newVolume(p.Snapshot, sv, p.Project); err != nil {
				return err
			}
			if _, exists := inv.volumes[v.Create.Name]; exists {
				return fault.New(fault.Failed, "restore volume %s: volume %s exists, but belongs to something else", sv.Name, v.Create.Name).
					WithState("nothing was changed").WithHint("docker volume inspect %s", v.Create.Name)
			}
			v.Name = v.Create.Name
			at, err := d.placeOf(Volume{Name: v.Name, Driver: v.Create.Driver, Options: v.Create.Options, Mountpoint: "/_data"})
			if err != nil {
				return err
			}
			v.Lock = at.lock
		} else {
			v.Name = found
			if err := inv.reasons[found]; err != nil {
				return fault.New(fault.Failed, "restore volume %s: %w", found, err).
					WithState("nothing was changed").WithHint("docker volume inspect %s", found)
			}
			at := inv.places[found]
			if err := d.needMounts(at); err != nil {
				return err
			}
			if err := d.check(found, at); err != nil {
				return err
			}
			v.Dir, v.Live, v.Lock = at.dir, at.live, at.lock
			v.Shares = others(inv.sharing(found), found)
			v.Stage = stageName(p.Operation, v.Live)
		}
		if other, twice := taken[v.Lock]; twice {
			return fault.New(fault.Failed, "restore volume %s: %s and %s of the snapshot would both become it", v.Name, other, sv.Name).
				WithState("nothing was changed").
				WithHint("name the one you want: docker snaprestore restore %s %s", p.Snapshot.ID, sv.Name)
		}
		taken[v.Lock] = sv.Name
		p.Volumes = append(p.Volumes, v)
	}
	sort.Slice(p.Volumes, func(i, j int) bool { return p.Volumes[i].Name < p.Volumes[j].Name })
	for _, k := range p.Snapshot.Skipped {
		p.Skipped = append(p.Skipped, snapshot.Skipped{What: k.What, Reason: "not in the snapshot: " + k.Reason})
	}
	return nil
}

// planContainers finds everybody who must not run during the swap.
func (d *Domain) planContainers(ctx context.Context, inv *inventory, p *plan.Plan, grace *int) error {
	var targets []string
	for _, v := range p.Volumes {
		targets = append(targets, v.Name)
	}
	containers, err := d.involve(ctx, inv.withDependents(inv.users(inv.trees(targets...))), p.Project, grace)
	if err != nil {
		return err
	}
	p.Containers = containers
	for _, c := range containers {
		if c.Foreign && c.Running {
			p.Warnings = append(p.Warnings, fmt.Sprintf("container %s is stopped too: it uses the volumes, and belongs to %s", c.Name, owner(c)))
		}
	}
	return nil
}

func others(names []string, but string) (out []string) {
	for _, name := range names {
		if name != but {
			out = append(out, name)
		}
	}
	return out
}

func owner(c plan.Container) string {
	if c.Project == "" {
		return "no project"
	}
	return "project " + c.Project
}

// imageWarnings names what runs another image than when the snapshot was made.
func imageWarnings(snap snapshot.Snapshot, containers []plan.Container) (out []string) {
	for _, c := range containers {
		for _, was := range snap.Containers {
			same := was.Name == c.Name
			if was.Service != "" || c.Service != "" {
				same = was.Service == c.Service
			}
			if !same || was.ImageID == "" || was.ImageID == c.ImageID {
				continue
			}
			out = append(out, fmt.Sprintf("container %s runs %s (%s), but the snapshot was made with %s (%s)",
				c.Name, c.Image, shortImage(c.ImageID), was.Image, shortImage(was.ImageID)))
			break
		}
	}
	return out
}

func shortImage(id string) string {
	const prefix, digits = "sha256:", 12
	if len(id) > len(prefix)+digits && id[:len(prefix)] == prefix {
		return id[:len(prefix)+digits]
	}
	return id
}

// reserve is what stays free on a file system beyond what is staged, bytes.
const reserve = 16 << 20

// checkSpace refuses a plan whose stages do not fit on their file systems.
func (d *Domain) checkSpace(p *plan.Plan) error {
	type need struct {
		dir          string
		bytes, files int64
		volumes      int
	}
	needs := map[uint64]*need{}
	for _, v := range p.Volumes {
		if v.Engine == plan.Rename {
			continue
		}
		path := v.Dir
		if path == "" {
			path = d.Root // a volume to be made lies on the engine's data root
		}
		dir, err := durable.Open(path, d.Fail)
		if err != nil {
			return placeFault(v.Name, err)
		}
		device, err := dir.Device()
		dir.Close()
		if err != nil {
			return placeFault(v.Name, err)
		}
		if needs[device] == nil {
			needs[device] = &need{dir: path}
		}
		n := needs[device]
		n.files, n.volumes = n.files+v.Files, n.volumes+1
		if v.Engine != reflink.Name { // whose stage shares the blocks of what is stored
			n.bytes += v.Bytes
		}
	}
	for _, n := range needs {
		dir, err := durable.Open(n.dir, d.Fail)
		if err != nil {
			return placeFault(n.dir, err)
		}
		bytes, files, err := dir.Free()
		dir.Close()
		if err != nil {
			return placeFault(n.dir, err)
		}
		if bytes < n.bytes+reserve {
			return fault.New(fault.Failed, "plan %s: %d volumes need %d MB beside the old data, and the file system of %s has %d MB left",
				p.Kind, n.volumes, (n.bytes+reserve)>>20, n.dir, bytes>>20).
				WithState("nothing was changed").
				WithHint("make room, or remove old snapshots: docker snaprestore ls, docker snaprestore rm")
		}
		if files > 0 && files < n.files+64 {
			return fault.New(fault.Failed, "plan %s: %d files are needed, and the file system of %s has room for %d more", p.Kind, n.files, n.dir, files).
				WithState("nothing was changed").
				WithHint("remove old snapshots: docker snaprestore ls, docker snaprestore rm")
		}
	}
	return nil
}
