package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// SteadyTime is how long a container without a health check must stay up where
// nobody says otherwise.
const SteadyTime = 5 * time.Second

// removalPatience bounds the wait for a container that is being removed.
const removalPatience = time.Minute

// lastLines is how much is shown of what a container wrote that did not get
// healthy.
const lastLines = 5

// tryTwins makes the containers, all of them, and starts them, what others
// depend on first.
func (d *Domain) tryTwins(ctx context.Context, op *journal.Operation, twins []twin, r plan.DrillRequest) ([]plan.DrilledContainer, error) {
	d.phase(op.ID, "start")
	steady := r.Steady
	if steady <= 0 {
		steady = SteadyTime
	}
	if op.Network != "" {
		err := d.Engine.CreateNetwork(detached(ctx), op.Network, map[string]string{labelDrill: op.ID, labelSnapshot: op.Snapshot})
		if err != nil {
			return nil, fmt.Errorf("make network %s: %w", op.Network, err)
		}
	}
	known := map[string]int{}
	out := make([]plan.DrilledContainer, len(twins))
	for i, t := range twins {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := d.Engine.CreateTwin(detached(ctx), t.made); err != nil {
			return nil, fmt.Errorf("make a container like %s: %w", t.of.Name, err)
		}
		known[t.made.Name] = i
		out[i] = plan.DrilledContainer{Container: t.of.Name, Trial: t.made.Name, Image: t.of.Image}
	}
	await := func(c journal.Container) error {
		t := &out[known[c.Name]]
		return d.awaitTwin(ctx, op, c, t, steady, r.Timeout)
	}
	for _, group := range byLevel(op.Containers) {
		err := together(group, func(c journal.Container) error {
			began := time.Now()
			if err := d.startTwin(ctx, op.ID, c, out[known[c.Name]].Container); err != nil {
				return err
			}
			out[known[c.Name]].Took = time.Since(began)
			if c.Await {
				return await(c)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, together(op.Containers, func(c journal.Container) error {
		if c.Await {
			return nil
		}
		return await(c)
	})
}

func (d *Domain) startTwin(ctx context.Context, op string, c journal.Container, of string) error {
	d.say(op, event.Event{Type: event.Container, Container: of, Status: "starting"})
	if err := d.patiently(ctx, func() error { return d.Engine.Start(ctx, c.ID) }); err != nil {
		return fmt.Errorf("start a container like %s: %w", of, err)
	}
	d.say(op, event.Event{Type: event.Container, Container: of, Status: "running"})
	return nil
}

// awaitTwin waits until a container is healthy, or, where it has no health
// check, has stayed up for a while.
func (d *Domain) awaitTwin(ctx context.Context, op *journal.Operation, c journal.Container, t *plan.DrilledContainer, steady, limit time.Duration) error {
	began, up := time.Now(), time.Time{}
	fail := func(format string, args ...any) error {
		d.lastWords(op.ID, c, t.Container)
		return fmt.Errorf("a container like %s "+format, append([]any{t.Container}, args...)...)
	}
	for {
		var now Container
		err := d.patiently(ctx, func() (err error) { now, err = d.Engine.Container(ctx, c.ID); return err })
		switch {
		case errors.Is(err, ErrNoSuch):
			return fmt.Errorf("a container like %s was removed meanwhile", t.Container)
		case err != nil:
			return fmt.Errorf("ask for the health of a container like %s: %w", t.Container, err)
		case now.State == "exited" || now.State == "dead":
			return fail("ended with status %d", now.ExitCode)
		case now.Health == "healthy":
			t.Status, t.Took = "healthy", t.Took+time.Since(began)
			d.say(op.ID, event.Event{Type: event.Container, Container: t.Container, Status: "healthy"})
			return nil
		case now.Health == "unhealthy":
			d.say(op.ID, event.Event{Type: event.Container, Container: t.Container, Status: "unhealthy"})
			return fail("is unhealthy")
		case now.State == "running" && !now.HealthCheck && up.IsZero():
			up = time.Now()
		case now.State == "running" && !now.HealthCheck && time.Since(up) >= steady:
			t.Status, t.Took = "running", t.Took+time.Since(began)
			return nil
		}
		// One that came up in time is given its while.
		if up.IsZero() && time.Since(began) > limit {
			return fail("is not healthy after %s", limit.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthInterval):
		}
	}
}

// lastWords shows the end of what a container wrote: its log goes with it.
func (d *Domain) lastWords(op string, c journal.Container, of string) {
	ctx, cancel := context.WithTimeout(context.Background(), removalPatience)
	defer cancel()
	lines, err := d.Engine.Output(ctx, c.ID, lastLines)
	if err != nil {
		d.warn(op, "container %s: its log cannot be read: %v", of, err)
		return
	}
	for _, line := range lines {
		if line = printable(line); line != "" {
			d.warn(op, "container %s wrote: %s", of, line)
		}
	}
}

// printable makes a line of a program one that does nothing to a terminal.
func printable(line string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, line))
}

// stopTrial stops a drill's containers, dependents first, which are kept.
func (d *Domain) stopTrial(ctx context.Context, op *journal.Operation) error {
	groups := byLevel(op.Containers)
	for i := len(groups) - 1; i >= 0; i-- {
		err := together(groups[i], func(c journal.Container) error {
			err := d.patiently(ctx, func() error { return d.Engine.Stop(ctx, c.ID, nil) })
			if err != nil && !errors.Is(err, ErrNoSuch) {
				return fmt.Errorf("stop container %s: %w", c.Name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// removeTwin removes a container, and waits until it is gone: one that is being
// removed, since its agent died in the middle, still has its volumes.
func (d *Domain) removeTwin(ctx context.Context, name string) error {
	deadline := time.Now().Add(removalPatience)
	for {
		err := d.patiently(ctx, func() error { return d.Engine.RemoveContainer(ctx, name) })
		if err == nil {
			_, err = d.Engine.Container(ctx, name)
		}
		switch {
		case errors.Is(err, ErrNoSuch):
			return nil
		case err == nil && time.Now().After(deadline):
			err = errStays
		}
		if err != nil {
			return fmt.Errorf("remove container %s: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthInterval):
		}
	}
}

// sweepTrials removes what drills that are over have left. An agent that dies in
// the middle of a call leaves the engine at work on it, which may end only after
// recovery has removed everything.
func (d *Domain) sweepTrials(ctx context.Context) error {
	containers, err := d.Engine.Containers(ctx)
	if err != nil {
		return err
	}
	volumes, err := d.Engine.Volumes(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, c := range containers {
		if d.trialIsOver(c.Name) {
			failed = append(failed, d.removeTwin(ctx, c.Name))
		}
	}
	for _, v := range volumes {
		if !d.trialIsOver(v.Name) {
			continue
		}
		if err := d.Engine.RemoveVolume(ctx, v.Name); err != nil && !errors.Is(err, ErrNoSuch) {
			failed = append(failed, fmt.Errorf("remove volume %s: %w", v.Name, err))
		}
	}
	ops, err := d.journal.List()
	failed = append(failed, err)
	for _, op := range ops {
		if op.Network == "" || !d.trialIsOver(op.Network) {
			continue
		}
		if err := d.Engine.RemoveNetwork(ctx, op.Network); err != nil && !errors.Is(err, ErrNoSuch) {
			failed = append(failed, fmt.Errorf("remove network %s: %w", op.Network, err))
		}
	}
	return errors.Join(failed...)
}

// trialIsOver tells of a name whether a drill has made it that is closed and was
// not told to keep it. What the journal has forgotten is left alone.
func (d *Domain) trialIsOver(name string) bool {
	rest, ours := strings.CutPrefix(name, trialPrefix(""))
	id, _, _ := strings.Cut(rest, "-")
	if !ours || !journal.ValidID(id) {
		return false
	}
	op, err := d.journal.Load(id)
	return err == nil && op.Kind == journal.Drill && op.State == journal.Closed && !kept(op)
}

// kept tells whether a drill left what it made, on request.
func kept(op *journal.Operation) bool { return len(op.Volumes) > 0 && op.Volumes[0].Keep }

// errStays says that a container was removed and is there.
var errStays = errors.New("it is still there")
