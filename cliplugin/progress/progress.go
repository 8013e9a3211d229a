// Package progress shows a person or a program what a long operation is doing.
//
// A Display takes the events of the operation and draws them in one of four
// forms. It keeps no state that matters: a client may die at any time, and
// the operation goes on without being watched.
//
// Rules for the terminal:
//
//   - Progress, questions, notes and errors go to standard error. Standard
//     output has results only: ids, tables, a summary, an archive.
//   - Nothing is drawn until there is something to say, and what was said
//     stays: finished lines are never erased, only the live ones below them
//     are redrawn.
//   - One live line a volume and one a container. They end when their phase
//     ends, done or not.
//   - A question is asked on a quiet terminal: live lines end first.
//   - No colour carries meaning. Without a terminal nothing moves: auto is
//     plain there.
//   - In json every line on standard error is one JSON object, the last one
//     has the result or the error.
//   - Rates and times left come from the times in the events, so a slow
//     terminal does not distort them.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/vbauerster/mpb/v8"

	"github.com/snaprestore/snaprestore/restore/event"
)

// Mode is the form of the progress output.
type Mode string

// The modes.
const (
	Auto  Mode = "auto"  // tty on a terminal, else plain
	TTY   Mode = "tty"   // live bars
	Plain Mode = "plain" // lines, for logs
	JSON  Mode = "json"  // one event a line
	Quiet Mode = "quiet" // nothing
)

var modes = []Mode{Auto, TTY, Plain, JSON, Quiet}

// Flag adds --progress.
func Flag(cmd *cobra.Command, m *Mode) {
	*m = Auto
	cmd.Flags().Var((*value)(m), "progress", "Form of the progress output ("+list("|")+")")
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(strings.Split(list(" "), " "), cobra.ShellCompDirectiveNoFileComp))
}

type value Mode

var _ pflag.Value = (*value)(nil)

func (v *value) String() string { return string(*v) }
func (v *value) Type() string   { return "string" }
func (v *value) Set(s string) error {
	for _, m := range modes {
		if s == string(m) {
			*v = value(m)
			return nil
		}
	}
	return fmt.Errorf("must be one of %s", list(", "))
}

func list(sep string) string {
	var names []string
	for _, m := range modes {
		names = append(names, string(m))
	}
	return strings.Join(names, sep)
}

// Display shows one operation. Its methods may be called by several
// goroutines.
type Display interface {
	// Event shows one event.
	Event(event.Event)
	// Note says something to a person, one line.
	Note(format string, args ...any)
	// Pause leaves the terminal quiet, for a question. The next event goes on.
	Pause()
	// Close ends the display with the operation's result or its error. It
	// reports whether the error was shown.
	Close(result any, err error) (shown bool)
}

// New makes a display on w, which is standard error; terminal says what it is.
func New(m Mode, w io.Writer, terminal bool, now func() time.Time) Display {
	if m == Auto || m == "" {
		m = Plain
		if terminal {
			m = TTY
		}
	}
	switch m {
	case TTY:
		// Drawing goes on where the terminal is not seen to be one.
		return newTTY(screen(w), mpb.WithAutoRefresh())
	case JSON:
		return newJSON(w, now)
	case Quiet:
		return quiet{}
	}
	return newPlain(w)
}

// screen finds the file below a stream of the docker CLI. The bars' library
// learns the width of a terminal, and its changes, from a file only.
func screen(w io.Writer) io.Writer {
	if s, ok := w.(interface{ FD() uintptr }); ok && s.FD() == os.Stderr.Fd() {
		return os.Stderr
	}
	return w
}

type quiet struct{}

func (quiet) Event(event.Event)     {}
func (quiet) Note(string, ...any)   {}
func (quiet) Pause()                {}
func (quiet) Close(any, error) bool { return false }

// said remembers what is said once only: a warning that the plan showed comes
// again from the operation that carries the plan out.
type said struct {
	once sync.Mutex
	seen map[string]bool
}

func (s *said) again(e event.Event) bool {
	if e.Type != event.Warning && e.Type != event.Skipped {
		return false
	}
	s.once.Lock()
	defer s.once.Unlock()
	key := strings.Join([]string{string(e.Type), e.Volume, e.Container, e.Message}, "\x00")
	if s.seen[key] {
		return true
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[key] = true
	return false
}
