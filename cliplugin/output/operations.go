package output

import (
	"fmt"
	"io"

	"github.com/docker/cli/cli/command/formatter"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

const operationTable = "table {{.ID}}\t{{.Kind}}\t{{.Status}}\t{{.Project}}\t{{.Volumes}}\t{{.Created}}\t{{.Downtime}}"

// Operations prints what the journal knows.
func Operations(w io.Writer, o Options, list []plan.Status) error {
	header := &operationRow{}
	header.Header = formatter.SubHeaderContext{
		"ID":         "OPERATION",
		"Kind":       "KIND",
		"Status":     "STATUS",
		"State":      "STATE",
		"Result":     "RESULT",
		"Error":      "ERROR",
		"Project":    "PROJECT",
		"Snapshot":   "SNAPSHOT",
		"Safety":     "SAFETY SNAPSHOT",
		"Undoes":     "UNDOES",
		"Volumes":    "VOLUMES",
		"Containers": "CONTAINERS",
		"Created":    "STARTED",
		"CreatedAt":  "STARTED AT",
		"Downtime":   "DOWNTIME",
	}
	return write(w, o, operationTable, header, list, func(s plan.Status) formatter.SubContext {
		return &operationRow{s: s, o: o}
	})
}

// operationRow has a method for each field of a template.
type operationRow struct {
	formatter.HeaderContext
	s plan.Status
	o Options
}

func (r *operationRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *operationRow) ID() string        { return r.s.ID }
func (r *operationRow) Kind() string      { return string(r.s.Kind) }
func (r *operationRow) State() string     { return string(r.s.State) }
func (r *operationRow) Project() string   { return r.s.Project }
func (r *operationRow) Snapshot() string  { return r.s.Snapshot }
func (r *operationRow) Safety() string    { return r.s.Safety }
func (r *operationRow) Undoes() string    { return r.s.Undoes }
func (r *operationRow) Created() string   { return ago(r.o.Now, r.s.Created) }
func (r *operationRow) CreatedAt() string { return stamp(r.s.Created) }

// Status says at a glance whether there is anything to do.
func (r *operationRow) Status() string {
	switch {
	case r.s.State == journal.Closed && r.s.Outcome != nil && r.s.Outcome.Recovered:
		return r.s.Outcome.Result + " (recovered)"
	case r.s.State == journal.Closed && r.s.Outcome != nil:
		return r.s.Outcome.Result
	case r.s.State == journal.Closed:
		return "done"
	case r.s.Alive:
		return string(r.s.State)
	}
	return fmt.Sprintf("interrupted (%s)", r.s.State)
}

// Result is how the operation ended, "" while it is open.
func (r *operationRow) Result() string {
	if r.s.Outcome == nil {
		return ""
	}
	return r.s.Outcome.Result
}

func (r *operationRow) Error() string {
	if r.s.Outcome == nil {
		return ""
	}
	return r.s.Outcome.Error
}

func (r *operationRow) Volumes() string {
	var list []string
	for _, v := range r.s.Volumes {
		list = append(list, v.Name)
	}
	return names(list, r.o)
}

func (r *operationRow) Containers() string {
	var list []string
	for _, c := range r.s.Containers {
		list = append(list, c.Name)
	}
	return names(list, r.o)
}

// Downtime is "" while the operation is open or where nothing ran.
func (r *operationRow) Downtime() string {
	if r.s.Outcome == nil || r.s.Outcome.Downtime == 0 {
		return ""
	}
	return Duration(r.s.Outcome.Downtime)
}

const recoveredTable = "table {{.ID}}\t{{.Kind}}\t{{.Was}}\t{{.Result}}"

// Recovered prints what recover did.
func Recovered(w io.Writer, o Options, list []plan.RecoveredOperation) error {
	header := &recoveredRow{}
	header.Header = formatter.SubHeaderContext{
		"ID":     "OPERATION",
		"Kind":   "KIND",
		"Was":    "WAS",
		"Result": "RESULT",
		"Error":  "ERROR",
	}
	return write(w, o, recoveredTable, header, list, func(r plan.RecoveredOperation) formatter.SubContext {
		return &recoveredRow{r: r}
	})
}

// recoveredRow has a method for each field of a template.
type recoveredRow struct {
	formatter.HeaderContext
	r plan.RecoveredOperation
}

func (r *recoveredRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *recoveredRow) ID() string   { return r.r.Operation }
func (r *recoveredRow) Kind() string { return string(r.r.Kind) }
func (r *recoveredRow) Was() string  { return string(r.r.Was) }

// Result is how the operation ended, "open" where it did not.
func (r *recoveredRow) Result() string {
	if r.r.Result == "" {
		return "open"
	}
	return r.r.Result
}

func (r *recoveredRow) Error() string { return r.r.Error }
