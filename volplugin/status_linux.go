package volplugin

import (
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// catalogue keeps the list of snapshots as long as their directory does not
// change: snapshots come and go by rename.
type catalogue struct {
	store *snapshot.Store
	dir   string

	mu      sync.Mutex
	changed time.Time
	read    bool
	all     []snapshot.Snapshot
}

func (c *catalogue) list() ([]snapshot.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.dir)
	if err != nil {
		return nil, err
	}
	if c.read && st.ModTime().Equal(c.changed) {
		return c.all, nil
	}
	all, err := c.store.List()
	c.all, c.changed = all, st.ModTime()
	// A change in the same tick of the file system's clock shows no new time.
	c.read = err == nil && time.Since(st.ModTime()) > time.Second
	return all, err
}

// initial is the generation of a tree that no operation brought.
const initial = "initial"

// Status is what docker volume inspect shows of a volume.
func (d *Driver) status(v volume.Volume) map[string]any {
	status := map[string]any{
		"scope":     string(v.Scope),
		"directory": v.Dir,
	}
	if names, err := d.volumes.Sharing(v); err == nil && len(names) > 1 {
		status["shared_with"] = without(names, v.Name)
	}
	all, err := d.snapshots.list()
	if err != nil {
		status["snapshots_error"] = err.Error()
	}
	status["snapshots"] = snapshotsOf(all, v)
	ops, err := d.journal.List()
	if err != nil {
		status["operation_error"] = err.Error()
	}
	generation, since := initial, time.Time{}
	brought := func(op string, at time.Time) {
		if at.After(since) {
			generation, since = op, at
		}
	}
	for _, s := range all {
		if s.Kind == snapshot.Safety && holds(s, v) {
			brought(s.Operation, s.Created)
		}
	}
	for _, op := range ops {
		if !worksIn([]*journal.Operation{op}, v.Dir) {
			continue
		}
		if op.State != journal.Closed {
			status["operation"] = map[string]any{
				"id": op.ID, "kind": string(op.Kind), "state": string(op.State), "since": op.Created.Format(time.RFC3339),
			}
		}
		if op.Outcome != nil && (op.Outcome.Result == journal.ResultDone || op.Outcome.Result == journal.ResultNotStarted) {
			brought(op.ID, op.Updated)
		}
	}
	status["generation"] = generation
	return status
}

func without(names []string, name string) (rest []string) {
	for _, other := range names {
		if other != name {
			rest = append(rest, other)
		}
	}
	return rest
}

// holds reports whether a snapshot has the volume's data.
func holds(s snapshot.Snapshot, v volume.Volume) bool {
	for _, sv := range s.Volumes {
		if sv.Name == v.Name && volume.Served(sv.Driver) {
			return true
		}
	}
	return false
}

func snapshotsOf(all []snapshot.Snapshot, v volume.Volume) []map[string]any {
	rows := []map[string]any{}
	for _, s := range all {
		for _, sv := range s.Volumes {
			if sv.Name != v.Name || !volume.Served(sv.Driver) {
				continue
			}
			size := units.HumanSize(float64(sv.Bytes))
			if sv.Uncounted {
				size = "N/A"
			}
			rows = append(rows, map[string]any{
				"id": s.ID, "name": s.Name, "kind": string(s.Kind),
				"created": s.Created.Format(time.RFC3339),
				"age":     units.HumanDuration(time.Since(s.Created)),
				"size":    size,
			})
		}
	}
	return rows
}

// describe is a volume as the protocol tells it.
func (d *Driver) describe(name string) (volume.Volume, map[string]any, error) {
	v, err := d.find(name)
	if err != nil {
		return v, nil, err
	}
	return v, d.status(v), nil
}

// list gives all volumes. Damage is an error: a volume that is left out would
// be taken for one that does not exist.
func (d *Driver) list() ([]volume.Volume, error) {
	all, err := d.volumes.List()
	if err != nil {
		log.Printf("list volumes: %v", err)
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	return all, nil
}
