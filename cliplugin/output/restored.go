package output

import (
	"fmt"
	"io"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Restored prints how a restore or an undo ended, and how to take it back.
// Stopped says that the containers were left stopped on request.
func Restored(w io.Writer, r *plan.Restored, stopped bool) {
	if r.Kind == journal.Adopt {
		fmt.Fprintf(w, "made again as before, with its data: %s\n", strings.Join(r.Volumes, ", "))
		fmt.Fprintln(w, "before the next docker compose up, the compose file must name its driver of before")
		fmt.Fprintf(w, "to take it back: docker snaprestore undo %s\n", r.Operation)
		return
	}
	what := "restored"
	if r.Kind == journal.Undo {
		what = "brought back"
	}
	fmt.Fprintf(w, "%s %s: %s\n", count(len(r.Volumes), "volume"), what, strings.Join(r.Volumes, ", "))
	if len(r.Started) > 0 {
		fmt.Fprintf(w, "%s running again: %s\n", count(len(r.Started), "container"), strings.Join(r.Started, ", "))
	}
	switch {
	case stopped:
		fmt.Fprintln(w, "downtime: lasting, the containers stay stopped as asked")
	case r.Downtime > 0:
		fmt.Fprintf(w, "downtime: %s\n", Duration(r.Downtime))
	default:
		fmt.Fprintln(w, "downtime: none, nothing was running")
	}
	if r.Safety != "" {
		fmt.Fprintf(w, "the replaced data is kept as snapshot %s\n", r.Safety)
	}
	fmt.Fprintf(w, "to take it back: docker snaprestore undo %s\n", r.Operation)
}
