package output

import (
	"fmt"
	"io"

	"github.com/snaprestore/snaprestore/restore/plan"
)

// Drilled prints what a drill restored and started, and what it left.
func Drilled(w io.Writer, d *plan.Drilled) {
	source := d.Snapshot
	if d.Name != "" {
		source += " (" + d.Name + ")"
	}
	var bytes, files int64
	header := []string{"VOLUME", "SIZE", "FILES", "TIME"}
	if d.Kept {
		header = append(header, "KEPT AS")
	}
	var rows [][]string
	for _, v := range d.Volumes {
		bytes, files = bytes+v.Bytes, files+v.Files
		row := []string{v.Volume, Size(v.Bytes), fmt.Sprint(v.Files), Duration(v.Took)}
		if d.Kept {
			row = append(row, v.Trial)
		}
		rows = append(rows, row)
	}
	grid(w, header, rows)
	if len(d.Containers) > 0 {
		header = []string{"CONTAINER", "IMAGE", "STATUS", "TIME"}
		if d.Kept {
			header = append(header, "KEPT AS")
		}
		rows = nil
		for _, c := range d.Containers {
			row := []string{c.Container, c.Image, c.Status, Duration(c.Took)}
			if d.Kept {
				row = append(row, c.Trial)
			}
			rows = append(rows, row)
		}
		fmt.Fprintln(w)
		grid(w, header, rows)
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "snapshot %s was restored and compared: %s, %s in %s, in %s\n", source,
		count(len(d.Volumes), "volume"), Size(bytes), Files(files), Duration(d.Took))
	if len(d.Containers) > 0 {
		fmt.Fprintf(w, "%s got healthy on it\n", count(len(d.Containers), "container"))
	}
	if !d.Kept {
		fmt.Fprintln(w, "all that was made for it is removed again")
		return
	}
	fmt.Fprintln(w, "what was made for it is kept, and removed by")
	if len(d.Containers) > 0 {
		fmt.Fprintf(w, "  docker rm -v%s\n", each(d.Containers, func(c plan.DrilledContainer) string { return c.Trial }))
	}
	if d.Network != "" {
		fmt.Fprintf(w, "  docker network rm %s\n", d.Network)
	}
	fmt.Fprintf(w, "  docker volume rm%s\n", each(d.Volumes, func(v plan.DrilledVolume) string { return v.Trial }))
}

// each gives the names of things as arguments of a command.
func each[T any](all []T, name func(T) string) (args string) {
	for _, one := range all {
		args += " " + name(one)
	}
	return args
}
