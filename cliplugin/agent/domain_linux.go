package agent

import (
	"context"
	"io"

	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Domain is what an agent runs its verbs on: *restore.Domain.
type Domain interface {
	Create(ctx context.Context, id string, r plan.Create) (snapshot.Snapshot, error)
	PlanRestore(ctx context.Context, id string, r plan.RestoreRequest) (*plan.Plan, error)
	PlanUndo(ctx context.Context, id string, r plan.UndoRequest) (*plan.Plan, error)
	Execute(ctx context.Context, p *plan.Plan) (plan.Restored, error)
	Recover(ctx context.Context, id string) (plan.Recovered, error)
	Resume(ctx context.Context, id string) (plan.Restored, error)
	List(ctx context.Context, project string) ([]snapshot.Snapshot, error)
	Inspect(ctx context.Context, refs []string, project string) ([]plan.Inspected, error)
	Remove(ctx context.Context, id string, refs []string, project string) ([]string, error)
	Export(ctx context.Context, ref, project string, gzip bool, w io.Writer) (snapshot.Snapshot, error)
	Import(ctx context.Context, id string, r io.Reader, name string) (snapshot.Snapshot, error)
	Verify(ctx context.Context, refs []string, project string) ([]plan.Verified, error)
	Drill(ctx context.Context, id string, r plan.DrillRequest) (plan.Drilled, error)
	Drilled(id string) (plan.Drilled, error)
	Status(ctx context.Context, id string) ([]plan.Status, error)
	Doctor(ctx context.Context) ([]plan.Check, error)
	Adopt(ctx context.Context, id string, r plan.AdoptRequest) ([]plan.Adopted, error)
	Allow(ctx context.Context, prefixes []string) ([]string, error)
	Known(id string) (open, known bool, err error)
	Close() error
}
