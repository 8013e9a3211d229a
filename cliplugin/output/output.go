// Package output prints what commands answer: tables and templates by the
// docker CLI's own formatter, and the texts of plans, results and errors.
//
// It decides nothing and keeps nothing; everything it prints was given to it,
// the time of day included.
package output

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/go-units"
)

// Options are the choices of --format, -q and --no-trunc.
type Options struct {
	Format  string // "" is the default table
	Quiet   bool   // ids only
	NoTrunc bool
	Now     time.Time // for ages
}

// write prints rows through the docker CLI's formatter: table is the default
// table, header the context whose methods name the fields.
func write[T any](w io.Writer, o Options, table string, header formatter.SubContext, rows []T, row func(T) formatter.SubContext) error {
	format := o.Format
	switch {
	case o.Quiet && (format == "" || format == formatter.TableFormatKey):
		format = formatter.DefaultQuietFormat
	case format == "" || format == formatter.TableFormatKey:
		format = table
	}
	c := formatter.Context{Output: w, Format: formatter.Format(format), Trunc: !o.NoTrunc}
	return c.Write(header, func(add func(formatter.SubContext) error) error {
		for _, r := range rows {
			if err := add(row(r)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Size is a number of bytes for people: 193MB.
func Size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// Files is a number of files with its noun.
func Files(n int64) string { return count(int(n), "file") }

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Duration is short: 340ms, 4.2s, 12s, 3m20s, 1h5m.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return short(d.Round(time.Second))
	}
	return short(d.Round(time.Minute))
}

// short leaves zero seconds and minutes at the end out.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

// ago is the age of t for people.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

// since is ago in the middle of a sentence.
func since(now, t time.Time) string {
	text := ago(now, t)
	if text == "" {
		return "at an unknown time"
	}
	return strings.ToLower(text[:1]) + text[1:]
}

// stamp is t as the docker CLI writes times.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700 MST")
}

// names joins names, cut where a table would get too wide.
func names(list []string, o Options) string {
	const width = 30
	text := strings.Join(list, ", ")
	if o.NoTrunc {
		return text
	}
	return formatter.Ellipsis(text, width)
}

// grid writes rows as aligned columns, indented by two.
func grid(w io.Writer, header []string, rows [][]string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range append([][]string{header}, rows...) {
		line := " "
		for i, cell := range row {
			line += " " + cell
			if i < len(row)-1 {
				line += strings.Repeat(" ", widths[i]-len([]rune(cell))+2)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}
