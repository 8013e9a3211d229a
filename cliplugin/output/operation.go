package output

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/restore/plan"
)

// Operation prints all that is known of one operation.
func Operation(w io.Writer, s *plan.Status, now time.Time) {
	row := &operationRow{s: *s, o: Options{NoTrunc: true, Now: now}}
	for _, line := range [][2]string{
		{"operation", row.ID()},
		{"kind", row.Kind()},
		{"status", row.Status()},
		{"error", row.Error()},
		{"project", row.Project()},
		{"snapshot", row.Snapshot()},
		{"undoes", row.Undoes()},
		{"safety", row.Safety()},
		{"volumes", row.Volumes()},
		{"containers", row.Containers()},
		{"started", strings.TrimSpace(row.Created() + ", " + row.CreatedAt())},
		{"updated", strings.TrimSpace(ago(now, s.Updated) + ", " + stamp(s.Updated))},
		{"downtime", row.Downtime()},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "%-11s %s\n", line[0]+":", line[1])
		}
	}
}
