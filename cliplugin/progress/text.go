package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/restore/event"
)

// track follows the progress of one volume, from its events alone.
type track struct {
	first event.Event
	last  event.Event
}

func (t *track) add(e event.Event) {
	if t.first.Time.IsZero() {
		t.first = e
	}
	if e.TotalBytes == 0 {
		e.TotalBytes = t.last.TotalBytes
	}
	if e.TotalFiles == 0 {
		e.TotalFiles = t.last.TotalFiles
	}
	t.last = e
}

// elapsed is the time between the first and the last event.
func (t *track) elapsed() time.Duration { return t.last.Time.Sub(t.first.Time) }

// rate is in bytes a second, 0 where not known yet.
func (t *track) rate() float64 {
	s := t.elapsed().Seconds()
	if s <= 0 {
		return 0
	}
	return float64(t.last.Bytes-t.first.Bytes) / s
}

// left is the time left, 0 where not known.
func (t *track) left() time.Duration {
	rate := t.rate()
	if rate <= 0 || t.last.TotalBytes <= t.last.Bytes {
		return 0
	}
	return time.Duration(float64(t.last.TotalBytes-t.last.Bytes) / rate * float64(time.Second))
}

// moving is the text of a volume under way.
func (t *track) moving() string {
	parts := []string{output.Size(t.last.Bytes)}
	if t.last.TotalBytes > 0 {
		parts[0] = fmt.Sprintf("%s / %s", output.Size(t.last.Bytes), output.Size(t.last.TotalBytes))
	}
	parts = append(parts, output.Files(t.last.Files))
	if rate := t.rate(); rate > 0 {
		parts = append(parts, output.Size(int64(rate))+"/s")
	}
	if left := t.left(); left > 0 {
		parts = append(parts, output.Duration(left)+" left")
	}
	return strings.Join(parts, "  ")
}

// done is the text of a finished volume.
func (t *track) done() string {
	if t.last.Whole {
		return "as a whole"
	}
	text := output.Size(t.last.Bytes) + ", " + output.Files(t.last.Files)
	if d := t.elapsed(); d >= time.Second {
		text += " in " + output.Duration(d)
	}
	return text
}

// headings are what the phases of the operations are called.
var headings = map[string]string{
	"verify":     "Verifying the snapshot",
	"lock":       "Locking",
	"pause":      "Pausing",
	"copy ahead": "Copying while the workload runs",
	"copy":       "Copying",
	"unpause":    "Resuming",
	"store":      "Storing what was copied",
	"try":        "Restoring into throwaway volumes",
	"compare":    "Comparing with the snapshot",
	"stage":      "Staging the new data",
	"sync":       "Writing to disk",
	"stop":       "Stopping",
	"fence":      "Fencing the volumes off",
	"commit":     "Deciding",
	"switch":     "Switching to the new data",
	"start":      "Starting",
	"roll back":  "Rolling back",
	"remove":     "Removing what was made",
	"done":       "", // the result says so
}

// heading is what a phase is called, "" where it is not worth a line.
func heading(phase string) string {
	if text, ok := headings[phase]; ok {
		return text
	}
	return phase
}

// skipped is the line for something left out.
func skipped(e event.Event) string {
	what := e.Volume
	if what == "" {
		what = e.Container
	}
	if what == "" {
		return "skipped: " + e.Message
	}
	return fmt.Sprintf("skipped %s: %s", what, e.Message)
}
