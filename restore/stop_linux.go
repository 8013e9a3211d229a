package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
)

// patience is how long an engine that does not answer is waited for. One that
// is started again takes a few seconds; by then it has sent the agent TERM and
// starts it anew, so a longer silence means that it stays down.
const patience = 2 * time.Minute

// patiently calls do again while the engine cannot be reached.
func (d *Domain) patiently(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(patience)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := do()
		if !errors.Is(err, ErrUnreachable) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// byLevel groups containers by their place in the start order, first first.
func byLevel(containers []journal.Container) [][]journal.Container {
	var out [][]journal.Container
	for _, c := range containers {
		for c.Level >= len(out) {
			out = append(out, nil)
		}
		out[c.Level] = append(out[c.Level], c)
	}
	return out
}

// together runs do for every container at once and joins the errors.
func together(containers []journal.Container, do func(journal.Container) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(containers))
	for i, c := range containers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = do(c)
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stopAll takes the restart policies off all containers of the operation, and
// stops those that are up: what depends on others first. The containers are
// on record before.
func (d *Domain) stopAll(ctx context.Context, op *journal.Operation) error {
	d.phase(op.ID, "stop")
	// A policy that is off first cannot start anything again in between.
	if err := together(op.Containers, func(c journal.Container) error { return d.disarm(ctx, c) }); err != nil {
		return err
	}
	groups := byLevel(op.Containers)
	for i := len(groups) - 1; i >= 0; i-- {
		err := together(groups[i], func(c journal.Container) error { return d.stop(ctx, op.ID, c) })
		if err != nil {
			return err
		}
	}
	return nil
}

func armed(p journal.Policy) bool { return p.Name != "" && p.Name != "no" }

// disarm sets the container's restart policy to no.
func (d *Domain) disarm(ctx context.Context, c journal.Container) error {
	if err := d.setPolicy(ctx, c, journal.Policy{Name: "no"}); err != nil {
		return fmt.Errorf("take the restart policy off container %s: %w", c.Name, err)
	}
	return nil
}

// rearm gives the container its restart policy back.
func (d *Domain) rearm(ctx context.Context, c journal.Container) error {
	if err := d.setPolicy(ctx, c, c.Policy); err != nil {
		return fmt.Errorf("give container %s its restart policy %s back: %w", c.Name, c.Policy.Name, err)
	}
	return nil
}

// Setting a policy is tried again where the engine says no: 20.10 reports the
// end of a container that dies meanwhile as an error of the update (measured),
// and takes the new policy back (moby daemon/update.go). Once it knows that
// the container has ended there is no such error.
const (
	policyAttempts = 20
	policyInterval = 100 * time.Millisecond
)

// setPolicy sets the restart policy of a container that has one.
func (d *Domain) setPolicy(ctx context.Context, c journal.Container, p journal.Policy) error {
	if !armed(c.Policy) {
		return nil
	}
	for attempt := 1; ; attempt++ {
		err := d.patiently(ctx, func() error { return d.Engine.SetPolicy(ctx, c.ID, p) })
		if err == nil || errors.Is(err, ErrNoSuch) {
			return nil
		}
		now, lookErr := d.Engine.Container(ctx, c.ID)
		switch {
		case errors.Is(lookErr, ErrNoSuch):
			return nil
		case lookErr == nil && (now.Policy == p || !armed(now.Policy) && !armed(p)):
			return nil
		case attempt >= policyAttempts || lookErr != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(policyInterval):
		}
	}
}

func (d *Domain) stop(ctx context.Context, op string, c journal.Container) error {
	if c.Running {
		d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "stopping"})
	}
	err := d.patiently(ctx, func() error { return d.Engine.Stop(ctx, c.ID, c.StopTimeout) })
	if err != nil && !errors.Is(err, ErrNoSuch) {
		return fmt.Errorf("stop container %s: %w", c.Name, err)
	}
	if c.Running {
		d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "stopped"})
	}
	return nil
}
