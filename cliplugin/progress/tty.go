package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/snaprestore/snaprestore/restore/event"
)

// tty draws live lines: bars for volumes, states for containers. A group of
// live lines is alive from the first that is needed to the end of its phase.
type tty struct {
	said
	mu      sync.Mutex
	w       io.Writer
	options []mpb.ContainerOption
	group   *mpb.Progress // nil while nothing is live
	lines   map[string]*line
	order   []*line
}

// line is one live line.
type line struct {
	mu    sync.Mutex
	bar   *mpb.Bar
	track track    // volume
	path  []string // container: the states it went through
	done  bool
}

func newTTY(w io.Writer, options ...mpb.ContainerOption) *tty {
	return &tty{w: w, options: options}
}

func (t *tty) Event(e event.Event) {
	if t.again(e) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e.Type {
	case event.Started:
		if e.Message != "" {
			t.print(e.Message)
		}
	case event.Phase:
		t.end()
		if text := heading(e.Phase); text != "" {
			t.print(text)
		}
	case event.Progress:
		t.volume(e)
	case event.Container:
		t.container(e)
	case event.Skipped:
		t.print(skipped(e))
	case event.Warning:
		t.print("warning: " + e.Message)
	}
}

// print writes a line that stays, above the live ones.
func (t *tty) print(text string) {
	if t.group != nil {
		if _, err := io.WriteString(t.group, text+"\n"); err == nil {
			return
		}
	}
	fmt.Fprintln(t.w, text)
}

func (t *tty) volume(e event.Event) {
	l := t.lines["volume "+e.Volume]
	if l == nil {
		l = &line{}
		l.track.add(e)
		filler := mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("━").Padding("─").Build()
		if e.TotalBytes == 0 {
			filler = mpb.SpinnerStyle().PositionLeft().Build()
		}
		t.start("volume "+e.Volume, l, e.Volume, filler)
	}
	l.mu.Lock()
	l.track.add(e)
	last := l.track.last
	l.done = l.done || e.Done
	l.mu.Unlock()
	if last.TotalBytes > 0 {
		l.bar.SetTotal(last.TotalBytes, false)
	}
	l.bar.SetCurrent(last.Bytes)
	if e.Done {
		l.bar.SetTotal(-1, true)
	}
}

func (t *tty) container(e event.Event) {
	l := t.lines["container "+e.Container]
	if l == nil {
		l = &line{}
		t.start("container "+e.Container, l, e.Container, nil)
	}
	l.mu.Lock()
	l.path = append(l.path, e.Status)
	l.mu.Unlock()
}

// start puts a new live line at the bottom.
func (t *tty) start(key string, l *line, name string, filler mpb.BarFiller) {
	if t.group == nil {
		t.group = mpb.New(append([]mpb.ContainerOption{mpb.WithOutput(t.w), mpb.PopCompletedMode()}, t.options...)...)
		t.lines = map[string]*line{}
	}
	t.order = append(t.order, l)
	l.bar = t.group.MustAdd(0, filler,
		// A finished volume moves up; containers keep their order.
		mpb.BarOptional(mpb.BarNoPop(), filler == nil),
		mpb.BarPriority(len(t.order)),
		mpb.BarWidth(24),
		mpb.BarFillerClearOnComplete(),
		mpb.BarFillerClearOnAbort(),
		mpb.PrependDecorators(
			decor.Any(func(decor.Statistics) string { return "  " + name }, decor.WCSyncSpaceR),
		),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string { return l.text() }, decor.WC{C: decor.DindentRight}),
		),
	)
	t.lines[key] = l
}

// text is what stands to the right of a line's name and bar.
func (l *line) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.path) > 0:
		return strings.Join(l.path, " → ")
	case l.done:
		return l.track.done()
	}
	return " " + l.track.moving()
}

// end ends the live lines; they stay as they are.
func (t *tty) end() {
	if t.group == nil {
		return
	}
	for _, l := range t.order {
		if l.path != nil {
			l.bar.SetTotal(-1, true)
		} else {
			l.bar.Abort(false) // no effect on a completed one
		}
	}
	t.group.Wait()
	t.group, t.lines, t.order = nil, nil, nil
}

func (t *tty) Note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.print(fmt.Sprintf(format, args...))
}

func (t *tty) Pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end()
}

func (t *tty) Close(any, error) bool {
	t.Pause()
	return false
}
