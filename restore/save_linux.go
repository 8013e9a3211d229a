package restore

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// chosen is the copy engine of a volume, and why it is that one, at length and
// in a clause.
type chosen struct{ name, reason, brief string }

// chooseEngines decides by which engine each volume is stored, before anything
// is on record or paused for it.
func (d *Domain) chooseEngines(want string, inv *inventory, names []string) ([]chosen, error) {
	store, err := d.snapshots.Root()
	if err != nil {
		return nil, err
	}
	defer store.Close()
	out := make([]chosen, len(names))
	for i, name := range names {
		tree, err := d.openTree(inv.places[name].path())
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
		engine, why, err := d.Copiers.Choose(want, tree, store)
		var kind string
		if err == nil {
			kind, err = fileSystemOf(tree)
		}
		tree.Close()
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", name, err)
		}
		out[i] = chosen{engine.Name(), why.Full, why.Brief(kind)}
	}
	return out, nil
}

// captured is what was read of a volume and is not stored yet.
type captured struct {
	copyengine.Captured
	volume *snapshot.Volume
}

// saveAll stores every volume into the draft and fills in what was stored. With
// apart, what need not be done while the workload stands still is left: what
// it gives is to be finished, or closed, with an error too.
func (d *Domain) saveAll(ctx context.Context, id string, inv *inventory, draft *snapshot.Draft, snap *snapshot.Snapshot, since earlier, apart bool) (left []captured, err error) {
	d.phase(id, "copy")
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		c, err := d.save(ctx, id, draft, i, v, inv.places[v.Name], since, apart)
		if err != nil {
			return left, fmt.Errorf("copy volume %s: %w", v.Name, err)
		}
		if c != nil {
			left = append(left, captured{c, v})
		}
	}
	return left, nil
}

// save stores a volume, or only captures it.
func (d *Domain) save(ctx context.Context, id string, draft *snapshot.Draft, index int, v *snapshot.Volume, at place, since earlier, apart bool) (copyengine.Captured, error) {
	tree, err := d.openTree(at.path())
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	progress, end := d.meter(id, v.Name, 0, 0)
	skipped := func(path, reason string) {
		d.say(id, event.Event{Type: event.Skipped, Volume: v.Name, Message: path + ": " + reason})
	}
	engine, err := d.Copiers.Named(v.Engine)
	if err != nil {
		return nil, err
	}
	var content copyengine.Content
	var left copyengine.Captured
	err = budget.Do(ctx, func() (err error) {
		inc, ok := engine.(copyengine.Incremental)
		switch {
		case ok && apart:
			left, err = inc.Capture(ctx, since.bases[v.Name], since.settled, tree, draft.Root(), index, skipped, progress)
		case ok:
			content, err = inc.SaveSince(ctx, since.bases[v.Name], since.settled, tree, draft.Root(), index, skipped, progress)
		default:
			content, err = engine.Save(ctx, tree, draft.Root(), index, skipped, progress)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if content.Uncounted {
		d.taken(id, v.Name)
	} else {
		end()
	}
	if left == nil {
		record(v, content)
	}
	return left, nil
}

// finishAll stores what was captured, while the workload runs again.
func (d *Domain) finishAll(ctx context.Context, id string, left []captured) error {
	if len(left) > 0 {
		d.phase(id, "store")
	}
	for _, c := range left {
		var content copyengine.Content
		err := budget.Do(ctx, func() (err error) {
			content, err = c.Finish(ctx)
			return err
		})
		if err != nil {
			err = fmt.Errorf("store volume %s: %w", c.volume.Name, err)
			if fault.Is(err, fault.Corrupt) {
				return fault.From(err).WithHint("docker snaprestore verify tells which earlier snapshot is damaged; " +
					"remove it, so that nothing is taken over from it")
			}
			return err
		}
		record(c.volume, content)
	}
	return nil
}

func closeAll(left []captured) {
	for _, c := range left {
		c.Close()
	}
}

// record notes what was stored of a volume.
func record(v *snapshot.Volume, content copyengine.Content) {
	v.File, v.SHA256 = content.File, content.SHA256
	v.Bytes, v.Files, v.Stored, v.Uncounted = content.Bytes, content.Files, content.Stored, content.Uncounted
}

// earlier is what incremental engines start from.
type earlier struct {
	bases   map[string]*copyengine.Base // by volume
	settled time.Time
}

// since finds the last snapshot of each volume that the same engine stored,
// and settles the volumes, while everything runs. The snapshots are not held
// against their removal: what the new one takes over has names of its own
// there. Damaged ones are another command's to tell of.
func (d *Domain) since(inv *inventory, snap *snapshot.Snapshot) earlier {
	e := earlier{bases: map[string]*copyengine.Base{}, settled: d.settle(inv, snap)}
	all, _ := d.snapshots.List()
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		if base := d.base(all, v); base != nil {
			e.bases[v.Name] = base
		}
	}
	return e
}

func (e earlier) close() {
	for _, base := range e.bases {
		base.Store.Close()
	}
}

// base gives the newest of all that holds a volume; nil for none.
func (d *Domain) base(all []snapshot.Snapshot, v *snapshot.Volume) *copyengine.Base {
	for _, s := range all {
		for _, old := range s.Volumes {
			if s.Kind != snapshot.Made || old.Name != v.Name || old.Driver != v.Driver || old.Engine != v.Engine {
				continue
			}
			if store, err := d.snapshots.Content(s.ID); err == nil {
				return &copyengine.Base{Store: store, Content: contentOf(old)}
			}
		}
	}
	return nil
}

// settle syncs the file systems of volumes that an incremental engine stores,
// while everything runs, and tells when it began. From then on a change of a
// file shows in its times, also one through a mapping: to write to a page that
// was written out faults (L: page_mkwrite). Where it fails nothing is known. An
// engine that takes trees as a whole has less to write out after it.
func (d *Domain) settle(inv *inventory, snap *snapshot.Snapshot) time.Time {
	began := time.Now()
	devices := map[uint64]bool{}
	for _, v := range snap.Volumes {
		engine, err := d.Copiers.Named(v.Engine)
		if err != nil {
			return time.Time{}
		}
		_, incremental := engine.(copyengine.Incremental)
		if _, whole := engine.(copyengine.Whole); !incremental && !whole {
			continue
		}
		if err := d.settleOne(inv.places[v.Name].path(), devices); err != nil {
			return time.Time{}
		}
	}
	return began
}

func (d *Domain) settleOne(path string, devices map[uint64]bool) error {
	dir, err := durable.Open(path, d.Fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	device, err := dir.Device()
	if err != nil || devices[device] {
		return err
	}
	devices[device] = true
	root, err := dir.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// openTree opens a directory for a copy engine, following no link.
func (d *Domain) openTree(path string) (*os.Root, error) {
	dir, err := durable.Open(path, d.Fail)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Root()
}
