package progress

import (
	"fmt"
	"io"
	"sync"

	"github.com/snaprestore/snaprestore/restore/event"
)

// plain writes lines: phases, each tenth of a volume, each change of a
// container. Where a total is not known, a line for each doubling.
type plain struct {
	said
	mu      sync.Mutex
	w       io.Writer
	phase   string
	volumes map[string]*plainVolume
}

type plainVolume struct {
	track
	next int64 // bytes at which the next line is due
}

// firstLine is how much of a volume of unknown size makes the first line.
const firstLine = 64 << 20

func newPlain(w io.Writer) *plain {
	return &plain{w: w, volumes: map[string]*plainVolume{}}
}

func (p *plain) Event(e event.Event) {
	if p.again(e) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Type {
	case event.Started:
		if e.Message != "" {
			p.line("%s", e.Message)
		}
	case event.Phase:
		p.phase = e.Phase
		p.volumes = map[string]*plainVolume{}
		if text := heading(e.Phase); text != "" {
			p.line("%s", text)
		}
	case event.Progress:
		p.progress(e)
	case event.Container:
		p.line("  %s: %s", e.Container, e.Status)
	case event.Skipped:
		p.line("%s", skipped(e))
	case event.Warning:
		p.line("warning: %s", e.Message)
	}
}

func (p *plain) progress(e event.Event) {
	v := p.volumes[e.Volume]
	if v == nil {
		v = &plainVolume{}
		p.volumes[e.Volume] = v
	}
	v.add(e)
	if e.Done {
		p.line("  %s: %s", e.Volume, v.done())
		return
	}
	step := v.last.TotalBytes / 10
	if v.next == 0 {
		v.next = firstLine
		if step > 0 {
			v.next = step
		}
	}
	if e.Bytes < v.next {
		return
	}
	p.line("  %s: %s", e.Volume, v.moving())
	for v.next <= e.Bytes {
		if step > 0 {
			v.next += step
		} else {
			v.next *= 2
		}
	}
}

func (p *plain) line(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *plain) Note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(format, args...)
}

func (p *plain) Pause() {}

func (p *plain) Close(any, error) bool { return false }
