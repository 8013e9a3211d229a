package command

import (
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// The shop is a project with a database and a cache.

const (
	operationID = "a1b2c3d4e5f6"
	snapshotID  = "4f2a91c07d3e"
	safetyID    = "9c8b7a6d5e4f"
)

func shopSnapshot() snapshot.Snapshot {
	return snapshot.Snapshot{
		Format: 1, ID: snapshotID, Name: "before-upgrade", Kind: snapshot.Made,
		Created: noon.Add(-2 * time.Hour), Project: "shop", Consistency: snapshot.Pause,
		Pause: 340 * time.Millisecond, Operation: snapshotID,
		Labels: map[string]string{"by": "cron", "tier": "gold"},
		Volumes: []snapshot.Volume{
			{Name: "shop_db", Driver: "local", Key: "db", Scope: "project_named", Engine: "archive", Bytes: 193_400_000, Files: 2210, Stored: 41_000_000},
			{Name: "shop_cache", Driver: "local", Key: "cache", Scope: "project_named", Engine: "archive", Bytes: 1_200_000, Files: 1, Stored: 900_000},
		},
		Skipped: []snapshot.Skipped{{What: "/run of shop-db-1", Reason: "a tmpfs lives in memory only"}},
	}
}

func safetySnapshot() snapshot.Snapshot {
	return snapshot.Snapshot{
		Format: 1, ID: safetyID, Name: "pre-restore-" + operationID, Kind: snapshot.Safety,
		Created: noon.Add(-time.Minute), Project: "shop", Operation: operationID,
		Volumes: []snapshot.Volume{
			{Name: "shop_db", Engine: "tree", Bytes: 200_000_000, Files: 2300},
			{Name: "shop_uploads_with_a_very_long_name_indeed", Engine: "tree", Bytes: 7, Files: 1},
		},
	}
}

func restorePlan() *plan.Plan {
	return &plan.Plan{
		Kind: journal.Restore, Operation: operationID, Snapshot: shopSnapshot(), Project: "shop",
		Volumes: []plan.Volume{
			{Name: "shop_db", From: "shop_db", Engine: "archive", Bytes: 193_400_000, Files: 2210},
			{Name: "shop_cache", From: "shop_cache", Engine: "archive", Bytes: 1_200_000, Files: 1, Create: &plan.CreateVolume{Name: "shop_cache"}},
		},
		Containers: []plan.Container{
			{Container: journal.Container{ID: "c1", Name: "shop-db-1", Running: true}, Image: "postgres:16"},
			{Container: journal.Container{ID: "c2", Name: "shop-web-1", Running: true}, Image: "shop/web:2"},
			{Container: journal.Container{ID: "c3", Name: "report-1"}, Image: "report:1", Foreign: true},
		},
		Skipped:  []snapshot.Skipped{{What: "shop_old", Reason: "no container of the project mounts it"}},
		Warnings: []string{"shop-db-1 runs postgres:16 (sha256:2222), the snapshot was taken with postgres:15 (sha256:1111)"},
		Start:    true, Rollback: true, Timeout: 5 * time.Minute,
	}
}

func undoPlan() *plan.Plan {
	p := restorePlan()
	p.Kind, p.Undoes, p.Snapshot = journal.Undo, "b2c3d4e5f6a7", safetySnapshot()
	p.Volumes = []plan.Volume{{Name: "shop_db", From: "shop_db", Engine: plan.Rename, Bytes: 200_000_000, Files: 2300}}
	p.Containers = p.Containers[:1]
	p.Skipped, p.Warnings, p.Rollback = nil, nil, false
	return p
}

func restored() plan.Restored {
	return plan.Restored{
		Operation: operationID, Kind: journal.Restore, Result: journal.ResultDone, Snapshot: snapshotID,
		Safety: safetyID, Project: "shop", Volumes: []string{"shop_db", "shop_cache"},
		Started: []string{"shop-db-1", "shop-web-1"}, Downtime: 1340 * time.Millisecond,
	}
}

// drilled is a drill's result, with containers or without.
func drilled(started, kept bool) plan.Drilled {
	d := plan.Drilled{
		Operation: operationID, Snapshot: snapshotID, Name: "before-upgrade", Project: "shop", Kept: kept, Took: 4200 * time.Millisecond,
		Volumes: []plan.DrilledVolume{
			{Volume: "shop_db", Trial: "snaprestore-drill-" + operationID + "-0-shop_db", Bytes: 193_400_000, Files: 2210, Took: 1500 * time.Millisecond},
			{Volume: "shop_cache", Trial: "snaprestore-drill-" + operationID + "-1-shop_cache", Bytes: 1_200_000, Files: 1, Took: 20 * time.Millisecond},
		},
	}
	if started {
		d.Containers = []plan.DrilledContainer{
			{Container: "shop-db-1", Trial: "snaprestore-drill-" + operationID + "-0-shop-db-1", Image: "postgres:16", Status: "healthy", Took: 2 * time.Second},
			{Container: "shop-web-1", Trial: "snaprestore-drill-" + operationID + "-1-shop-web-1", Image: "shop/web:2", Status: "running", Took: 5 * time.Second},
		}
	}
	if kept {
		d.Network = "snaprestore-drill-" + operationID
	}
	return d
}

// drillEvents are those of a drill, in brief.
func drillEvents() (all []event.Event) {
	for i, e := range []event.Event{
		{Type: event.Started, Verb: "drill", Message: "1 volumes of snapshot " + snapshotID},
		{Type: event.Phase, Phase: "try"},
		{Type: event.Progress, Volume: "shop_db", Bytes: 200, Files: 2, TotalBytes: 200, TotalFiles: 2, Done: true},
		{Type: event.Phase, Phase: "sync"},
		{Type: event.Phase, Phase: "compare"},
		{Type: event.Progress, Volume: "shop_db", Bytes: 200, Files: 2, TotalBytes: 200, TotalFiles: 2, Done: true},
		{Type: event.Phase, Phase: "start"},
		{Type: event.Container, Container: "shop-db-1", Status: "starting"},
		{Type: event.Container, Container: "shop-db-1", Status: "healthy"},
		{Type: event.Phase, Phase: "remove"},
	} {
		e.Time = noon.Add(time.Duration(i) * time.Second)
		all = append(all, e)
	}
	return all
}

func undone() plan.Restored {
	r := restored()
	r.Kind, r.Volumes, r.Started = journal.Undo, []string{"shop_db"}, []string{"shop-db-1"}
	return r
}

func operations() []plan.Status {
	volumes := []journal.Volume{{Name: "shop_db"}, {Name: "shop_cache"}}
	return []plan.Status{
		{Alive: true, Operation: journal.Operation{
			ID: operationID, Kind: journal.Restore, State: journal.Staging, Project: "shop", Snapshot: snapshotID,
			Created: noon.Add(-30 * time.Second), Updated: noon.Add(-10 * time.Second), Volumes: volumes,
		}},
		{Operation: journal.Operation{
			ID: "b2c3d4e5f6a7", Kind: journal.Restore, State: journal.Prepared, Project: "blog",
			Created: noon.Add(-3 * time.Hour), Updated: noon.Add(-3 * time.Hour), Volumes: volumes[:1],
		}},
		{Operation: journal.Operation{
			ID: "c3d4e5f6a7b8", Kind: journal.Undo, State: journal.Closed, Project: "shop", Snapshot: snapshotID, Safety: safetyID,
			Undoes: "d4e5f6a7b8c9", Created: noon.Add(-26 * time.Hour), Updated: noon.Add(-26 * time.Hour), Volumes: volumes,
			Containers: []journal.Container{{Name: "shop-db-1"}, {Name: "shop-web-1"}},
			Outcome:    &journal.Outcome{Result: journal.ResultDone, Downtime: 2100 * time.Millisecond, Recovered: true},
		}},
		{Operation: journal.Operation{
			ID: "e5f6a7b8c9d0", Kind: journal.Restore, State: journal.Closed, Project: "shop",
			Created: noon.Add(-48 * time.Hour), Updated: noon.Add(-48 * time.Hour), Volumes: volumes[:1],
			Outcome: &journal.Outcome{Result: journal.ResultRolledBack, Error: "shop-db-1 is unhealthy"},
		}},
	}
}
