// Package event is what a long operation says while it runs: typed values,
// one JSON object a line on the wire between agent and client, drawn by the
// client as bars, plain lines or the same JSON.
package event

import "time"

// Type says which fields of an Event are meaningful.
type Type string

// The types.
const (
	// Started opens an operation: Operation, Verb, Message.
	Started Type = "started"
	// Phase says that the operation enters a phase: Phase.
	Phase Type = "phase"
	// Progress of one volume: Volume, Bytes, Files, TotalBytes, TotalFiles
	// (totals 0 where unknown). Sent at most a few times a second a volume,
	// and once at its end with Done set; with Whole too where the volume was
	// copied as a whole and nobody counted.
	Progress Type = "progress"
	// Container changed: Container, Status (stopping, stopped, starting,
	// running, healthy, unhealthy, paused, unpaused).
	Container Type = "container"
	// Skipped names what is left out and why: Volume or Container, Message.
	Skipped Type = "skipped"
	// Warning: Message.
	Warning Type = "warning"
	// Plan carries a plan to be confirmed: Plan. The agent then waits for an
	// answer on its standard input.
	Plan Type = "plan"
	// Result ends a successful operation: Result holds the verb's own value.
	Result Type = "result"
	// Failed ends a failed one: Error.
	Failed Type = "failed"
	// Left is the agent's last word to a client that has the result of an
	// operation: it removes its container itself.
	Left Type = "left"
)

// Event is one thing that happened.
type Event struct {
	Type       Type      `json:"type"`
	Time       time.Time `json:"time"`
	Operation  string    `json:"operation,omitempty"`
	Verb       string    `json:"verb,omitempty"`
	Phase      string    `json:"phase,omitempty"`
	Volume     string    `json:"volume,omitempty"`
	Container  string    `json:"container,omitempty"`
	Status     string    `json:"status,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`
	TotalBytes int64     `json:"total_bytes,omitempty"`
	Files      int64     `json:"files,omitempty"`
	TotalFiles int64     `json:"total_files,omitempty"`
	Done       bool      `json:"done,omitempty"`
	Whole      bool      `json:"whole,omitempty"`
	Message    string    `json:"message,omitempty"`
	Plan       any       `json:"plan,omitempty"`
	Result     any       `json:"result,omitempty"`
	Error      any       `json:"error,omitempty"`
}

// Sink takes events. It must be safe for use by several goroutines and must
// not block for long; a sink never fails, since a viewer may be gone while
// its operation goes on.
type Sink func(Event)

// Discard is a Sink for work that nobody watches.
func Discard(Event) {}
