//go:build e2e && linux

package crashes

import (
	"context"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// call is what a process does with the domain.
type call func(context.Context, *restore.Domain) error

// scenario is an operation, and what the world is before and after it.
type scenario struct {
	name    string
	prepare func(*testing.T, *world)
	call    call
	// was and becomes are the words of all volumes.
	was, becomes string
	// had and gets are the snapshots, by name.
	had, gets []string
	// adopts says that the volume changes its driver, from one to the other.
	adopts [2]string
}

func createFirst(ctx context.Context, d *restore.Domain) error {
	_, err := d.Create(ctx, idFirst, plan.Create{Project: "shop", Name: "first"})
	return err
}

func restoreFirst(id string) call { return bring("first", id) }

// bring restores a snapshot.
func bring(ref, id string) call {
	return func(ctx context.Context, d *restore.Domain) error {
		p, err := d.PlanRestore(ctx, id, plan.RestoreRequest{Snapshot: ref, Project: "shop", Timeout: time.Minute})
		if err != nil {
			return err
		}
		_, err = d.Execute(ctx, p)
		return err
	}
}

func undo(ctx context.Context, d *restore.Domain) error {
	p, err := d.PlanUndo(ctx, idThis, plan.UndoRequest{})
	if err != nil {
		return err
	}
	_, err = d.Execute(ctx, p)
	return err
}

func remove(ref string) call {
	return func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Remove(ctx, idThis, []string{ref}, "")
		return err
	}
}

func adopt(id string, back bool) call {
	return func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Adopt(ctx, id, plan.AdoptRequest{Volumes: []string{"shop_db"}, Back: back})
		return err
	}
}

// drill tries the first snapshot out, and starts what ran.
func drill(ctx context.Context, d *restore.Domain) error {
	_, err := d.Drill(ctx, idThis, plan.DrillRequest{Snapshot: "first", Start: true, Steady: time.Nanosecond, Timeout: time.Minute})
	return err
}

func recoverAll(ctx context.Context, d *restore.Domain) error {
	_, err := d.Recover(ctx, "")
	return err
}

// second has a snapshot of the first data, and other data in the volumes.
func second(t *testing.T, w *world) {
	w.workload(t)
	assert.NilError(t, w.run(createFirst))
	w.fill(t, "second")
}

// restored has the first data back.
func restored(t *testing.T, w *world) {
	second(t, w)
	assert.NilError(t, w.run(restoreFirst(idEarlier)))
}

// scenarios are the operations, the shorter ones first.
func scenarios() []scenario {
	return []scenario{
		{
			name: "rm of a snapshot", prepare: second, call: remove("first"),
			was: "second", becomes: "second", had: []string{"first"},
		},
		{
			name: "rm of a safety snapshot", prepare: restored, call: remove("pre-restore-" + idEarlier),
			was: "first", becomes: "first", had: []string{"first", "pre-restore-" + idEarlier}, gets: []string{"first"},
		},
		{
			name: "create",
			prepare: func(t *testing.T, w *world) {
				w.workload(t)
				w.fill(t, "second")
			},
			call: func(ctx context.Context, d *restore.Domain) error {
				_, err := d.Create(ctx, idThis, plan.Create{Project: "shop", Name: "this", Consistency: snapshot.Pause})
				return err
			},
			was: "second", becomes: "second", gets: []string{"this"},
		},
		{
			name:    "adopt",
			prepare: func(t *testing.T, w *world) { w.lone(t) },
			call:    adopt(idThis, false), was: "first", becomes: "first", adopts: [2]string{"local", pluginDriver},
		},
		{
			name: "adopt back",
			prepare: func(t *testing.T, w *world) {
				w.lone(t)
				assert.NilError(t, w.run(adopt(idEarlier, false)))
			},
			call: adopt(idThis, true), was: "first", becomes: "first", adopts: [2]string{pluginDriver, "local"},
		},
		{
			name: "recover",
			prepare: func(t *testing.T, w *world) {
				second(t, w)
				// PREPARED, with one of the three fences up.
				assert.NilError(t, w.dies(restoreFirst(idThis), func(s durable.Step) bool { return s.Op == durable.OpExchange }))
			},
			call: recoverAll,
			was:  "second", becomes: "first", had: []string{"first"}, gets: []string{"first", "pre-restore-" + idThis},
		},
		{
			name: "recover that goes back",
			prepare: func(t *testing.T, w *world) {
				second(t, w)
				// STOPPING, with all that is staged beside the volumes.
				assert.NilError(t, w.dies(restoreFirst(idThis), func(s durable.Step) bool {
					return s.Op == durable.OpRename && strings.Contains(s.To, idThis) && w.state(idThis) == "stopping"
				}))
			},
			call: recoverAll,
			was:  "second", becomes: "second", had: []string{"first"}, gets: []string{"first"},
		},
		{
			name: "drill", prepare: second, call: drill,
			was: "second", becomes: "second", had: []string{"first"}, gets: []string{"first"},
		},
		{
			name: "undo", prepare: restored, call: undo,
			was: "first", becomes: "second", had: []string{"first", "pre-restore-" + idEarlier}, gets: []string{"first", "pre-undo-" + idThis},
		},
		{
			name: "restore of a safety snapshot", prepare: restored, call: bring("pre-restore-"+idEarlier, idThis),
			was: "first", becomes: "second", had: []string{"first", "pre-restore-" + idEarlier},
			gets: []string{"first", "pre-restore-" + idEarlier, "pre-restore-" + idThis},
		},
		{
			name: "restore", prepare: second, call: restoreFirst(idThis),
			was: "second", becomes: "first", had: []string{"first"}, gets: []string{"first", "pre-restore-" + idThis},
		},
	}
}
