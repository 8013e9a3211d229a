package agent

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// message is an Event as the client reads it: what has a type of its own for
// each verb is left as it came.
type message struct {
	event.Event
	Plan   json.RawMessage `json:"plan"`
	Result json.RawMessage `json:"result"`
	Error  *fault.Error    `json:"error"`
}

// noteLimit bounds what is kept of lines that are no events, in bytes.
const noteLimit = 4 << 10

// lines splits an agent's standard error into messages. Lines that are none,
// such as the last words of a crashing process, are kept as a note.
type lines struct {
	handle func(message)
	part   []byte
	note   []byte
}

func (l *lines) Write(p []byte) (int, error) {
	whole := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.part = append(l.part, p...)
			return whole, nil
		}
		l.line(append(l.part, p[:i]...))
		l.part, p = l.part[:0], p[i+1:]
	}
}

func (l *lines) line(text []byte) {
	var m message
	if json.Unmarshal(text, &m) == nil && m.Type != "" {
		l.handle(m)
		return
	}
	if len(l.note) < noteLimit {
		l.note = append(append(l.note, text...), '\n')
	}
}

// said gives the first line of the note, for an error message.
func (l *lines) said() string {
	note := strings.TrimSpace(string(l.note))
	if note == "" {
		note = strings.TrimSpace(string(l.part))
	}
	first, _, _ := strings.Cut(note, "\n")
	return first
}
