package journal

import "fmt"

// State is how far an operation has come. Each is the name of a record.
type State string

// The states of an operation.
const (
	// Working is everything of an operation that swaps nothing: create, rm,
	// import. Containers that were paused or stopped are on record.
	Working State = "working"
	// Drilling: the volumes, containers and network of a drill, all on record,
	// may exist and are to go.
	Drilling State = "drilling"
	// Staging: new trees are being written beside the old ones.
	Staging State = "staging"
	// Stopping: all stages are complete and synced; containers are on record
	// and are being stopped.
	Stopping State = "stopping"
	// Prepared: the fences exist, COMMITTED and ABORTING are pre-written, and
	// live directories are being exchanged for their fences.
	Prepared State = "prepared"
	// Committed: decided for the new data.
	Committed State = "committed"
	// Aborting: decided for the old data.
	Aborting State = "aborting"
	// Starting: every volume has its final tree; containers are being started.
	Starting State = "starting"
	// Closed: nothing is left to do.
	Closed State = "closed"
)

// transitions is the state machine: what may follow what. An operation that
// swaps nothing goes Working, Starting, Closed; a drill Drilling, Closed.
var transitions = []struct {
	from State
	to   []State
}{
	{"", []State{Working, Drilling, Staging}},
	{Working, []State{Working, Starting, Closed}},
	{Drilling, []State{Closed}},
	{Staging, []State{Staging, Stopping, Aborting}},
	{Stopping, []State{Stopping, Prepared, Aborting}},
	{Prepared, []State{Prepared, Committed, Aborting}},
	{Committed, []State{Committed, Starting}},
	{Aborting, []State{Aborting, Starting}},
	{Starting, []State{Starting, Closed}},
	{Closed, nil},
}

// States lists all states in order.
func States() (all []State) {
	for _, row := range transitions[1:] {
		all = append(all, row.from)
	}
	return all
}

// check refuses a transition that the table does not have.
func check(from, to State) error {
	for _, row := range transitions {
		if row.from != from {
			continue
		}
		for _, s := range row.to {
			if s == to {
				return nil
			}
		}
	}
	return fmt.Errorf("an operation that is %s cannot become %s", or(from, "new"), to)
}

func or(s State, other string) string {
	if s == "" {
		return other
	}
	return string(s)
}
