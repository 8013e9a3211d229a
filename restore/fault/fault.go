// Package fault is the one vocabulary of failures: what went wrong, which
// state the user's data is in, what to do, and the exit status.
//
// A fault crosses the border between agent and client as JSON, so that the
// client says and exits exactly what the agent found.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classes a failure by what the user can do about it.
type Kind string

// The kinds, each with its exit status in the table below.
const (
	Failed      Kind = "failed"      // an error; the state says what became of the data
	Declined    Kind = "declined"    // the user said no, or a confirmation was needed
	NotFound    Kind = "not-found"   // no such snapshot, volume, operation, workload
	Locked      Kind = "locked"      // another operation holds the workload or a volume
	Interrupted Kind = "interrupted" // an earlier operation died: run recover
	RolledBack  Kind = "rolled-back" // failed; the old data is in place and its workload runs
	NotStarted  Kind = "not-started" // data consistent, containers not (all) started
	Corrupt     Kind = "corrupt"     // a snapshot, archive or journal record is damaged
	InDoubt     Kind = "in-doubt"    // undecided: recover decides, it may become new or old
)

// exits is the only place where exit statuses are given.
var exits = []struct {
	Kind    Kind
	Status  int
	Meaning string
}{
	{Failed, 1, "error; nothing was changed unless the message says so"},
	{Declined, 2, "declined, or a confirmation was needed"},
	{NotFound, 10, "no such snapshot, volume, operation or project"},
	{Locked, 11, "another operation holds the workload or a volume"},
	{Interrupted, 12, "an earlier operation was interrupted: run recover"},
	{RolledBack, 13, "failed and rolled back, the old data is running"},
	{NotStarted, 14, "the data is consistent, but containers were not started"},
	{Corrupt, 15, "the snapshot, archive or journal is damaged"},
	{InDoubt, 75, "in doubt: run recover, which decides"},
}

// Error is a failure as the user sees it.
type Error struct {
	Kind Kind `json:"kind"`
	// Message says what failed on what, "verb object: cause", lower case.
	Message string `json:"message"`
	// State says which state the user's data is in, e.g. "nothing was changed".
	State string `json:"state,omitempty"`
	// Hint is what to do next, with a command.
	Hint string `json:"hint,omitempty"`
	// Mounts are directories of the engine host that the agent has to see to
	// go on: its client starts another one with them, and nobody else sees
	// this fault.
	Mounts []string `json:"mounts,omitempty"`

	cause error
}

// New makes a fault. Format may wrap a cause with %w.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), cause: errors.Unwrap(err)}
}

// WithState returns e saying which state the user's data is in.
func (e *Error) WithState(format string, args ...any) *Error {
	e.State = fmt.Sprintf(format, args...)
	return e
}

// WithHint returns e saying what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error gives message and state on one line; the hint is printed apart.
func (e *Error) Error() string {
	if e.State == "" {
		return e.Message
	}
	return e.Message + "; " + e.State
}

// Unwrap gives the cause, where the fault was made in this process.
func (e *Error) Unwrap() error { return e.cause }

// From finds the fault in err, or makes a plain one of it. Nil stays nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if outer := err.Error(); outer != e.Error() {
			// What was wrapped round the fault belongs to its message.
			wrapped := &Error{Kind: e.Kind, Message: outer, Hint: e.Hint, Mounts: e.Mounts, cause: err}
			if message, ok := strings.CutSuffix(outer, "; "+e.State); ok && e.State != "" {
				wrapped.Message, wrapped.State = message, e.State
			}
			return wrapped
		}
		return e
	}
	return &Error{Kind: Failed, Message: err.Error(), cause: err}
}

// Is reports whether err is, or wraps, a fault of this kind.
func Is(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// ExitStatus is the process's exit status for err; 0 for nil.
func ExitStatus(err error) int {
	e := From(err)
	if e == nil {
		return 0
	}
	for _, row := range exits {
		if row.Kind == e.Kind {
			return row.Status
		}
	}
	return 1
}

// Table gives the rows of the exit table for help texts: status and meaning.
func Table() (rows [][2]string) {
	rows = append(rows, [2]string{"0", "done"})
	for _, row := range exits {
		rows = append(rows, [2]string{fmt.Sprint(row.Status), row.Meaning})
	}
	return rows
}
