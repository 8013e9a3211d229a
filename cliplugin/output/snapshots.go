package output

import (
	"io"
	"sort"
	"strings"

	"github.com/docker/cli/cli/command/formatter"

	"github.com/snaprestore/snaprestore/restore/snapshot"
)

const snapshotTable = "table {{.ID}}\t{{.Name}}\t{{.Project}}\t{{.Volumes}}\t{{.Size}}\t{{.Created}}"

// Snapshots prints snapshots.
func Snapshots(w io.Writer, o Options, list []snapshot.Snapshot) error {
	header := &snapshotRow{}
	header.Header = formatter.SubHeaderContext{
		"ID":          "SNAPSHOT ID",
		"Name":        "NAME",
		"Kind":        "KIND",
		"Project":     "PROJECT",
		"Volumes":     "VOLUMES",
		"Size":        "SIZE",
		"Stored":      "STORED",
		"Created":     "CREATED",
		"CreatedAt":   "CREATED AT",
		"Consistency": "CONSISTENCY",
		"Pause":       "PAUSE",
		"Operation":   "OPERATION",
		"Labels":      "LABELS",
	}
	return write(w, o, snapshotTable, header, list, func(s snapshot.Snapshot) formatter.SubContext {
		return &snapshotRow{s: s, o: o}
	})
}

// snapshotRow has a method for each field of a template.
type snapshotRow struct {
	formatter.HeaderContext
	s snapshot.Snapshot
	o Options
}

func (r *snapshotRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *snapshotRow) ID() string          { return r.s.ID }
func (r *snapshotRow) Name() string        { return r.s.Name }
func (r *snapshotRow) Kind() string        { return string(r.s.Kind) }
func (r *snapshotRow) Project() string     { return r.s.Project }
func (r *snapshotRow) Stored() string      { return Size(r.s.Stored()) }
func (r *snapshotRow) Created() string     { return ago(r.o.Now, r.s.Created) }
func (r *snapshotRow) CreatedAt() string   { return stamp(r.s.Created) }
func (r *snapshotRow) Consistency() string { return string(r.s.Consistency) }
func (r *snapshotRow) Operation() string   { return r.s.Operation }

// unknown is the size of what nobody counted.
const unknown = "N/A"

// Size is not known of kept trees, nor where a volume was taken as a whole.
func (r *snapshotRow) Size() string {
	n := r.s.Bytes()
	for _, v := range r.s.Volumes {
		if v.Uncounted {
			return unknown
		}
	}
	if n > 0 || r.s.Kind != snapshot.Safety {
		return Size(n)
	}
	return unknown
}

// Pause is how long the workload stood still, "" where it did not.
func (r *snapshotRow) Pause() string {
	if r.s.Pause == 0 {
		return ""
	}
	return Duration(r.s.Pause)
}

func (r *snapshotRow) Volumes() string {
	var list []string
	for _, v := range r.s.Volumes {
		list = append(list, v.Name)
	}
	return names(list, r.o)
}

func (r *snapshotRow) Labels() string {
	var list []string
	for k, v := range r.s.Labels {
		list = append(list, k+"="+v)
	}
	sort.Strings(list)
	return strings.Join(list, ",")
}

// Label is the value of one label.
func (r *snapshotRow) Label(name string) string { return r.s.Labels[name] }
