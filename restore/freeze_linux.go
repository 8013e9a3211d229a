package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// freeze pauses or stops the operation's containers. To pause one takes the
// engine 40 ms (measured), so that all are paused at once.
func (d *Domain) freeze(ctx context.Context, log *journal.Log) error {
	op := log.Op
	if len(op.Containers) == 0 {
		return nil
	}
	op.Stopped = time.Now().UTC()
	if op.Consistency == string(snapshot.Stop) {
		return d.stopAll(ctx, op)
	}
	d.phase(op.ID, "pause")
	return together(op.Containers, func(c journal.Container) error {
		err := d.pause(ctx, c.ID)
		if errors.Is(err, ErrNoSuch) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("pause container %s: %w", c.Name, err)
		}
		d.say(op.ID, event.Event{Type: event.Container, Container: c.Name, Status: "paused"})
		return nil
	})
}

// thaw lets the operation's containers run as before. It tries all of them.
func (d *Domain) thaw(ctx context.Context, log *journal.Log) error {
	op := log.Op
	if len(op.Containers) == 0 {
		return nil
	}
	if op.Consistency == string(snapshot.Stop) {
		return d.startAll(ctx, op, noHealth)
	}
	d.phase(op.ID, "unpause")
	err := together(op.Containers, func(c journal.Container) error { return d.unpause(ctx, log, c) })
	op.Restarted = time.Now().UTC()
	return err
}

// unpause lets one container run on. One that has ended is started by a
// recovery, since it was the engine's restart that ended it; otherwise it has
// ended by itself.
func (d *Domain) unpause(ctx context.Context, log *journal.Log, c journal.Container) error {
	op := log.Op
	err := d.patiently(ctx, func() error { return d.Engine.Unpause(ctx, c.ID) })
	if errors.Is(err, ErrNoSuch) {
		return nil
	}
	if err != nil {
		now, lookErr := d.Engine.Container(ctx, c.ID)
		switch {
		case lookErr == nil && (now.State == "running" || now.State == "restarting"):
			return nil // it was never paused
		case lookErr != nil || now.Up():
			return fmt.Errorf("unpause container %s: %w", c.Name, err)
		case log.Taken():
			return d.start(ctx, op.ID, c)
		}
		d.warn(op.ID, "container %s ended while it was paused", c.Name)
		return nil
	}
	d.say(op.ID, event.Event{Type: event.Container, Container: c.Name, Status: "unpaused"})
	return nil
}

// A container is asked to pause several times: on a busy machine runc gives up
// after a while ("unable to freeze") and thaws what it had, and one that its
// restart policy starts again and again cannot be paused in between.
const (
	restartPatience = 15 * time.Second
	restartAttempts = 20
)

// pause freezes one container.
func (d *Domain) pause(ctx context.Context, id string) (err error) {
	deadline := time.Now().Add(restartPatience)
	for attempt := 1; ; attempt++ {
		err = d.patiently(ctx, func() error { return d.Engine.Pause(ctx, id) })
		if err == nil || errors.Is(err, ErrNoSuch) || ctx.Err() != nil {
			return err
		}
		now, lookErr := d.Engine.Container(ctx, id)
		switch {
		case lookErr != nil:
			return err
		case !now.Up():
			return ErrNoSuch // it ended by itself: nothing of it writes
		case now.State == "restarting" && time.Now().Before(deadline):
			// Between two lives it cannot be paused, and is about to write again.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(healthInterval):
			}
		case attempt >= restartAttempts:
			return err
		}
	}
}
