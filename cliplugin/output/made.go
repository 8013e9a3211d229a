package output

import (
	"fmt"
	"strings"

	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Made is one line about a new snapshot and what it cost the workload.
func Made(s *snapshot.Snapshot) string {
	text := fmt.Sprintf("snapshot of %s, %s, %s", count(len(s.Volumes), "volume"), contents(s), Size(s.Stored())+" stored")
	switch {
	case s.Kind == snapshot.Imported:
	case s.Pause > 0 && s.Consistency == snapshot.Stop:
		text += "; the workload was stopped for " + Duration(s.Pause)
	case s.Pause > 0:
		text += "; the workload was paused for " + Duration(s.Pause)
	case s.Consistency == snapshot.Live:
		text += "; taken live, while the workload may have written"
	default:
		text += "; nothing was running"
	}
	if s.Pause > 0 && s.Ahead > 0 {
		text += ", after it was copied for " + Duration(s.Ahead) + " while it ran"
	}
	return text
}

// Engines is a line for each copy engine that stored volumes of a snapshot, and
// why it was that one, in a clause: the snapshot has it at length.
func Engines(s *snapshot.Snapshot) (lines []string) {
	type choice struct{ engine, brief string }
	var order []choice
	volumes := map[choice][]string{}
	for _, v := range s.Volumes {
		c := choice{v.Engine, v.Brief}
		if volumes[c] == nil {
			order = append(order, c)
		}
		volumes[c] = append(volumes[c], v.Name)
	}
	for _, c := range order {
		line := "engine " + c.engine
		if len(order) > 1 {
			line += " for " + strings.Join(volumes[c], ", ")
		}
		if c.brief != "" {
			line += ": " + c.brief
		}
		lines = append(lines, line)
	}
	return lines
}

// Exported is one line about a snapshot that was written to target.
func Exported(s *snapshot.Snapshot, target string) string {
	return fmt.Sprintf("snapshot %s written to %s: %s, %s", s.ID, target, count(len(s.Volumes), "volume"), contents(s))
}

// contents is the size of a snapshot's contents.
func contents(s *snapshot.Snapshot) string {
	var files int64
	uncounted := 0
	for _, v := range s.Volumes {
		files += v.Files
		if v.Uncounted {
			uncounted++
		}
	}
	text := Size(s.Bytes()) + " in " + Files(files)
	switch uncounted {
	case 0:
		return text
	case len(s.Volumes):
		return "not counted"
	}
	return text + " and " + count(uncounted, "volume") + " not counted"
}
