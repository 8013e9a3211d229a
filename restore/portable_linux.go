package restore

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/portable"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Export writes a snapshot in its portable form; with gzip, in the heritage
// layout.
func (d *Domain) Export(ctx context.Context, ref, project string, gzip bool, w io.Writer) (_ snapshot.Snapshot, err error) {
	defer unchanged(&err)
	s, held, err := d.share(ctx, "export", ref, project)
	if err != nil {
		return s, err
	}
	defer held.Release()
	if err := d.needDirs(keptDirs(s)); err != nil {
		return s, err
	}
	return s, portable.Export(ctx, d.snapshots, d.Copiers, s, gzip, w, d.watch("", &s))
}

// watch follows an export or import with an event line for each volume. S is
// nil where the volumes are not known yet.
func (d *Domain) watch(op string, s *snapshot.Snapshot) portable.Watch {
	name := func(index int) string {
		if s != nil && index < len(s.Volumes) {
			return s.Volumes[index].Name
		}
		return strconv.Itoa(index)
	}
	current, add, end := -1, func(int64, int64) {}, func() {}
	return portable.Watch{
		Progress: func(index int, bytes, files int64) {
			if index != current {
				end()
				var total snapshot.Volume
				if s != nil && index < len(s.Volumes) {
					total = s.Volumes[index]
				}
				current = index
				add, end = d.meter(op, name(index), total.Bytes, total.Files)
			}
			add(bytes, files)
		},
		Skipped: func(index int, path, reason string) {
			d.say(op, event.Event{Type: event.Skipped, Volume: name(index), Message: path + ": " + reason})
		},
	}
}

// Import stores an archive as a new snapshot, in operation id.
func (d *Domain) Import(ctx context.Context, id string, r io.Reader, name string) (_ snapshot.Snapshot, err error) {
	defer unchanged(&err)
	none := snapshot.Snapshot{}
	if err := d.checkName(name); err != nil {
		return none, err
	}
	if err := d.snapshots.Sweep(d.busy); err != nil {
		return none, err
	}
	op := &journal.Operation{ID: id, Kind: journal.Import, State: journal.Working, Created: time.Now().UTC(), Snapshot: id}
	log, err := d.journal.Begin(ctx, op)
	if err != nil {
		return none, journalFault(err)
	}
	defer log.Release()
	d.say(id, event.Event{Type: event.Started, Verb: "import"})
	draft, err := d.snapshots.New(id)
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	defer draft.Close()
	snap, err := portable.Import(ctx, r, draft, d.watch(id, nil))
	if err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	snap.ID, snap.Kind, snap.Operation = id, snapshot.Imported, id
	if name != "" {
		snap.Name = name
	}
	if err := draft.Commit(snap); err != nil {
		return none, d.abandonCreate(ctx, log, err)
	}
	op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	if err := log.Close(); err != nil {
		d.warn(id, "close operation %s: %v", id, err)
	}
	return snap, nil
}
