package restore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// adoption is the finished adoption that a reference names, by its id or the
// beginning of it; nil where it names none.
func (d *Domain) adoption(ref string) (*journal.Operation, error) {
	if ref == "" {
		return nil, nil
	}
	all, err := d.journal.List()
	if err != nil {
		return nil, journalFault(err)
	}
	var found *journal.Operation
	for _, op := range all {
		switch {
		case !strings.HasPrefix(op.ID, ref):
		case found != nil:
			return nil, nil // several: told by who looks for them next
		default:
			found = op
		}
	}
	if found == nil || found.Kind != journal.Adopt || found.Remake == nil || found.State != journal.Closed ||
		found.Outcome == nil || found.Outcome.Result != journal.ResultDone {
		return nil, nil
	}
	return found, nil
}

// planUnadopt plans the return of a volume to the driver, the labels and the
// options that it had before an adoption. The data goes along as it is now.
func (d *Domain) planUnadopt(ctx context.Context, id string, r plan.UndoRequest, adopted *journal.Operation) (*plan.Plan, error) {
	inv, err := d.inventory(ctx)
	if err != nil {
		return nil, err
	}
	r.Operation = adopted.ID
	name := adopted.Volumes[0].Name
	op, at, err := d.planAdopt(inv, name, adopted.Remake.From.Driver == "local")
	if err != nil {
		return nil, fmt.Errorf("undo %s: %w", adopted.ID, err)
	}
	op.Remake.To.Labels, op.Remake.To.Options = adopted.Remake.From.Labels, adopted.Remake.From.Options
	return &plan.Plan{
		Kind: journal.Adopt, Operation: id, Undoes: adopted.ID, Remake: op.Remake, Project: op.Project, Undo: &r,
		Volumes: []plan.Volume{{Name: name, From: name, Engine: plan.Rename, Dir: at.dir, Live: at.live, Lock: at.lock}},
	}, nil
}

// unadopt carries such a plan out. A crash leaves what one of an adoption
// leaves, and recovery finishes it likewise.
func (d *Domain) unadopt(ctx context.Context, p *plan.Plan) (plan.Restored, error) {
	v := p.Volumes[0]
	op := &journal.Operation{
		ID: p.Operation, Kind: journal.Adopt, State: journal.Working, Created: time.Now().UTC(),
		Project: p.Project, Undoes: p.Undoes, Locks: names(keysOf(p)), Remake: p.Remake,
		Volumes: []journal.Volume{{Name: v.Name, Dir: v.Dir, Live: v.Live}},
	}
	err := d.adopt(ctx, op)
	return d.result(op), err
}
