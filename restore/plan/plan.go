// Package plan holds what operations are asked for and what they are going to
// do, as values: requests, plans and results. They cross the border between
// client and agent as JSON. A plan is printed by a dry run, confirmed by its
// digest, and executed by code that decides nothing.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Create asks for a snapshot. With no volume and no container named, it is of
// the whole project.
type Create struct {
	Project     string               `json:"project,omitempty"`
	Volumes     []string             `json:"volumes,omitempty"`
	Containers  []string             `json:"containers,omitempty"` // all volumes of these containers
	Name        string               `json:"name,omitempty"`
	Labels      map[string]string    `json:"labels,omitempty"`
	Consistency snapshot.Consistency `json:"consistency,omitempty"`
	Engine      string               `json:"engine,omitempty"`       // copy engine; "" or "auto" for the best that is able
	StopTimeout *int                 `json:"stop_timeout,omitempty"` // seconds; nil for each container's own
	LockTimeout time.Duration        `json:"lock_timeout,omitempty"` // nanoseconds
	// LimitRate bounds what is copied while the workload runs, in bytes a
	// second, and Jobs the processors that copying uses; 0 for no bound.
	LimitRate int64 `json:"limit_rate,omitempty"`
	Jobs      int   `json:"jobs,omitempty"`
}

// RestoreRequest asks for a restore.
type RestoreRequest struct {
	Snapshot    string        `json:"snapshot"` // id, prefix, name, latest, latest~N
	Volumes     []string      `json:"volumes,omitempty"`
	Project     string        `json:"project,omitempty"` // restore into this project
	NoStart     bool          `json:"no_start,omitempty"`
	Rollback    bool          `json:"rollback,omitempty"`
	Timeout     time.Duration `json:"timeout,omitempty"` // for health after the start
	StopTimeout *int          `json:"stop_timeout,omitempty"`
	LockTimeout time.Duration `json:"lock_timeout,omitempty"`
	// LimitRate bounds what is copied while the workload runs, in bytes a
	// second, and Jobs the processors that copying uses; 0 for no bound.
	LimitRate int64 `json:"limit_rate,omitempty"`
	Jobs      int   `json:"jobs,omitempty"`
}

// UndoRequest asks to take a restore, an undo or an adoption back.
type UndoRequest struct {
	Operation   string        `json:"operation,omitempty"` // id or prefix; "" for the last restore or undo
	Project     string        `json:"project,omitempty"`   // narrows the last one
	Timeout     time.Duration `json:"timeout,omitempty"`
	StopTimeout *int          `json:"stop_timeout,omitempty"`
	LockTimeout time.Duration `json:"lock_timeout,omitempty"`
}

// Plan is what a restore or an undo is going to do.
type Plan struct {
	Kind      journal.Kind      `json:"kind"`
	Operation string            `json:"operation"` // its id, should it be executed
	Snapshot  snapshot.Snapshot `json:"snapshot"`  // where the data comes from
	Undoes    string            `json:"undoes,omitempty"`
	// Remake is set where an adoption is undone: what the one volume is and
	// what it was and becomes again. Its data stays.
	Remake     *journal.Remake    `json:"remake,omitempty"`
	Project    string             `json:"project,omitempty"`
	Volumes    []Volume           `json:"volumes"`
	Containers []Container        `json:"containers,omitempty"` // stopped and started, in start order
	Skipped    []snapshot.Skipped `json:"skipped,omitempty"`
	Warnings   []string           `json:"warnings,omitempty"`
	Start      bool               `json:"start"`
	Rollback   bool               `json:"rollback,omitempty"`
	Timeout    time.Duration      `json:"timeout,omitempty"`
	// Restore or Undo is the request that the plan answers, with the snapshot
	// or operation resolved to its id: under the locks the plan is made again
	// from it and must come out the same.
	Restore *RestoreRequest `json:"restore,omitempty"`
	Undo    *UndoRequest    `json:"undo,omitempty"`
}

// Volume is one volume that gets other data.
type Volume struct {
	Name  string `json:"name"`
	From  string `json:"from"`  // its name in the snapshot
	Index int    `json:"index"` // its place in the snapshot
	// Engine is the copy engine that stages it, or "rename" where the tree
	// already lies beside the volume or goes along with it.
	Engine string `json:"engine"`
	Dir    string `json:"dir"`  // the directory of the swap, on the engine host
	Live   string `json:"live"` // entry in Dir
	// Stage is the entry in Dir that becomes live. For "rename" it exists.
	Stage string `json:"stage"`
	// Lock is the journal's key of the tree.
	Lock string `json:"lock"`
	// Shares are other volumes of the engine that have the same tree.
	Shares []string `json:"shares,omitempty"`
	Bytes  int64    `json:"bytes"` // to stage
	Files  int64    `json:"files"`
	// Uncounted says that nobody knows the two.
	Uncounted bool `json:"uncounted,omitempty"`
	// Create is set where the volume does not exist and is made first.
	Create *CreateVolume `json:"create,omitempty"`
}

// CreateVolume is a volume to be made.
type CreateVolume struct {
	Name    string            `json:"name"`
	Driver  string            `json:"driver,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Container is one user of the volumes.
type Container struct {
	journal.Container
	Image   string `json:"image"`
	ImageID string `json:"image_id"`
	// Foreign says that it does not belong to the project of the plan.
	Foreign bool `json:"foreign,omitempty"`
}

// Digest identifies what the plan does: two plans with one digest do the same
// to the same things. The operation's id and sizes are left out.
func (p *Plan) Digest() string {
	q := *p
	q.Operation, q.Restore, q.Undo = "", nil, nil
	q.Snapshot = snapshot.Snapshot{ID: p.Snapshot.ID}
	q.Volumes = append([]Volume(nil), p.Volumes...)
	for i := range q.Volumes {
		v := &q.Volumes[i]
		v.Bytes, v.Files, v.Uncounted = 0, 0, false
		if v.Engine != Rename {
			v.Stage = ""
		}
	}
	data, err := json.Marshal(q)
	if err != nil {
		panic(err) // a plan holds nothing that JSON lacks
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:6])
}

// Rename is the engine of a volume whose new tree already lies beside it.
const Rename = "rename"

// Restored is the result of a restore, an undo, or their recovery.
type Restored struct {
	Operation string        `json:"operation"`
	Kind      journal.Kind  `json:"kind"`
	Result    string        `json:"result"` // journal.Result…
	Snapshot  string        `json:"snapshot,omitempty"`
	Safety    string        `json:"safety,omitempty"` // id of the snapshot that keeps the replaced data
	Project   string        `json:"project,omitempty"`
	Volumes   []string      `json:"volumes,omitempty"`
	Started   []string      `json:"started,omitempty"` // names of containers
	Downtime  time.Duration `json:"downtime"`          // nanoseconds; 0 where nothing ran
}

// Recovered is the result of recover: one entry an operation that was open.
type Recovered struct {
	Operations []RecoveredOperation `json:"operations"`
}

// RecoveredOperation says what recover did with one operation.
type RecoveredOperation struct {
	Operation string        `json:"operation"`
	Kind      journal.Kind  `json:"kind"`
	Was       journal.State `json:"was"`    // the last record
	Result    string        `json:"result"` // journal.Result…
	Error     string        `json:"error,omitempty"`
}

// Status is an operation as status shows it.
type Status struct {
	journal.Operation
	Alive bool `json:"alive"`
}

// Check is one row of doctor.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, failed
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// Verified is the result of verify for one snapshot.
type Verified struct {
	Snapshot string `json:"snapshot"`
	Name     string `json:"name,omitempty"`
	Result   string `json:"result"` // ok, damaged
	Bytes    int64  `json:"bytes"`  // read and checked
	Error    string `json:"error,omitempty"`
}

// AdoptRequest asks to turn local volumes into plugin volumes, or back.
type AdoptRequest struct {
	Volumes     []string      `json:"volumes"`
	Back        bool          `json:"back,omitempty"`
	LockTimeout time.Duration `json:"lock_timeout,omitempty"`
}

// Adopted is one volume that has another driver now.
type Adopted struct {
	Operation string `json:"operation"`
	Volume    string `json:"volume"`
	From      string `json:"from"` // drivers
	To        string `json:"to"`
	Project   string `json:"project,omitempty"`
	Key       string `json:"key,omitempty"` // in the compose file
}
