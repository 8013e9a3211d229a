package restore

import (
	"context"
	"path/filepath"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// keepSafety lists the trees that the operation replaced as a safety snapshot,
// and, after an undo, takes the one that was used up off the list. Done twice
// it does nothing more.
func (d *Domain) keepSafety(ctx context.Context, op *journal.Operation) error {
	var inv *inventory
	err := d.patiently(ctx, func() (err error) { inv, err = d.inventory(ctx); return err })
	if err != nil {
		return err
	}
	if err := d.snapshots.Settle(); err != nil {
		return err
	}
	if _, err := d.snapshots.Load(op.Safety); err != nil {
		snap := snapshot.Snapshot{
			ID: op.Safety, Name: snapshot.SafetyName(op.Kind, op.ID), Kind: snapshot.Safety,
			Created: time.Now().UTC(), Project: op.Project, Operation: op.ID,
			Tool: build.Version, Engine: inv.host.Version,
		}
		for _, v := range op.Volumes {
			engineVolume, ok := inv.volumes[v.Name]
			if !ok {
				engineVolume = Volume{Name: v.Name, Driver: "local"}
			}
			sv := describeVolume(inv, engineVolume)
			sv.Engine, sv.Tree = treeEngine, filepath.Join(v.Dir, v.Old)
			snap.Volumes = append(snap.Volumes, sv)
		}
		for _, c := range inv.containers {
			if op.Find(c.ID) == nil {
				continue
			}
			described, err := d.describeContainer(ctx, c)
			if err != nil {
				return err
			}
			described.Running = op.Find(c.ID).Running
			snap.Containers = append(snap.Containers, described)
		}
		if err := d.snapshots.Put(snap); err != nil {
			return err
		}
	}
	if op.Kind == journal.Undo {
		return d.snapshots.Remove(op.Snapshot)
	}
	return nil
}
