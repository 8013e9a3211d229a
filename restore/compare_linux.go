package restore

import (
	"context"
	"errors"
	"io"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// compare holds a restored tree against a volume of a snapshot, entry by entry
// and byte by byte, and counts into out.
func (d *Domain) compare(ctx context.Context, op string, snap snapshot.Snapshot, index int, in *durable.Dir, out *plan.DrilledVolume) error {
	root, err := in.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	check, err := tree.NewChecker(root)
	if err != nil {
		return err
	}
	defer check.Close()
	sv := snap.Volumes[index]
	progress, end := d.meter(op, sv.Name, sv.Bytes, sv.Files)
	visit := func(e *tree.Entry, content io.Reader) error {
		err := check.Check(e, content, func(n int64) error {
			progress(n, 0)
			out.Bytes += n
			return ctx.Err()
		})
		if err == nil && e.Path != "." {
			progress(0, 1)
			out.Files++
		}
		return err
	}
	if err := d.entries(ctx, snap, index, visit); err != nil {
		return differs(err)
	}
	if err := check.Finish(ctx); err != nil {
		return differs(err)
	}
	end()
	return nil
}

// differs makes a difference a fault: what was restored is not what the
// snapshot has.
func differs(err error) error {
	var difference *tree.Difference
	if errors.As(err, &difference) {
		return fault.New(fault.Corrupt, "the restored tree is not as in the snapshot: %w", err)
	}
	return err
}

// entries gives every entry of a volume of a snapshot, however it is stored.
func (d *Domain) entries(ctx context.Context, snap snapshot.Snapshot, index int, visit func(*tree.Entry, io.Reader) error) error {
	sv := snap.Volumes[index]
	if sv.Engine == treeEngine {
		kept, err := d.openTree(sv.Tree)
		if err != nil {
			return err
		}
		defer kept.Close()
		ignore := func(string, string) {} // the copy has said it
		return tree.Walk(ctx, kept, ignore, func(n *tree.Node) error { return visit(&n.Entry, n.Content()) })
	}
	engine, err := d.Copiers.Named(sv.Engine)
	if err != nil {
		return err
	}
	store, err := d.snapshots.Content(snap.ID)
	if err != nil {
		return err
	}
	defer store.Close()
	return engine.Entries(ctx, store, contentOf(sv), visit)
}
