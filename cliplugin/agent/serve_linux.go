package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync/atomic"
	"time"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Exit statuses of an agent. The engine starts one that was again, and leaves
// one that is settled alone.
const (
	exitSettled  = 0
	exitContinue = 1
)

// Times of the server.
const (
	// greetTimeout is how long an agent waits for its client's first word.
	greetTimeout = 30 * time.Second
	// answerTimeout is the silence after a plan that means no.
	answerTimeout = 30 * time.Second
	// enginePatience is how long an agent that was started again waits for
	// an engine that is still starting.
	enginePatience = 10 * time.Minute
	// flushTimeout bounds the wait for the last words' way out.
	flushTimeout = 10 * time.Second
	// thanksTimeout is how long it waits for a client to say that it has the
	// result.
	thanksTimeout = 5 * time.Second
)

// connection is the engine as the agent found it.
type connection struct {
	config restore.Config
	// reachable reports whether the engine answers now.
	reachable func(context.Context) bool
	// leave removes the agent's own container, which ends the agent.
	leave func(context.Context)
	close func()
}

// server is one run of an agent.
type server struct {
	request Request
	traits  traits
	env     func(string) string
	in      *bufio.Reader
	out     io.Writer
	events  *events
	deaf    bool // nothing more may be read from in

	begun atomic.Bool // an operation is about to be on record, or is
	// unbegun tells that none is on record under the request's id.
	unbegun atomic.Bool
	// greeting tells whether a client has spoken, which it does to an agent that
	// the engine starts for it and not anew.
	greeting *greeting

	connect func(ctx context.Context, env func(string) string, g *greeting) (*connection, error)
	open    func(context.Context, restore.Config) (Domain, error)

	greetTimeout, answerTimeout, thanksTimeout time.Duration
}

// serve runs the request and says how it ended.
func (s *server) serve(ctx context.Context) int {
	ended := make(chan int, 1)
	refused := s.decode()
	s.greeting = s.greet()
	// The work does not see the end of ctx: it would fail, and say so, and
	// that is not how the operation ends.
	go func() { ended <- s.answer(context.WithoutCancel(ctx), refused) }()
	select {
	case status := <-ended:
		return status
	case <-ctx.Done():
		if s.mayBeOpen() {
			return exitContinue
		}
		return exitSettled
	}
}

// mayBeOpen tells whether an operation of the request may be open. An agent that
// has neither heard a client nor looked into the journal may have been started
// anew for one: its engine may be killed once more while it waits for it
// (measured).
func (s *server) mayBeOpen() bool {
	return s.begun.Load() || !s.greeting.known() && !s.unbegun.Load()
}

// answer runs the request unless it is refused, sends its result, and gives the
// exit status.
func (s *server) answer(ctx context.Context, refused error) int {
	var conn *connection
	result, err := func() (any, error) {
		if refused != nil {
			return nil, refused
		}
		var err error
		if conn, err = s.connect(ctx, s.env, s.greeting); err != nil {
			return nil, err
		}
		return s.run(ctx, conn.config, s.greeting)
	}()
	if conn != nil {
		defer conn.close()
	}
	if err != nil {
		s.events.send(event.Event{Type: event.Failed, Operation: s.request.Operation, Error: fault.From(err)})
	} else {
		s.events.send(event.Event{Type: event.Result, Operation: s.request.Operation, Result: result})
	}
	// The result of an operation must get out. Where it may have been lost, or
	// the engine is not there to keep it, the next agent says it again.
	flushed := s.events.flush(flushTimeout)
	if flushed && conn != nil && s.traits.thanked() && s.greeting.known() && s.thanked() {
		s.events.send(event.Event{Type: event.Left, Operation: s.request.Operation})
		if s.events.flush(flushTimeout) {
			conn.leave(ctx)
		}
		return exitSettled
	}
	switch {
	case !s.mayBeOpen():
		return exitSettled
	case engineapi.Unreachable(err):
		return exitContinue
	case conn == nil:
		return exitSettled // it would find nothing else the next time
	case !flushed || !conn.reachable(ctx):
		return exitContinue
	}
	return exitSettled
}

// thanked waits for the client to say that it has the result.
func (s *server) thanked() bool {
	for {
		a, err := s.hear(s.thanksTimeout)
		if err != nil {
			return false
		}
		if a.Done {
			return true
		}
	}
}

func (s *server) decode() error {
	if err := json.Unmarshal([]byte(s.env(envRequest)), &s.request); err != nil {
		return fault.New(fault.Failed, "read the agent's request: %w", err).
			WithState("nothing was changed").
			WithHint("the agent is started by docker snaprestore, not by hand")
	}
	if _, known := verbs[s.request.Verb]; !known {
		return fault.New(fault.Failed, "read the agent's request: no verb %q", s.request.Verb).
			WithState("nothing was changed")
	}
	s.traits = s.request.traits()
	return nil
}

// greeting tells whether a client watches. An agent that the engine started
// again hears nothing: neither a word nor the end of its input.
type greeting struct {
	done     chan struct{} // closed when it is known
	attended bool
}

// known gives the answer now: false also where it is not known yet.
func (g *greeting) known() bool {
	select {
	case <-g.done:
		return g.attended
	default:
		return false
	}
}

// wait gives the answer when it is known.
func (g *greeting) wait() bool {
	<-g.done
	return g.attended
}

// greet listens for the client's first line, where the request begins an
// operation; who only reads has a client.
func (s *server) greet() *greeting {
	g := &greeting{done: make(chan struct{})}
	if !s.traits.operation {
		g.attended = true
		close(g.done)
		return g
	}
	go func() {
		defer close(g.done)
		_, err := s.hear(s.greetTimeout)
		g.attended = err == nil
	}()
	return g
}

// Reasons why hear heard nothing.
var (
	errSilent = errors.New("the client is silent")
	errHungUp = errors.New("the client is gone")
)

// hear reads one Answer. After an error nothing more is read.
func (s *server) hear(limit time.Duration) (a Answer, err error) {
	if s.deaf {
		return a, errHungUp
	}
	defer func() { s.deaf = err != nil }()
	type heard struct {
		line []byte
		err  error
	}
	lines := make(chan heard, 1)
	go func() {
		line, err := s.in.ReadBytes('\n')
		lines <- heard{line, err}
	}()
	select {
	case l := <-lines:
		if l.err != nil {
			return a, errHungUp
		}
		if err := json.Unmarshal(l.line, &a); err != nil {
			return a, fmt.Errorf("read answer: %w", err)
		}
		return a, nil
	case <-time.After(limit):
		return a, errSilent
	}
}

// Times of finding the engine.
const (
	connectInterval = 200 * time.Millisecond
	// connectAttempts bound the wait for an engine that has just started this
	// agent for a client, so is up.
	connectAttempts = 10
)

// connectEngine finds the engine through its socket and makes sure that it is
// the client's. An agent that the engine started again may be early: then it
// waits for the engine.
func connectEngine(ctx context.Context, env func(string) string, g *greeting) (*connection, error) {
	socket := env(EnvSocket)
	engine, err := engineapi.Dial(socket)
	if err != nil {
		return nil, err
	}
	mounts := []string{}
	if list := env(envMounts); list != "" {
		if err := json.Unmarshal([]byte(list), &mounts); err != nil {
			return nil, fmt.Errorf("read the agent's mounts: %w", err)
		}
	}
	host, err := engine.Host(ctx)
	start := time.Now()
	for attempt := 1; engineapi.Unreachable(err) && time.Since(start) < enginePatience; attempt++ {
		if g.known() && attempt >= connectAttempts {
			break
		}
		time.Sleep(connectInterval)
		host, err = engine.Host(ctx)
	}
	if engineapi.Unreachable(err) {
		return nil, wrongSocket("no engine answers at %s in the directory that was given: %w", path.Base(socket), err)
	}
	if err != nil {
		return nil, err
	}
	if host.ID != env(envEngine) || host.DataRoot != env(envDataRoot) {
		return nil, wrongSocket("%s is that of another engine (its data is in %s, not in %s)",
			path.Base(socket), host.DataRoot, env(envDataRoot))
	}
	self, err := engine.Container(ctx, env(envSelf))
	if err != nil {
		return nil, fmt.Errorf("find own container: %w", err)
	}
	return &connection{
		config: restore.Config{Engine: engine, Root: env(envRoot), Self: self.ID, Proc: "/proc", Mounts: mounts},
		reachable: func(ctx context.Context) bool {
			ctx, cancel := context.WithTimeout(ctx, flushTimeout)
			defer cancel()
			return engine.CheckVersion(ctx) == nil
		},
		leave: func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, flushTimeout)
			defer cancel()
			// One that could not be removed is, by the next client.
			_ = engine.RemoveContainer(ctx, self.ID)
		},
		close: func() { _ = engine.Close() },
	}, nil
}
