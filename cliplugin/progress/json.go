package progress

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// ndjson passes the events on, one JSON object a line.
type ndjson struct {
	said
	mu  sync.Mutex
	enc *json.Encoder
	now func() time.Time
}

func newJSON(w io.Writer, now func() time.Time) *ndjson {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &ndjson{enc: enc, now: now}
}

func (j *ndjson) Event(e event.Event) {
	if j.again(e) {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// A reader that went away is no reason to stop.
	_ = j.enc.Encode(e)
}

// Note is for people, and what it says is in the result.
func (*ndjson) Note(string, ...any) {}

func (*ndjson) Pause() {}

func (j *ndjson) Close(result any, err error) bool {
	if err != nil {
		j.Event(event.Event{Type: event.Failed, Time: j.now().UTC(), Error: fault.From(err)})
		return true
	}
	j.Event(event.Event{Type: event.Result, Time: j.now().UTC(), Result: result})
	return false
}
