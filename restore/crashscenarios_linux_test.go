package restore_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore"
	archives "github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// The ids that the scenarios use.
const (
	idFirst   = "aaaaaaaaaaa1" // the snapshot of the first data
	idEarlier = "aaaaaaaaaaa2" // a restore before the operation
	idThis    = "aaaaaaaaaaa3" // the operation that is interrupted
)

// scenario is an operation, and what the world is before and after it.
type scenario struct {
	name    string
	volumes int
	prepare []func(context.Context, *restore.Domain) error
	call    func(context.Context, *restore.Domain) error
	// was and becomes are the content of all volumes.
	was, becomes string
	// had and gets are the snapshots, by name or id.
	had, gets []string
	// kinds has a volume of each kind: local, the driver's, a bind mount.
	kinds bool
	// deep asks for power losses during recoveries, too.
	deep bool
	// opaque says that more is written than steps of the domain, so that the
	// model of lost writes does not know it.
	opaque bool
	// arrange changes the world after the preparation.
	arrange func(*testing.T, *world)
	// copier is the copy engine, where it is not the one of these tests.
	copier copyengine.Engine
	// health is that of the database; nil is healthy.
	health enginetest.Health
	// same says that the operation leaves everything as it was.
	same bool
	// creates says that the last volume is there only after the operation.
	creates bool
	// fails is how the operation ends, and undoes the snapshots when it then
	// has taken itself back.
	fails  fault.Kind
	undoes []string
}

func createFirst(ctx context.Context, d *restore.Domain) error {
	_, err := d.Create(ctx, idFirst, plan.Create{Project: "shop", Name: "first"})
	return err
}

func restoreFirst(id string, change func(*plan.RestoreRequest)) func(context.Context, *restore.Domain) error {
	return func(ctx context.Context, d *restore.Domain) error {
		r := plan.RestoreRequest{Snapshot: "first", Project: "shop", Timeout: time.Minute}
		if change != nil {
			change(&r)
		}
		p, err := d.PlanRestore(ctx, id, r)
		if err != nil {
			return err
		}
		_, err = d.Execute(ctx, p)
		return err
	}
}

func undo(id string) func(context.Context, *restore.Domain) error {
	return func(ctx context.Context, d *restore.Domain) error {
		p, err := d.PlanUndo(ctx, id, plan.UndoRequest{})
		if err != nil {
			return err
		}
		_, err = d.Execute(ctx, p)
		return err
	}
}

func create(consistency snapshot.Consistency) func(context.Context, *restore.Domain) error {
	return func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Create(ctx, idThis, plan.Create{Project: "shop", Name: "this", Consistency: consistency})
		return err
	}
}

func remove(ref string) func(context.Context, *restore.Domain) error {
	return func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Remove(ctx, idThis, []string{ref}, "")
		return err
	}
}

// drill tries the first snapshot out, and starts what ran.
func drill(r plan.DrillRequest) func(context.Context, *restore.Domain) error {
	return func(ctx context.Context, d *restore.Domain) error {
		r.Snapshot, r.Start, r.Steady, r.Timeout = "first", true, time.Nanosecond, time.Minute
		_, err := d.Drill(ctx, idThis, r)
		return err
	}
}

func recoverAll(ctx context.Context, d *restore.Domain) error {
	_, err := d.Recover(ctx, "")
	return err
}

func scenarios() []scenario {
	type calls = []func(context.Context, *restore.Domain) error
	var all []scenario
	for _, volumes := range []int{1, 3} {
		all = append(all, scenario{
			name: fmt.Sprintf("restore of %d volumes", volumes), volumes: volumes,
			prepare: calls{createFirst}, call: restoreFirst(idThis, nil),
			was: "second", becomes: "first",
			had: []string{"first"}, gets: []string{"first", "pre-restore-THIS"},
		})
	}
	var archive bytes.Buffer
	return append(all,
		scenario{
			name: "restore of all kinds", volumes: 3, kinds: true,
			prepare: calls{createFirst}, call: restoreFirst(idThis, nil),
			was: "second", becomes: "first",
			had: []string{"first"}, gets: []string{"first", "pre-restore-THIS"},
		},
		scenario{
			name: "restore that makes a volume", volumes: 2, creates: true, opaque: true,
			prepare: calls{createFirst}, call: restoreFirst(idThis, nil),
			arrange: func(t *testing.T, w *world) {
				for _, id := range []string{"c-web", "c-idle", "c-paused", "c-other"} {
					w.e.Drop(id)
				}
				assert.NilError(t, w.e.RemoveVolume(t.Context(), "shop_v1"))
			},
			was: "second", becomes: "first",
			had: []string{"first"}, gets: []string{"first", "pre-restore-THIS"},
		},
		scenario{
			name: "restore that takes itself back", volumes: 1,
			prepare: calls{createFirst},
			call:    restoreFirst(idThis, func(r *plan.RestoreRequest) { r.Rollback = true }),
			health: func(c restore.Container, n int) string {
				if word, err := content(c.Mounts[0].Source); err == nil && word == "first" {
					return "unhealthy"
				}
				return "healthy"
			},
			was: "second", becomes: "first", fails: fault.RolledBack,
			had: []string{"first"}, gets: []string{"first", "pre-restore-THIS"}, undoes: []string{"first", "pre-undo-ID"},
		},
		scenario{
			name: "import", volumes: 1, copier: archives.New(), opaque: true,
			prepare: calls{createFirst, func(ctx context.Context, d *restore.Domain) error {
				archive.Reset()
				_, err := d.Export(ctx, "first", "", false, &archive)
				return err
			}},
			call: func(ctx context.Context, d *restore.Domain) error {
				_, err := d.Import(ctx, idThis, bytes.NewReader(archive.Bytes()), "this")
				return err
			},
			was: "second", becomes: "second", had: []string{"first"}, gets: []string{"first", "this"},
		},
		scenario{
			name: "drill that starts the workload", volumes: 2, copier: archives.New(), opaque: true, same: true,
			prepare: calls{createFirst}, call: drill(plan.DrillRequest{}),
			was: "second", becomes: "second", had: []string{"first"}, gets: []string{"first"},
		},
		scenario{
			name: "drill that keeps what does not get healthy", volumes: 1, copier: archives.New(), opaque: true, same: true,
			prepare: calls{createFirst}, call: drill(plan.DrillRequest{Keep: true}), fails: fault.NotStarted,
			health: func(c restore.Container, n int) string {
				if strings.HasPrefix(c.ID, "twin") {
					return "unhealthy"
				}
				return "healthy"
			},
			was: "second", becomes: "second", had: []string{"first"}, gets: []string{"first"},
		},
		scenario{
			name: "undo of all kinds", volumes: 3, kinds: true,
			prepare: calls{createFirst, restoreFirst(idEarlier, nil)}, call: undo(idThis),
			was: "first", becomes: "second",
			had: []string{"first", "pre-restore-EARLIER"}, gets: []string{"first", "pre-undo-THIS"},
		},
		scenario{
			name: "create with pause of all kinds", volumes: 3, kinds: true, call: create(snapshot.Pause),
			was: "second", becomes: "second", gets: []string{"this"},
		},
		scenario{
			name: "create with stop", volumes: 2, call: create(snapshot.Stop), deep: true,
			was: "second", becomes: "second", gets: []string{"this"},
		},
		scenario{
			name: "rm of a snapshot", volumes: 2, prepare: calls{createFirst}, call: remove("first"),
			was: "second", becomes: "second", had: []string{"first"},
		},
		scenario{
			name: "rm of a safety snapshot of all kinds", volumes: 3, kinds: true, prepare: calls{createFirst, restoreFirst(idEarlier, nil)},
			call: remove("pre-restore-" + idEarlier),
			was:  "first", becomes: "first", had: []string{"first", "pre-restore-EARLIER"}, gets: []string{"first"}, deep: true,
		},
	)
}

// begin brings a new world to where the scenario's operation begins.
func (sc scenario) begin(t *testing.T) (*world, state) {
	t.Helper()
	w := newWorld(t)
	w.names = map[string]string{idFirst: "FIRST", idEarlier: "EARLIER", idThis: "THIS"}
	w.copier = sc.copier
	w.workload(t, sc.volumes, sc.kinds, sc.health)
	for i, call := range sc.prepare {
		assert.NilError(t, w.run(call))
		if i == 0 {
			for _, tree := range w.trees() {
				fill(t, tree, "second")
			}
		}
	}
	if len(sc.prepare) == 0 {
		for _, tree := range w.trees() {
			fill(t, tree, "second")
		}
	}
	if sc.arrange != nil {
		sc.arrange(t, w)
	}
	return w, w.take()
}

// longWalk leaves a walk of minutes out of a short run: scripts/test has a run
// of its own for them, since the race detector makes them several times longer
// and sees nothing there that the other tests do not show it.
func longWalk(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a walk of minutes, not in a short run")
	}
}
