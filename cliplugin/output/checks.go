package output

import (
	"io"

	"github.com/docker/cli/cli/command/formatter"

	"github.com/snaprestore/snaprestore/restore/plan"
)

const checkTable = "table {{.Name}}\t{{.Status}}\t{{.Detail}}"

// Checks prints what doctor found.
func Checks(w io.Writer, o Options, list []plan.Check) error {
	header := &checkRow{}
	header.Header = formatter.SubHeaderContext{
		"Name":   "CHECK",
		"Status": "STATUS",
		"Detail": "DETAIL",
		"Hint":   "HINT",
	}
	return write(w, o, checkTable, header, list, func(c plan.Check) formatter.SubContext {
		return &checkRow{c: c}
	})
}

// checkRow has a method for each field of a template.
type checkRow struct {
	formatter.HeaderContext
	c plan.Check
}

func (r *checkRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *checkRow) Name() string   { return r.c.Name }
func (r *checkRow) Status() string { return r.c.Status }
func (r *checkRow) Detail() string { return r.c.Detail }
func (r *checkRow) Hint() string   { return r.c.Hint }

const verifiedTable = "table {{.ID}}\t{{.Name}}\t{{.Result}}\t{{.Size}}"

// Verified prints what verify found.
func Verified(w io.Writer, o Options, list []plan.Verified) error {
	header := &verifiedRow{}
	header.Header = formatter.SubHeaderContext{
		"ID":     "SNAPSHOT ID",
		"Name":   "NAME",
		"Result": "RESULT",
		"Size":   "CHECKED",
		"Error":  "ERROR",
	}
	return write(w, o, verifiedTable, header, list, func(v plan.Verified) formatter.SubContext {
		return &verifiedRow{v: v}
	})
}

// verifiedRow has a method for each field of a template.
type verifiedRow struct {
	formatter.HeaderContext
	v plan.Verified
}

func (r *verifiedRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *verifiedRow) ID() string     { return r.v.Snapshot }
func (r *verifiedRow) Name() string   { return r.v.Name }
func (r *verifiedRow) Result() string { return r.v.Result }
func (r *verifiedRow) Size() string   { return Size(r.v.Bytes) }
func (r *verifiedRow) Error() string  { return r.v.Error }
