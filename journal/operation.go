// Package journal records operations so that whoever comes after a crash knows
// what was going on, and decides alike.
//
// An operation is one file, journal/<id>.json, replaced whole with every
// record. The one decision of a restore, for all its volumes together, is a
// rename: with PREPARED the two records that may follow, COMMITTED and
// ABORTING, are written beside it, so deciding needs no space. Whether an
// operation is alive is a lock (flock) on its own lock file, never a process
// number. A takeover raises the epoch under that lock.
//
// A crash leaves the last record that was renamed into place, and temporary
// files that nobody reads, which a later operation removes. A record whose
// checksum or owner is wrong, and one with a field that this version does not
// know, stops everything that would rest on it; a new field is therefore a new
// format.
package journal

import (
	"time"
)

// Format is the version of the record layout that this code writes, and the
// newest that it reads.
const Format = 1

// Kind is the verb of an operation.
type Kind string

// The kinds.
const (
	Create  Kind = "create"
	Restore Kind = "restore"
	Undo    Kind = "undo"
	Remove  Kind = "rm"
	Import  Kind = "import"
	Adopt   Kind = "adopt"
	Drill   Kind = "drill"
)

// Kinds lists all kinds.
func Kinds() []Kind { return []Kind{Create, Restore, Undo, Remove, Import, Adopt, Drill} }

// Operation is the state of one operation: the body of a record.
type Operation struct {
	ID       string    `json:"id"` // 12 hexadecimal digits
	Kind     Kind      `json:"kind"`
	State    State     `json:"state"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
	Project  string    `json:"project,omitempty"`
	Snapshot string    `json:"snapshot,omitempty"` // the one made, restored or undone to
	Safety   string    `json:"safety,omitempty"`   // the snapshot that keeps what is replaced
	// Undoes is the operation that an undo takes back, or an adoption another.
	Undoes string `json:"undoes,omitempty"`
	// Locks are the keys that the operation holds while it is open, sorted.
	Locks      []string    `json:"locks,omitempty"`
	Volumes    []Volume    `json:"volumes,omitempty"`
	Containers []Container `json:"containers,omitempty"`
	// Remake is what an adoption makes of its one volume.
	Remake *Remake `json:"remake,omitempty"`
	// Network is the name of the one that a drill makes for its containers.
	Network     string `json:"network,omitempty"`
	Consistency string `json:"consistency,omitempty"`
	// Start says whether containers are started at the end as they were.
	Start bool `json:"start,omitempty"`
	// Rollback says that an unhealthy workload takes all volumes back.
	Rollback bool `json:"rollback,omitempty"`
	// Timeout bounds the wait for health, in nanoseconds.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Stopped is when the first container was asked to stop, Restarted when
	// all ran again: their difference is the downtime.
	Stopped   time.Time `json:"stopped,omitzero"`
	Restarted time.Time `json:"restarted,omitzero"`
	Outcome   *Outcome  `json:"outcome,omitempty"`
}

// Volume is one volume of a restore or undo: names of entries in one
// directory, which is all that the swap and its recovery need.
type Volume struct {
	Name string `json:"name"` // of the volume, for people
	// Shares are other volumes with the same tree.
	Shares []string `json:"shares,omitempty"`
	Dir    string   `json:"dir"`  // absolute path of the directory that holds the entries
	Live   string   `json:"live"` // the volume's root: "_data"
	// Stage is the tree that shall become live.
	Stage string `json:"stage"`
	// Fence is the dangling link, and later the old tree until it is renamed
	// to Old.
	Fence string `json:"fence"`
	Old   string `json:"old"`
	// Keep says that the stage is a safety snapshot's tree: going back must
	// not delete it.
	Keep bool `json:"keep,omitempty"`
	// Created says that the operation made the volume: going back removes it.
	Created bool `json:"created,omitempty"`
	// Index is the volume's place in the snapshot.
	Index int `json:"index"`
	// Bytes and Files describe the tree that is replaced, where known.
	Bytes int64 `json:"bytes,omitempty"`
	Files int64 `json:"files,omitempty"`
}

// Container is a container that the operation stops or pauses, as it was, or one
// that a drill makes.
type Container struct {
	// ID is the engine's; for one that is yet to be made its name, by which the
	// engine finds it too.
	ID      string `json:"id"`
	Name    string `json:"name"`
	Service string `json:"service,omitempty"`
	Project string `json:"project,omitempty"`
	Running bool   `json:"running,omitempty"`
	Paused  bool   `json:"paused,omitempty"`
	Health  bool   `json:"health,omitempty"` // has a health check
	Policy  Policy `json:"policy"`
	Level   int    `json:"level"` // start order: 0 first; stopped in reverse
	// Await says that those that start later wait for it to be healthy.
	Await bool `json:"await,omitempty"`
	// StopTimeout is the grace before the kill, in seconds; nil for the
	// container's own.
	StopTimeout *int `json:"stop_timeout,omitempty"`
}

// Remake is a volume that is made again under another driver.
type Remake struct {
	From Spec `json:"from"`
	To   Spec `json:"to"`
	// Parked says that the tree has left the old volume.
	Parked bool `json:"parked,omitempty"`
}

// Spec is how the engine makes a volume.
type Spec struct {
	Driver  string            `json:"driver"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Policy is a container's restart policy.
type Policy struct {
	Name    string `json:"name"`
	Retries int    `json:"retries,omitempty"`
}

// Outcome is how an operation ended.
type Outcome struct {
	// Result is "done", "rolled-back", "not-started" or "failed".
	Result   string        `json:"result"`
	Error    string        `json:"error,omitempty"`
	Downtime time.Duration `json:"downtime,omitempty"` // nanoseconds
	// Recovered says that another process than the first ended it.
	Recovered bool `json:"recovered,omitempty"`
}

// The results.
const (
	ResultDone       = "done"
	ResultRolledBack = "rolled-back"
	ResultNotStarted = "not-started"
	ResultFailed     = "failed"
)

// Find gives the operation's container with this id, or nil.
func (op *Operation) Find(id string) *Container {
	for i := range op.Containers {
		if op.Containers[i].ID == id {
			return &op.Containers[i]
		}
	}
	return nil
}
