// Package agent runs the engine side of a command: a program that
// the client carries, in a container that it starts through the Engine API.
//
// The client gives a Request in the container's environment and watches typed
// events, one JSON object a line, on its standard error; standard output and
// standard input carry archives (export, import) and the answer to a plan.
// Once it has begun an operation the agent does not need its client: when the
// engine starts it again, it finds its operation's record in the journal and
// recovers it.
package agent

import (
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Verb is what an agent is asked to do.
type Verb string

// The verbs and the type of their result.
const (
	Create  Verb = "create"  // snapshot.Snapshot
	List    Verb = "ls"      // []snapshot.Snapshot, newest first
	Inspect Verb = "inspect" // []plan.Inspected
	Remove  Verb = "rm"      // []string, ids
	Restore Verb = "restore" // plan.Restored; plan.Plan for a dry run
	Undo    Verb = "undo"    // plan.Restored; plan.Plan for a dry run
	Status  Verb = "status"  // []plan.Status, newest first
	Recover Verb = "recover" // plan.Recovered
	Export  Verb = "export"  // snapshot.Snapshot; the archive on standard output
	Import  Verb = "import"  // snapshot.Snapshot; the archive on standard input
	Verify  Verb = "verify"  // []plan.Verified
	Drill   Verb = "drill"   // plan.Drilled
	Doctor  Verb = "doctor"  // []plan.Check
	Allow   Verb = "allow"   // []string, all allowed prefixes
	Adopt   Verb = "adopt"   // []plan.Adopted
)

// Request is what one agent does.
type Request struct {
	Verb Verb `json:"verb"`
	// Operation is the id of the operation that the verb begins, chosen by
	// the client so that a restarted agent knows what to look for.
	Operation string `json:"operation,omitempty"`

	Create  *plan.Create         `json:"create,omitempty"`
	Restore *plan.RestoreRequest `json:"restore,omitempty"`
	Undo    *plan.UndoRequest    `json:"undo,omitempty"`
	Adopt   *plan.AdoptRequest   `json:"adopt,omitempty"`
	Drill   *plan.DrillRequest   `json:"drill,omitempty"`

	// References are snapshots (inspect, rm, verify, export: one) or one
	// operation (status, recover).
	References []string `json:"references,omitempty"`
	// Project narrows ls, and latest.
	Project string `json:"project,omitempty"`
	// Paths are prefixes of the engine host to allow bind mounts under.
	Paths []string `json:"paths,omitempty"`
	// Name is for import.
	Name string `json:"name,omitempty"`
	// Gzip asks export for the heritage layout.
	Gzip bool `json:"gzip,omitempty"`

	// DryRun ends after the plan (restore, undo).
	DryRun bool `json:"dry_run,omitempty"`
	// Ask says that the plan is sent and an Answer awaited; else the plan is
	// carried out at once.
	Ask bool `json:"ask,omitempty"`
	// Confirm must equal the resolved snapshot's (restore) or operation's
	// (undo) id, where it is set.
	Confirm string `json:"confirm,omitempty"`
}

// jobs is how many processors the work may use; 0 for all.
func (r *Request) jobs() int {
	switch {
	case r.Create != nil:
		return r.Create.Jobs
	case r.Restore != nil:
		return r.Restore.Jobs
	}
	return 0
}

// Answer is the client's line on standard input: the first one that begins an
// operation, after a plan, and after the result. While a person thinks, the client sends lines with Wait set every few seconds; end of file
// or half a minute's silence is a no.
type Answer struct {
	Wait bool   `json:"wait,omitempty"`
	Yes  bool   `json:"yes,omitempty"`
	Plan string `json:"plan,omitempty"` // digest of the plan that was shown
	// Done says that the client has the result.
	Done bool `json:"done,omitempty"`
}
