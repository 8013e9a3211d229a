package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// dialogue is one run of a server with a client that the test plays.
type dialogue struct {
	t        *testing.T
	s        *server
	in       *io.PipeWriter
	stdout   *syncBuffer
	messages chan message
	status   chan int
	removed  atomic.Bool // the agent has removed its container
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// limit ends a test that hangs; nothing takes nearly as long.
const limit = time.Minute

func talk(ctx context.Context, t *testing.T, d *domain, req Request, change func(*server)) *dialogue {
	t.Helper()
	request, err := json.Marshal(req)
	assert.NilError(t, err)
	in, inW := io.Pipe()
	t.Cleanup(func() { inW.Close() })
	errR, errW := io.Pipe()
	t.Cleanup(func() { errR.Close() })
	g := &dialogue{t: t, in: inW, stdout: &syncBuffer{}, messages: make(chan message, 100), status: make(chan int, 1)}
	go io.Copy(&lines{handle: func(m message) { g.messages <- m }}, errR)
	g.s = &server{
		env: func(name string) string {
			if name == envRequest {
				return string(request)
			}
			return ""
		},
		in: bufio.NewReader(in), out: g.stdout, events: newEvents(errW),
		connect: func(context.Context, func(string) string, *greeting) (*connection, error) {
			return &connection{
				reachable: func(context.Context) bool { return true },
				leave:     func(context.Context) { g.removed.Store(true) },
				close:     func() {},
			}, nil
		},
		open:         func(context.Context, restore.Config) (Domain, error) { return d, nil },
		greetTimeout: limit, answerTimeout: limit,
	}
	if change != nil {
		change(g.s)
	}
	go func() { g.status <- g.s.serve(ctx) }()
	return g
}

func (g *dialogue) say(a Answer) {
	g.t.Helper()
	data, err := json.Marshal(a)
	assert.NilError(g.t, err)
	_, err = g.in.Write(append(data, '\n'))
	assert.NilError(g.t, err)
}

func (g *dialogue) next() message {
	g.t.Helper()
	select {
	case m := <-g.messages:
		return m
	case <-time.After(limit):
		g.t.Fatal("no message came")
		panic("unreachable")
	}
}

func (g *dialogue) exit() int {
	g.t.Helper()
	select {
	case status := <-g.status:
		return status
	case <-time.After(limit):
		g.t.Fatal("the server did not end")
		panic("unreachable")
	}
}

// failed expects a fault of this kind as the next message.
func (g *dialogue) failed(kind fault.Kind) *fault.Error {
	g.t.Helper()
	m := g.next()
	assert.Assert(g.t, m.Error != nil, "%+v", m)
	assert.Equal(g.t, m.Error.Kind, kind, "%v", m.Error)
	return m.Error
}
