package output

import (
	"fmt"
	"io"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Plan prints what a restore or an undo is going to do, for the person who is
// asked about it.
func Plan(w io.Writer, p *plan.Plan, now time.Time) {
	if p.Remake != nil {
		remakePlan(w, p)
		return
	}
	fmt.Fprintln(w, title(p, now))
	fmt.Fprintln(w)
	grid(w, []string{"VOLUME", "GETS", "ENGINE", "SIZE", "FILES"}, planVolumes(p))
	fmt.Fprintln(w)
	if len(p.Containers) == 0 {
		fmt.Fprintln(w, "No container uses these volumes: nothing is stopped.")
	} else {
		grid(w, []string{"CONTAINER", "IMAGE", "WHAT HAPPENS"}, planContainers(p))
	}
	if len(p.Skipped) > 0 {
		fmt.Fprintln(w, "\nLeft as it is:")
		for _, s := range p.Skipped {
			fmt.Fprintf(w, "  %s: %s\n", s.What, s.Reason)
		}
	}
	if len(p.Warnings) > 0 {
		fmt.Fprintln(w)
		for _, text := range p.Warnings {
			fmt.Fprintf(w, "Warning: %s\n", text)
		}
	}
	fmt.Fprintln(w)
	if p.Rollback {
		fmt.Fprintf(w, "Should the containers not be healthy after %s, everything is undone.\n", Duration(p.Timeout))
	}
	fmt.Fprintln(w, "The present data is kept: undo brings it back.")
}

// remakePlan prints how an adoption is taken back.
func remakePlan(w io.Writer, p *plan.Plan) {
	fmt.Fprintf(w, "Undo %s: make volume %s again as it was before\n\n", p.Undoes, p.Volumes[0].Name)
	grid(w, []string{"VOLUME", "DRIVER NOW", "DRIVER THEN"}, [][]string{{p.Volumes[0].Name, p.Remake.From.Driver, p.Remake.To.Driver}})
	fmt.Fprintln(w, "\nIts data goes along as it is now.")
}

// title is the plan in one line.
func title(p *plan.Plan, now time.Time) string {
	source := p.Snapshot.ID
	if p.Snapshot.Name != "" {
		source += " (" + p.Snapshot.Name + ")"
	}
	if p.Kind == journal.Undo {
		text := "Undo " + p.Undoes
		if p.Project != "" {
			text += " of project " + p.Project
		}
		return fmt.Sprintf("%s: bring back the data of snapshot %s, replaced %s", text, source, since(now, p.Snapshot.Created))
	}
	text := "Restore snapshot " + source
	if p.Snapshot.Project != "" && p.Snapshot.Project != p.Project {
		text += " of project " + p.Snapshot.Project
	}
	text += ", made " + since(now, p.Snapshot.Created)
	if p.Project != "" {
		text += ", into project " + p.Project
	}
	return text
}

func planVolumes(p *plan.Plan) (rows [][]string) {
	for _, v := range p.Volumes {
		gets := "the snapshot's data"
		switch {
		case v.Create != nil:
			gets = "created, with the snapshot's data"
		case v.Engine == plan.Rename:
			gets = "the data it had before"
		case v.From != v.Name:
			gets = fmt.Sprintf("the data of %s", v.From)
		}
		size, files := Size(v.Bytes), fmt.Sprint(v.Files)
		if v.Uncounted {
			size, files = unknown, unknown
		}
		rows = append(rows, []string{v.Name, gets, v.Engine, size, files})
	}
	return rows
}

func planContainers(p *plan.Plan) (rows [][]string) {
	for _, c := range p.Containers {
		what := "stopped, then started again"
		switch {
		case !c.Running:
			what = "is not running, stays so"
		case !p.Start:
			what = "stopped, not started again"
		case c.Paused:
			what = "stopped, then started and paused again"
		}
		name := c.Name
		if c.Foreign {
			what += " (not of this project)"
		}
		rows = append(rows, []string{name, c.Image, what})
	}
	return rows
}
