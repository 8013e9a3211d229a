package agent

import (
	"context"
	"io"
	"sync"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// domain is a Domain without an engine. It remembers what was called.
type domain struct {
	mu    sync.Mutex
	calls []string

	known bool
	// resume answers Resume, one call after the other; the last one stays.
	resume []resumed
	// work is called by Create, Execute, Recover, Verify.
	work func(context.Context) error
	// archive is what Export sends, and what Import got.
	archive   []byte
	importErr error
}

type resumed struct {
	result plan.Restored
	err    error
}

func (d *domain) call(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, name)
}

func (d *domain) called() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string{}, d.calls...)
}

func (d *domain) doWork(ctx context.Context) error {
	if d.work == nil {
		return nil
	}
	return d.work(ctx)
}

func snap(id string) snapshot.Snapshot { return snapshot.Snapshot{ID: id, Name: "name-" + id} }

func (d *domain) Create(ctx context.Context, id string, _ plan.Create) (snapshot.Snapshot, error) {
	d.call("Create " + id)
	return snap("made"), d.doWork(ctx)
}

func (d *domain) PlanRestore(_ context.Context, id string, r plan.RestoreRequest) (*plan.Plan, error) {
	d.call("PlanRestore " + r.Snapshot)
	return &plan.Plan{Kind: journal.Restore, Operation: id, Snapshot: snap("resolved"), Volumes: []plan.Volume{{Name: "v"}}}, nil
}

func (d *domain) PlanUndo(_ context.Context, id string, r plan.UndoRequest) (*plan.Plan, error) {
	d.call("PlanUndo " + r.Operation)
	return &plan.Plan{Kind: journal.Undo, Operation: id, Undoes: "resolved"}, nil
}

func (d *domain) Execute(ctx context.Context, p *plan.Plan) (plan.Restored, error) {
	d.call("Execute " + p.Operation)
	return plan.Restored{Operation: p.Operation, Result: journal.ResultDone}, d.doWork(ctx)
}

func (d *domain) Recover(ctx context.Context, id string) (plan.Recovered, error) {
	d.call("Recover " + id)
	return plan.Recovered{Operations: []plan.RecoveredOperation{{Operation: "o"}}}, d.doWork(ctx)
}

func (d *domain) Resume(_ context.Context, id string) (plan.Restored, error) {
	d.call("Resume " + id)
	r := d.resume[0]
	if len(d.resume) > 1 {
		d.resume = d.resume[1:]
	}
	return r.result, r.err
}

func (d *domain) List(_ context.Context, project string) ([]snapshot.Snapshot, error) {
	d.call("List " + project)
	return []snapshot.Snapshot{snap("a")}, nil
}

func (d *domain) Inspect(_ context.Context, refs []string, _ string) ([]plan.Inspected, error) {
	d.call("Inspect")
	out := []plan.Inspected{}
	for _, ref := range refs {
		out = append(out, plan.Inspected{Snapshot: snap(ref)})
	}
	return out, nil
}

func (d *domain) Remove(_ context.Context, _ string, refs []string, _ string) ([]string, error) {
	d.call("Remove")
	return refs, nil
}

func (d *domain) Export(_ context.Context, ref, _ string, _ bool, w io.Writer) (snapshot.Snapshot, error) {
	d.call("Export " + ref)
	if _, err := w.Write(d.archive); err != nil {
		return snapshot.Snapshot{}, err
	}
	return snap(ref), nil
}

func (d *domain) Import(_ context.Context, _ string, r io.Reader, _ string) (snapshot.Snapshot, error) {
	d.call("Import")
	var err error
	d.archive, err = io.ReadAll(r)
	if err != nil {
		d.importErr = err
		return snapshot.Snapshot{}, fault.New(fault.Corrupt, "import: %w", err)
	}
	return snap("imported"), nil
}

func (d *domain) Verify(ctx context.Context, refs []string, _ string) ([]plan.Verified, error) {
	d.call("Verify")
	return []plan.Verified{{Snapshot: refs[0]}}, d.doWork(ctx)
}

func (d *domain) Drill(ctx context.Context, id string, r plan.DrillRequest) (plan.Drilled, error) {
	d.call("Drill " + r.Snapshot)
	return plan.Drilled{Operation: id, Snapshot: r.Snapshot}, d.doWork(ctx)
}

func (d *domain) Drilled(id string) (plan.Drilled, error) {
	d.call("Drilled " + id)
	return plan.Drilled{Operation: id}, nil
}

func (d *domain) Status(_ context.Context, id string) ([]plan.Status, error) {
	d.call("Status " + id)
	return []plan.Status{}, nil
}

func (d *domain) Doctor(context.Context) ([]plan.Check, error) {
	d.call("Doctor")
	return []plan.Check{{Name: "c", Status: "ok"}}, nil
}

func (d *domain) Known(string) (bool, bool, error) { return d.known, d.known, nil }

func (d *domain) Close() error { return nil }

func (d *domain) Allow(_ context.Context, prefixes []string) ([]string, error) {
	d.call("Allow")
	return prefixes, nil
}

func (d *domain) Adopt(_ context.Context, id string, r plan.AdoptRequest) ([]plan.Adopted, error) {
	d.call("Adopt")
	return []plan.Adopted{{Operation: id, Volume: r.Volumes[0]}}, nil
}
