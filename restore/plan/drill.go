package plan

import (
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// DrillRequest asks to try a snapshot out.
type DrillRequest struct {
	Snapshot string   `json:"snapshot"` // id, prefix, name, latest, latest~N
	Volumes  []string `json:"volumes,omitempty"`
	Project  string   `json:"project,omitempty"` // narrows latest
	// Start asks to start the workload on the data; Services are those to
	// start, with what they depend on, all where there are none.
	Start    bool     `json:"start,omitempty"`
	Services []string `json:"services,omitempty"`
	// Keep leaves what was made.
	Keep bool `json:"keep,omitempty"`
	// Timeout bounds the wait for health. Steady is how long a container
	// without a health check must stay up.
	Timeout     time.Duration `json:"timeout,omitempty"`
	Steady      time.Duration `json:"steady,omitempty"`
	LockTimeout time.Duration `json:"lock_timeout,omitempty"`
}

// Drilled is the result of a drill: all volumes were restored and are as the
// snapshot says, and the containers that were started got healthy.
type Drilled struct {
	Operation  string             `json:"operation"`
	Snapshot   string             `json:"snapshot"`
	Name       string             `json:"name,omitempty"`
	Project    string             `json:"project,omitempty"`
	Volumes    []DrilledVolume    `json:"volumes"`
	Containers []DrilledContainer `json:"containers,omitempty"`
	// Network is the one that was kept.
	Network string        `json:"network,omitempty"`
	Kept    bool          `json:"kept,omitempty"`
	Took    time.Duration `json:"took"` // nanoseconds
}

// DrilledVolume is one volume that was restored into a throwaway one.
type DrilledVolume struct {
	Volume string        `json:"volume"`
	Trial  string        `json:"trial"` // the throwaway volume
	Bytes  int64         `json:"bytes"` // compared with the snapshot
	Files  int64         `json:"files"`
	Took   time.Duration `json:"took"` // nanoseconds
}

// DrilledContainer is one container that was started on the throwaway volumes.
type DrilledContainer struct {
	Container string        `json:"container"` // that it is like
	Trial     string        `json:"trial"`
	Image     string        `json:"image"`
	Status    string        `json:"status"` // healthy, running
	Took      time.Duration `json:"took"`   // nanoseconds, from its start
}

// Inspected is a snapshot, and what the journal remembers of it.
type Inspected struct {
	snapshot.Snapshot
	// Drilled is the last drill of all its volumes that succeeded.
	Drilled *LastDrill `json:"drilled,omitempty"`
}

// LastDrill is a drill that succeeded.
type LastDrill struct {
	Operation string    `json:"operation"`
	Time      time.Time `json:"time"`
	Started   bool      `json:"started"` // containers got healthy on the data
}

// Drill tells what a closed operation says of its snapshot; nil where it is not
// a drill of that many volumes that succeeded.
func Drill(op *journal.Operation, volumes int) *LastDrill {
	if op.Kind != journal.Drill || op.State != journal.Closed || op.Outcome == nil ||
		op.Outcome.Result != journal.ResultDone || len(op.Volumes) != volumes {
		return nil
	}
	return &LastDrill{Operation: op.ID, Time: op.Updated, Started: op.Start}
}
