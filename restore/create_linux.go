package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// Create makes a snapshot in operation id. The workload is paused or stopped
// only while its volumes are read; whatever happens it runs on as before.
func (d *Domain) Create(ctx context.Context, id string, r plan.Create) (_ snapshot.Snapshot, err error) {
	defer unchanged(&err)
	none := snapshot.Snapshot{}
	if r.Consistency == "" {
		r.Consistency = snapshot.Pause
	}
	switch r.Consistency {
	case snapshot.Pause, snapshot.Stop, snapshot.Live:
	default:
		return none, fault.New(fault.Failed, "snapshot: unknown consistency %q", r.Consistency).
			WithState("nothing was changed").WithHint("use --consistency pause, stop or live")
	}
	if err := d.Copiers.Check(r.Engine); err != nil {
		return none, err
	}
	if err := d.checkName(r.Name); err != nil {
		return none, err
	}
	inv, err := d.inventory(ctx)
	if err != nil {
		return none, err
	}
	s, err := selectVolumes(inv, r)
	if err != nil {
		return none, err
	}
	keys := s.keys(inv, r.Consistency)
	held, err := d.lock(ctx, id, journal.Create, keys, r.LockTimeout)
	if err != nil {
		return none, err
	}
	defer held.Release()
	// Only now nothing moves: look again.
	if inv, err = d.inventory(ctx); err != nil {
		return none, err
	}
	if s, err = selectVolumes(inv, r); err != nil {
		return none, err
	}
	if now := s.keys(inv, r.Consistency); fmt.Sprint(now) != fmt.Sprint(keys) {
		return none, fault.New(fault.Failed, "snapshot: volumes or containers of the workload came or went just now").
			WithState("nothing was changed").WithHint("try again")
	}
	for _, name := range s.names() {
		if err := d.needMounts(inv.places[name]); err != nil {
			return none, err
		}
		if err := d.check(name, inv.places[name]); err != nil {
			return none, err
		}
	}
	return d.create(ctx, id, r, inv, s, keys)
}

func (d *Domain) create(ctx context.Context, id string, r plan.Create, inv *inventory, s *selection, keys []journal.Key) (snapshot.Snapshot, error) {
	none := snapshot.Snapshot{}
	var frozen []plan.Container
	var err error
	writing := writers(inv, inv.trees(s.names()...))
	switch r.Consistency {
	case snapshot.Pause:
		frozen = involvePaused(writing)
	case snapshot.Stop:
		frozen, err = d.involve(ctx, inv.withDependents(writing), s.project, r.StopTimeout)
	}
	if err != nil {
		return none, err
	}
	engines, err := d.chooseEngines(r.Engine, inv, s.names())
	if err != nil {
		return none, err
	}
	op := &journal.Operation{
		ID: id, Kind: journal.Create, State: journal.Working, Created: time.Now().UTC(),
		Project: s.project, Snapshot: id, Locks: names(keys),
		Consistency: string(r.Consistency), Start: true,
	}
	for _, c := range frozen {
		op.Containers = append(op.Containers, c.Container)
	}
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		return none, journalFault(err)
	}
	defer log.Release()
	d.say(id, event.Event{Type: event.Started, Verb: "create", Message: describe(s)})
	for _, k := range s.skipped {
		d.say(id, event.Event{Type: event.Skipped, Volume: k.What, Message: k.Reason})
	}
	if err := d.snapshots.Sweep(d.busy); err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	snap, err := d.describe(ctx, id, r, inv, s)
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		v.Engine, v.Reason, v.Brief = engines[i].name, engines[i].reason, engines[i].brief
	}
	draft, err := d.snapshots.New(id)
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	defer draft.Close()
	// What stands still is not kept waiting.
	whileRunning := budget.With(ctx, r.LimitRate)
	whileStill := ctx
	if len(op.Containers) == 0 {
		whileStill = whileRunning
	}
	ahead, err := d.copyAhead(whileRunning, log, inv, draft, &snap)
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	defer ahead.close()
	snap.Ahead = ahead.took
	frozenAt := time.Now()
	var left []captured
	err = d.freeze(ctx, log)
	if err == nil {
		left, err = d.saveAll(whileStill, id, inv, draft, &snap, ahead.earlier, len(op.Containers) > 0)
	}
	defer func() { closeAll(left) }()
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	thawErr := d.thaw(detached(ctx), log)
	if len(op.Containers) > 0 {
		snap.Pause = time.Since(frozenAt)
	}
	if err := d.finishAll(whileRunning, id, left); err != nil {
		return none, d.dropCreate(log, err, thawErr)
	}
	if err := errors.Join(ahead.remove(), ahead.weigh(&snap)); err != nil {
		return none, d.dropCreate(log, err, thawErr)
	}
	if err := draft.Commit(snap); err != nil {
		return none, d.dropCreate(log, err, thawErr)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultDone, Downtime: snap.Pause}
	if thawErr != nil {
		op.Outcome.Result, op.Outcome.Error = journal.ResultNotStarted, thawErr.Error()
	}
	if err := log.Close(); err != nil {
		d.warn(id, "close operation %s: %v", id, err)
	}
	if thawErr != nil {
		return snap, fault.New(fault.NotStarted, "let the workload run on: %w", thawErr).
			WithState("snapshot %s is complete", id).
			WithHint("docker ps -a; docker unpause or docker start what is not running")
	}
	return snap, nil
}

// checkName refuses a name that a new snapshot cannot have; "" is none.
func (d *Domain) checkName(name string) error {
	if name == "" {
		return nil
	}
	if err := snapshot.CheckName(name); err != nil {
		return err
	}
	return d.snapshots.NameFree(name)
}

func describe(s *selection) string {
	if s.project != "" {
		return fmt.Sprintf("%d volumes of project %s", len(s.volumes), s.project)
	}
	return fmt.Sprintf("%d volumes", len(s.volumes))
}

// detached gives a context for what must be done although ctx has ended.
func detached(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func (d *Domain) warn(op, format string, args ...any) {
	d.say(op, event.Event{Type: event.Warning, Message: fmt.Sprintf(format, args...)})
}

// busy reports whether a living process works on the operation.
func (d *Domain) busy(id string) bool {
	alive, err := d.journal.Alive(id)
	return alive || err != nil
}

// involvePaused is involve for containers that are only paused, which
// destroys none of them.
func involvePaused(containers []Container) (out []plan.Container) {
	for _, c := range containers {
		out = append(out, plan.Container{
			Container: journal.Container{
				ID: c.ID, Name: c.Name, Running: true,
				Service: c.Labels[labelService], Project: c.Labels[labelProject],
			},
		})
	}
	return out
}

// describe makes the snapshot's description, but for its contents.
func (d *Domain) describe(ctx context.Context, id string, r plan.Create, inv *inventory, s *selection) (snapshot.Snapshot, error) {
	snap := snapshot.Snapshot{
		ID: id, Name: r.Name, Kind: snapshot.Made, Created: time.Now().UTC(),
		Project: s.project, Labels: r.Labels, Consistency: r.Consistency,
		Operation: id, Skipped: s.skipped, Tool: build.Version, Engine: inv.host.Version,
	}
	for _, name := range s.names() {
		snap.Volumes = append(snap.Volumes, describeVolume(inv, s.volumes[name]))
	}
	for _, c := range s.members {
		described, err := d.describeContainer(ctx, c)
		if err != nil {
			return snap, err
		}
		snap.Containers = append(snap.Containers, described)
	}
	return snap, nil
}

func describeVolume(inv *inventory, v Volume) snapshot.Volume {
	out := snapshot.Volume{
		Name: v.Name, Driver: v.Driver, Labels: v.Labels, Options: v.Options,
		Key: v.Labels[labelVolume], Scope: scopeOf(v),
	}
	shared := inv.trees(v.Name).names
	for _, c := range inv.containers {
		for _, m := range c.Mounts {
			if shown := m.Type == "volume" && shared[m.Name]; shown || (m.Type == "bind" && m.Source == v.Name) {
				out.Uses = append(out.Uses, snapshot.Use{
					Container: c.Name, Service: c.Labels[labelService], Target: m.Target, ReadOnly: m.ReadOnly,
				})
			}
		}
	}
	return out
}

// scopeOf gives the scope word of a volume.
func scopeOf(v Volume) string {
	switch {
	case v.Driver == bindDriver:
		return "absolute"
	case volume.Served(v.Driver) && v.Options["scope"] != "" && v.Options["scope"] != string(volume.Named):
		return v.Options["scope"]
	case v.Labels[labelProject] != "":
		return "project_named"
	case anonymous(v.Name):
		return "instance"
	}
	return "named"
}

func (d *Domain) describeContainer(ctx context.Context, c Container) (snapshot.Container, error) {
	out := snapshot.Container{
		Name: c.Name, Service: c.Labels[labelService], Image: c.Image, ImageID: c.ImageID,
		Running: c.Up(), Labels: map[string]string{},
	}
	for k, v := range c.Labels {
		if len(k) > len("com.docker.compose.") && k[:len("com.docker.compose.")] == "com.docker.compose." {
			out.Labels[k] = v
		}
	}
	image, err := d.Engine.Image(ctx, c.ImageID)
	switch {
	case err == nil:
		out.Digests = image.Digests
	case !errors.Is(err, ErrNoSuch):
		return out, fmt.Errorf("inspect image of container %s: %w", c.Name, err)
	}
	return out, nil
}

// abandonCreate ends a create that failed: nothing of it stays, and the
// workload runs.
func (d *Domain) abandonCreate(ctx context.Context, log *journal.Log, cause error) error {
	return d.dropCreate(log, cause, d.thaw(detached(ctx), log))
}

// dropCreate is abandonCreate once the workload was thawed, or should have
// been.
func (d *Domain) dropCreate(log *journal.Log, cause, thawErr error) error {
	op := log.Op
	if fault.Is(cause, fault.InDoubt) {
		// The snapshot may be there: the operation stays open, and recovery
		// looks and decides.
		return fault.From(errors.Join(cause, thawErr))
	}
	if err := d.snapshots.Discard(op.Snapshot); err != nil {
		d.warn(op.ID, "discard the unfinished snapshot: %v", err)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultFailed, Error: cause.Error()}
	if err := log.Close(); err != nil {
		d.warn(op.ID, "close operation %s: %v", op.ID, err)
	}
	f := fault.From(cause)
	if thawErr != nil {
		return fault.New(fault.NotStarted, "%w", errors.Join(cause, thawErr)).
			WithState("no snapshot was made, the data is as it was, but not every container runs").
			WithHint("docker ps -a; docker unpause or docker start what is not running")
	}
	out := *f
	if out.State == "" {
		out.State = "no snapshot was made; the workload and its data are as before"
	}
	if out.Hint == "" {
		out.Hint = "docker snaprestore doctor"
	}
	return &out
}
