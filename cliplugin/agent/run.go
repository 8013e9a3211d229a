package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// run is one agent as its client sees it.
type run struct {
	client  *Client
	request Request
	traits  traits
	mounts  []string // of the host, beside its data directory
	h       Handlers
	image   *Image
	id      string // of the container
	stream  engineapi.Stream

	// The rest belongs to whoever reads the agent's output: first the
	// goroutine that copies the attached stream, after its end watch.
	lines  *lines
	out    *archiveSink
	last   time.Time // of the last event that was shown
	result json.RawMessage
	fault  *fault.Error
	plans  chan json.RawMessage
	told   chan struct{} // closed when the agent has said how it ended and need not be waited for
	left   chan struct{} // closed when it removes its container
}

func newRun(c *Client, req Request, h Handlers) *run {
	r := &run{client: c, request: req, traits: req.traits(), h: h, plans: make(chan json.RawMessage, 1), told: make(chan struct{}), left: make(chan struct{})}
	r.lines = &lines{handle: r.receive}
	r.out = &archiveSink{w: h.Out}
	return r
}

// receive takes one message. After an engine restart the log repeats what was
// seen already: the agent's times never go back, so they tell.
func (r *run) receive(m message) {
	was := r.ended()
	if was && !r.traits.operation {
		return
	}
	switch m.Type {
	case event.Result:
		r.result = m.Result
	case event.Failed:
		if r.fault = m.Error; r.fault == nil {
			r.fault = fault.New(fault.Failed, "the agent failed and did not say why")
		}
	case event.Plan:
		select {
		case r.plans <- m.Plan:
		default: // repeated
		}
	case event.Left:
		select {
		case <-r.left: // repeated
		default:
			close(r.left)
		}
	default:
		if r.h.Event != nil && m.Time.After(r.last) {
			r.h.Event(m.Event)
		}
	}
	if m.Time.After(r.last) {
		r.last = m.Time
	}
	if !was && r.ended() && (r.traits.thanked() || !r.traits.operation && !r.traits.out) {
		close(r.told)
	}
}

// ended reports whether the agent said how it ended.
func (r *run) ended() bool { return r.result != nil || r.fault != nil }

// Times of the dialogue.
const (
	// waitInterval is how often the agent is told that a person thinks.
	waitInterval = 5 * time.Second
	// farewell is how long a cancelled client waits for its agent's end.
	farewell = 5 * time.Second
	// unmaking is how long it waits for one that takes back what it has made.
	unmaking = time.Minute
	// parting is how long it waits for one to say that it removes itself.
	parting = 5 * time.Second
)

// watch follows the agent to its end.
func (r *run) watch(ctx context.Context) (json.RawMessage, error) {
	defer r.stream.Close()
	copied := make(chan struct{})
	var stdout io.Writer = io.Discard
	if r.traits.out {
		stdout = r.out
	}
	go func() {
		defer close(copied)
		// A connection that breaks is an end like any other: what matters is
		// whether the agent had said how it ended.
		_ = r.stream.Copy(stdout, r.lines)
	}()

	if r.traits.operation {
		// The agent begins only when it hears from a client, so that one
		// which the engine starts after a power failure does not.
		r.say(Answer{Wait: true})
	}
	fed := r.feed()
	asked := make(chan answered, 1)
	asking, begun := false, !r.request.Ask
	told := r.told
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	var refused error
	for {
		select {
		case raw := <-r.plans:
			asking = true
			go func() { asked <- r.ask(raw) }()
		case <-tick.C:
			if asking {
				r.say(Answer{Wait: true})
			}
		case a := <-asked:
			asking = false
			begun, refused = a.yes, a.err
			r.say(Answer{Yes: a.yes, Plan: a.digest})
			if !a.yes {
				_ = r.stream.CloseWrite()
				told = nil // no more is said
			}
		case err := <-fed:
			// The source of the archive failed: the missing end of the
			// archive makes the agent fail too.
			refused = err
			_ = r.stream.CloseWrite()
		case <-told:
			return r.part(ctx, copied)
		case <-copied:
			return r.finish(ctx, refused)
		case <-ctx.Done():
			return r.interrupted(ctx, copied, begun)
		}
	}
}

// part ends the client's part with what the agent has said. That the container
// ends, and goes, need not be waited for: 0.15 s and more (measured).
func (r *run) part(ctx context.Context, copied <-chan struct{}) (json.RawMessage, error) {
	if r.traits.operation {
		r.say(Answer{Done: true})
		select {
		case <-r.left:
		case <-copied:
			r.remove(ctx)
		case <-time.After(parting):
			r.remove(ctx)
		}
	}
	if r.fault != nil {
		return nil, r.fault
	}
	return r.result, nil
}

// say sends one line to the agent. A broken connection shows when reading.
func (r *run) say(a Answer) {
	data, err := json.Marshal(a)
	if err != nil {
		panic(err) // an Answer holds nothing that JSON lacks
	}
	_, _ = r.stream.Write(append(data, '\n'))
}

// feed sends the archive of an import and reports an error of its source.
func (r *run) feed() <-chan error {
	failed := make(chan error, 1)
	if !r.traits.in {
		return failed
	}
	go func() {
		in := r.h.In
		if in == nil {
			failed <- errors.New("read archive: there is none")
			return
		}
		buf := make([]byte, 256<<10)
		w := &archiveWriter{w: r.stream}
		for {
			n, err := in.Read(buf)
			if n > 0 {
				if _, err := w.Write(buf[:n]); err != nil {
					return // the agent is gone: it has said why
				}
			}
			switch {
			case errors.Is(err, io.EOF):
				_ = w.End()
				_ = r.stream.CloseWrite()
				return
			case err != nil:
				failed <- fmt.Errorf("read archive: %w", err)
				return
			}
		}
	}()
	return failed
}

// answered is a person's answer to a plan.
type answered struct {
	yes    bool
	digest string
	err    error
}

func (r *run) ask(raw json.RawMessage) answered {
	var p plan.Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return answered{err: fmt.Errorf("read plan: %w", err)}
	}
	if r.h.Confirm == nil {
		return answered{err: fault.New(fault.Declined, "nobody is there to confirm the plan").WithState("nothing was changed")}
	}
	yes, err := r.h.Confirm(p)
	return answered{yes: yes && err == nil, digest: p.Digest(), err: err}
}

// finish gives the result when the attached stream has ended.
func (r *run) finish(ctx context.Context, refused error) (json.RawMessage, error) {
	if !r.ended() && refused == nil && r.traits.operation {
		if err := r.follow(ctx); err != nil {
			return nil, err
		}
	}
	r.remove(ctx)
	switch {
	case refused != nil:
		return nil, untouched(refused)
	case r.fault != nil:
		return nil, r.fault
	case r.result == nil:
		return nil, r.vanished()
	}
	if r.traits.out {
		if err := r.out.Close(); err != nil {
			return nil, fmt.Errorf("receive archive: %w", err)
		}
	}
	return r.result, nil
}

// vanished is the fault of an agent that ended without a word.
func (r *run) vanished() error {
	text := "the agent ended without a result"
	if said := r.lines.said(); said != "" {
		text += ": " + said
	}
	if !r.traits.operation {
		return fault.New(fault.Failed, "%s: %s", r.request.Verb, text).WithState("nothing was changed").WithHint("try again")
	}
	hint := "docker snaprestore recover"
	if r.request.Operation != "" {
		hint = fmt.Sprintf("docker snaprestore status %s; docker snaprestore recover %[1]s", r.request.Operation)
	}
	return fault.New(fault.Interrupted, "%s: %s", r.request.Verb, text).
		WithState("how far it came is in the journal, and recover settles it").WithHint("%s", hint)
}

// remove removes the container, though ctx may have ended.
func (r *run) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	// What stays is removed at the next launch.
	_ = r.client.engine.RemoveContainer(ctx, r.id)
}

// interrupted ends the client's part before the agent's.
func (r *run) interrupted(ctx context.Context, copied <-chan struct{}, begun bool) (json.RawMessage, error) {
	_ = r.stream.CloseWrite()
	if !r.traits.operation {
		r.remove(ctx)
		return nil, r.stopped(ctx, ctx.Err())
	}
	if begun && !r.traits.in && !r.traits.attended {
		return nil, r.goesOn("stopped watching")
	}
	wait := farewell
	if r.traits.attended {
		wait = unmaking
	}
	// The agent hears the end of its input: a plan is declined by it, an archive
	// is torn, and what is of no use without a client is taken back.
	select {
	case <-copied:
		if r.result != nil {
			r.remove(ctx)
			return r.result, nil // it was done by then
		}
		if r.fault != nil {
			r.remove(ctx)
			if r.traits.attended {
				return nil, r.fault // it says what was taken back
			}
			return nil, r.stopped(ctx, ctx.Err())
		}
	case <-time.After(wait):
	}
	return nil, r.goesOn("stopped watching")
}

// stopped is the fault of an end of ctx that changed nothing; other errors
// stay.
func (r *run) stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return fault.New(fault.Declined, "%s: interrupted", r.request.Verb).WithState("nothing was changed")
}

// goesOn is the fault of a client that leaves a working agent.
func (r *run) goesOn(why string) error {
	f := fault.New(fault.Interrupted, "%s: %s", r.request.Verb, why)
	if r.request.Operation == "" {
		return f.WithState("it goes on in the background").WithHint("docker snaprestore status")
	}
	return f.WithState("operation %s goes on in the background", r.request.Operation).
		WithHint("docker snaprestore status %s", r.request.Operation)
}

// pollInterval is how often the engine is asked for an agent without a
// connection to it.
const pollInterval = 300 * time.Millisecond

// follow polls the engine until the agent has said how it ended. It returns an
// error where it gives up.
func (r *run) follow(ctx context.Context) error {
	e := r.client.engine
	contact, endedSince := time.Now(), time.Time{}
	for {
		state, err := e.State(ctx, r.id)
		if err == nil {
			fresh := &lines{handle: r.receive}
			if err = e.Logs(ctx, r.id, fresh); err == nil {
				r.lines = fresh
			}
		}
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return r.goesOn("stopped watching")
		case errors.Is(err, restore.ErrNoSuch):
			return r.vanished()
		case err != nil:
			if now.Sub(contact) > r.client.patience {
				return r.goesOn("lost the engine")
			}
		default:
			contact = now
			if r.ended() {
				return nil
			}
			if state == "exited" || state == "dead" {
				if endedSince.IsZero() {
					endedSince = now
				}
				if now.Sub(endedSince) > r.client.settling {
					return r.vanished()
				}
			} else {
				endedSince = time.Time{}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}
