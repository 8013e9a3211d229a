package agent

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// progressBacklog is how many events may wait before progress is dropped.
const progressBacklog = 256

// events writes events to a client that may be slow, or gone: nobody who sends
// waits for it. While the engine is down nothing reads the agent's output, and
// the pipe fills after 64 KiB.
type events struct {
	w io.Writer

	mu      sync.Mutex
	changed *sync.Cond
	last    time.Time
	queue   [][]byte
	writing bool
	broken  bool // the client is gone: all is dropped
}

func newEvents(w io.Writer) *events {
	e := &events{w: w}
	e.changed = sync.NewCond(&e.mu)
	go e.write()
	return e
}

// send is an event.Sink. It sets the time, which grows with each event so that
// a client can tell what it has seen.
func (e *events) send(ev event.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken || (ev.Type == event.Progress && !ev.Done && len(e.queue) >= progressBacklog) {
		return
	}
	ev.Time = time.Now().UTC()
	if !ev.Time.After(e.last) {
		ev.Time = e.last.Add(time.Nanosecond)
	}
	e.last = ev.Time
	data, err := json.Marshal(ev)
	if err != nil {
		// Only a result that JSON cannot express comes here.
		data, _ = json.Marshal(event.Event{Type: event.Failed, Time: ev.Time,
			Error: fault.New(fault.Failed, "encode event %s: %w", ev.Type, err)})
	}
	e.queue = append(e.queue, append(data, '\n'))
	e.changed.Broadcast()
}

func (e *events) write() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		for len(e.queue) == 0 {
			e.changed.Wait()
		}
		data := e.queue[0]
		e.queue, e.writing = e.queue[1:], true
		e.mu.Unlock()
		_, err := e.w.Write(data)
		e.mu.Lock()
		e.writing = false
		if err != nil {
			e.broken, e.queue = true, nil
		}
		e.changed.Broadcast()
	}
}

// flush waits until everything that was sent is written, at most for limit,
// and reports whether it was.
func (e *events) flush(limit time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	expired := false
	defer time.AfterFunc(limit, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		expired = true
		e.changed.Broadcast()
	}).Stop()
	for (len(e.queue) > 0 || e.writing) && !expired {
		e.changed.Wait()
	}
	return !expired && !e.broken
}
