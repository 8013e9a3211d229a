package volplugin

import (
	"context"
	"log"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// waiting is one Mount that waits for operations.
type waiting struct {
	driver *Driver
	name   string

	began time.Time // zero before the first wait
	asked time.Time // when it was last asked whether the operation lives
	alive time.Time // when it was last known to
}

// wait waits a moment for the operation to open the volume, and fails when
// that has taken too long, naming it.
func (w *waiting) wait(ctx context.Context, op *journal.Operation) error {
	now := time.Now()
	if w.began.IsZero() {
		w.began, w.alive = now, now
		if op != nil {
			log.Printf("mount volume %s: waiting for %s %s (%s)", w.name, op.Kind, op.ID, op.State)
		}
	}
	if op != nil && now.Sub(w.asked) >= liveInterval {
		w.asked = now
		switch alive, err := w.driver.journal.Alive(op.ID); {
		case err != nil:
			return err
		case alive:
			w.alive = now
		default:
			w.driver.settle(ctx, op)
		}
		if now.Sub(w.began) >= strandedWait && op.State == journal.Prepared && w.driver.stranded(op) {
			return w.failed(op, "it waits for a container that is being started")
		}
	}
	switch {
	case now.Sub(w.began) >= w.driver.config.Wait:
		return w.failed(op, "it still is at work")
	case now.Sub(w.alive) >= min(deadWait, w.driver.config.Wait):
		return w.failed(op, "its process is gone")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(gateInterval):
		return nil
	}
}

func (w *waiting) failed(op *journal.Operation, why string) error {
	if op == nil {
		return fault.New(fault.Locked, "mount volume %s: operations shut it again and again", w.name).
			WithHint("docker snaprestore status")
	}
	f := fault.New(fault.Locked, "mount volume %s: waited %s for %s %s, which is %s; %s",
		w.name, time.Since(w.began).Round(time.Second), op.Kind, op.ID, op.State, why)
	return f.WithState("no container can start on half-restored data").
		WithHint("docker snaprestore status %s; docker snaprestore recover ends it when it was interrupted", op.ID)
}
