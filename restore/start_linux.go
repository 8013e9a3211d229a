package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
)

// noHealth asks startAll for nothing but running containers: health is waited
// for where others depend on it, but not demanded.
const noHealth = time.Duration(0)

// awaitTimeout bounds the wait for a container that others need healthy.
const awaitTimeout = 2 * time.Minute

// startPatience is how long starts are repeated that a volume driver did not
// answer, or that met what is left of one that was killed. The engine starts the
// driver again within a second or so, but a call that was lost with the old one
// takes the engine 15 s to give up: it repeats it without its content (moby
// pkg/plugins/client.go). Containerd has what is left away in five seconds
// (measured, 28.5).
const startPatience = time.Minute

// startInterval is the pause before a start is repeated; it doubles each time,
// up to startIntervalMax.
const (
	startInterval    = 100 * time.Millisecond
	startIntervalMax = time.Second
)

// healthInterval is how often health is asked for.
const healthInterval = 100 * time.Millisecond

// startAll gives all containers their restart policies back and starts those
// that ran, what others depend on first; then it waits up to health for the
// checks that they have. It tries every container and joins the errors.
func (d *Domain) startAll(ctx context.Context, op *journal.Operation, health time.Duration) error {
	d.phase(op.ID, "start")
	var failed []error
	if err := together(op.Containers, func(c journal.Container) error { return d.rearm(ctx, c) }); err != nil {
		failed = append(failed, err)
	}
	for _, group := range byLevel(op.Containers) {
		err := together(group, func(c journal.Container) error {
			if !c.Running {
				return nil
			}
			if err := d.start(ctx, op.ID, c); err != nil {
				return err
			}
			if !c.Await || c.Paused {
				return nil
			}
			err := d.awaitHealth(ctx, op.ID, c, max(health, awaitTimeout))
			if err != nil && health == noHealth {
				d.warn(op.ID, "%v; what depends on it is started all the same", err)
				return nil
			}
			return err
		})
		if err != nil {
			failed = append(failed, err)
		}
	}
	op.Restarted = time.Now().UTC()
	if health > 0 && len(failed) == 0 {
		err := together(op.Containers, func(c journal.Container) error {
			if !c.Running || c.Paused || c.Await {
				return nil
			}
			return d.awaitHealth(ctx, op.ID, c, health)
		})
		if err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (d *Domain) start(ctx context.Context, op string, c journal.Container) error {
	d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "starting"})
	err := d.startOnce(ctx, c.ID)
	again := func() bool { return errors.Is(err, ErrDriver) || errors.Is(err, ErrRemains) }
	if again() {
		d.warn(op, "start container %s: %v; it is tried again", c.Name, err)
	}
	pause := startInterval
	for since := time.Now(); again() && time.Since(since) < startPatience; pause = min(2*pause, startIntervalMax) {
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(pause):
		}
		if errors.Is(err, ErrRemains) {
			d.endShims(op, c)
		}
		err = d.startOnce(ctx, c.ID)
	}
	if errors.Is(err, ErrNoSuch) {
		d.warn(op, "container %s was removed meanwhile and is not started", c.Name)
		return nil
	}
	if err != nil && c.Paused {
		// The engine starts no paused container: it is as it was already.
		if now, lookErr := d.Engine.Container(ctx, c.ID); lookErr == nil && now.State == "paused" {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.Name, err)
	}
	if c.Paused {
		if err := d.Engine.Pause(ctx, c.ID); err != nil {
			return fmt.Errorf("pause container %s, as it was: %w", c.Name, err)
		}
	}
	d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "running"})
	return nil
}

func (d *Domain) startOnce(ctx context.Context, id string) error {
	return d.patiently(ctx, func() error { return d.Engine.Start(ctx, id) })
}

// awaitHealth waits until a container with a health check is healthy; one
// without only has to be up.
func (d *Domain) awaitHealth(ctx context.Context, op string, c journal.Container, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		var now Container
		err := d.patiently(ctx, func() (err error) { now, err = d.Engine.Container(ctx, c.ID); return err })
		if errors.Is(err, ErrNoSuch) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ask for the health of container %s: %w", c.Name, err)
		}
		switch {
		case now.State == "exited" || now.State == "dead":
			if now.ExitCode == 0 {
				return nil // a job that has done its work
			}
			return fmt.Errorf("container %s ended with status %d right after its start", c.Name, now.ExitCode)
		case now.State == "running" && !now.HealthCheck:
			return nil
		case now.Health == "healthy":
			d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "healthy"})
			return nil
		case now.Health == "unhealthy":
			d.say(op, event.Event{Type: event.Container, Container: c.Name, Status: "unhealthy"})
			return fmt.Errorf("container %s is unhealthy", c.Name)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("container %s is not healthy after %s", c.Name, limit.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healthInterval):
		}
	}
}
