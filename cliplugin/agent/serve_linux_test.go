package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

func TestReadingVerbsAnswer(t *testing.T) {
	for _, tt := range []struct {
		req  Request
		call string
	}{
		{Request{Verb: List, Project: "p"}, "List p"},
		{Request{Verb: Inspect, References: []string{"a"}}, "Inspect"},
		{Request{Verb: Status}, "Status "},
		{Request{Verb: Status, References: []string{"o"}}, "Status o"},
		{Request{Verb: Verify, References: []string{"a"}}, "Verify"},
		{Request{Verb: Doctor}, "Doctor"},
		{Request{Verb: Restore, DryRun: true, Restore: &plan.RestoreRequest{Snapshot: "s"}}, "PlanRestore s"},
		{Request{Verb: Undo, DryRun: true, Undo: &plan.UndoRequest{Operation: "o"}}, "PlanUndo o"},
	} {
		d := &domain{}
		g := talk(t.Context(), t, d, tt.req, nil)
		m := g.next()
		assert.Equal(t, m.Type, event.Result, "%v: %v", tt.req.Verb, m.Error)
		assert.Check(t, m.Result != nil)
		assert.Equal(t, g.exit(), exitSettled)
		assert.DeepEqual(t, d.called(), []string{tt.call})
	}
}

func TestChangingVerbsWaitForTheClientsFirstWord(t *testing.T) {
	for _, tt := range []struct {
		req  Request
		call string
	}{
		{Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, "Create o"},
		{Request{Verb: Remove, Operation: "o", References: []string{"a"}}, "Remove"},
		{Request{Verb: Drill, Operation: "o", Drill: &plan.DrillRequest{Snapshot: "s"}}, "Drill s"},
		{Request{Verb: Recover, References: []string{"o"}}, "Recover o"},
		{Request{Verb: Restore, Operation: "o", Restore: &plan.RestoreRequest{Snapshot: "s"}}, "PlanRestore s Execute o"},
		{Request{Verb: Undo, Operation: "o", Undo: &plan.UndoRequest{}}, "PlanUndo  Execute o"},
	} {
		d := &domain{}
		g := talk(t.Context(), t, d, tt.req, nil)
		assert.Equal(t, len(d.called()), 0)
		g.say(Answer{Wait: true})
		m := g.next()
		assert.Equal(t, m.Type, event.Result, "%v: %v", tt.req.Verb, m.Error)
		assert.Equal(t, g.exit(), exitSettled)
		assert.Equal(t, strings.Join(d.called(), " "), tt.call)
	}
}

// While its client may still ask for it, the container has the result.
func TestAnAgentGoesOnlyWhenItsClientHasTheResult(t *testing.T) {
	request := Request{Verb: Create, Operation: "o", Create: &plan.Create{}}
	thankful := func(s *server) { s.thanksTimeout = limit }
	g := talk(t.Context(), t, &domain{}, request, thankful)
	g.say(Answer{Wait: true})
	assert.Equal(t, g.next().Type, event.Result)
	assert.Check(t, !g.removed.Load())
	g.say(Answer{Wait: true}) // of a client that is behind
	g.say(Answer{Done: true})
	assert.Equal(t, g.next().Type, event.Left)
	assert.Equal(t, g.exit(), exitSettled)
	assert.Check(t, g.removed.Load())

	for name, end := range map[string]func(*dialogue){
		"is gone":   func(g *dialogue) { g.in.Close() },
		"is silent": func(*dialogue) {},
	} {
		t.Run("its client "+name, func(t *testing.T) {
			g := talk(t.Context(), t, &domain{}, request, func(s *server) {
				if name == "is gone" {
					s.thanksTimeout = limit
				}
			})
			g.say(Answer{Wait: true})
			assert.Equal(t, g.next().Type, event.Result)
			end(g)
			assert.Equal(t, g.exit(), exitSettled)
			assert.Check(t, !g.removed.Load())
		})
	}
	failing := &domain{work: func(context.Context) error { return errors.New("no") }}
	g = talk(t.Context(), t, failing, request, thankful)
	g.say(Answer{Wait: true})
	assert.Equal(t, g.next().Type, event.Failed)
	g.say(Answer{Done: true})
	assert.Equal(t, g.next().Type, event.Left)
	assert.Equal(t, g.exit(), exitSettled)
	assert.Check(t, g.removed.Load())
}

// The engine starts an agent again that died before its operation began, maybe
// hours later and with nobody watching.
func TestAgentThatNobodyWatchesBeginsNothing(t *testing.T) {
	for _, verb := range []Verb{Create, Remove, Restore, Undo, Import, Drill} {
		d := &domain{}
		g := talk(t.Context(), t, d, Request{Verb: verb, Operation: "o", Create: &plan.Create{},
			Restore: &plan.RestoreRequest{}, Undo: &plan.UndoRequest{}}, nil)
		g.in.Close()
		f := g.failed(fault.Declined)
		assert.Check(t, is.Contains(f.State, "nothing was changed"))
		assert.Equal(t, g.exit(), exitSettled, "it must not be started again")
		assert.Equal(t, len(d.called()), 0)
	}
	d := &domain{}
	g := talk(t.Context(), t, d, Request{Verb: Create, Operation: "o", Create: &plan.Create{}},
		func(s *server) { s.greetTimeout = time.Nanosecond })
	g.failed(fault.Declined)
	assert.Equal(t, len(d.called()), 0)
}

func TestRecoverGoesOnUnwatched(t *testing.T) {
	d := &domain{}
	g := talk(t.Context(), t, d, Request{Verb: Recover}, nil)
	g.in.Close()
	assert.Equal(t, g.next().Type, event.Result)
	assert.DeepEqual(t, d.called(), []string{"Recover "})
}

func TestRestartedAgentResumesItsOperation(t *testing.T) {
	done := plan.Restored{Operation: "o", Snapshot: "s", Result: journal.ResultDone}
	locked := resumed{err: fault.New(fault.Locked, "held")}
	for _, tt := range []struct {
		name   string
		verb   Verb
		refs   []string
		resume []resumed
		result string
		kind   fault.Kind
	}{
		{"restore", Restore, nil, []resumed{{result: done}}, `"operation":"o"`, ""},
		{"waits for another's recovery", Undo, nil, []resumed{locked, {result: done}}, `"operation":"o"`, ""},
		{"create", Create, nil, []resumed{{result: done}}, `"id":"s"`, ""},
		{"import", Import, nil, []resumed{{result: done}}, `"id":"s"`, ""},
		{"rm", Remove, []string{"s"}, []resumed{{result: done}}, `["s"]`, ""},
		{"rm of several", Remove, []string{"s", "t"}, []resumed{{result: done}}, "", fault.Failed},
		{"rolled back", Restore, nil, []resumed{{err: fault.New(fault.RolledBack, "no health")}}, "", fault.RolledBack},
		{"drill", Drill, nil, []resumed{{result: done}}, `"operation":"o"`, ""},
		{"drill came to nothing", Drill, nil, []resumed{{result: plan.Restored{Result: journal.ResultFailed}}}, "", fault.Failed},
		{"create came to nothing", Create, nil, []resumed{{result: plan.Restored{Result: journal.ResultFailed}}}, "", fault.Failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &domain{known: true, resume: tt.resume}
			g := talk(t.Context(), t, d, Request{Verb: tt.verb, Operation: "o", References: tt.refs}, nil)
			g.in.Close() // nobody watches
			if tt.kind != "" {
				g.failed(tt.kind)
			} else {
				m := g.next()
				assert.Check(t, is.Contains(string(m.Result), tt.result), "%v", m.Error)
			}
			assert.Equal(t, g.exit(), exitSettled)
			assert.Equal(t, d.called()[0], "Resume o")
		})
	}
}

func TestPlanIsExecutedAfterYesOnly(t *testing.T) {
	req := Request{Verb: Restore, Operation: "o", Ask: true, Restore: &plan.RestoreRequest{Snapshot: "s"}}
	digest := func(m message) string {
		var p plan.Plan
		assert.NilError(t, json.Unmarshal(m.Plan, &p))
		return p.Digest()
	}
	for _, tt := range []struct {
		name     string
		answer   func(*dialogue, message)
		executed bool
	}{
		{"yes", func(g *dialogue, m message) { g.say(Answer{Yes: true, Plan: digest(m)}) }, true},
		{"yes after thinking", func(g *dialogue, m message) {
			g.say(Answer{Wait: true})
			g.say(Answer{Wait: true})
			g.say(Answer{Yes: true, Plan: digest(m)})
		}, true},
		{"no", func(g *dialogue, m message) { g.say(Answer{}) }, false},
		{"yes to another plan", func(g *dialogue, m message) { g.say(Answer{Yes: true, Plan: "000000000000"}) }, false},
		{"client gone", func(g *dialogue, m message) { g.in.Close() }, false},
		{"client gone in the middle of a line", func(g *dialogue, m message) {
			_, _ = g.in.Write([]byte(`{"yes":true,"plan":"` + digest(m) + `"}`))
			g.in.Close()
		}, false},
		{"noise", func(g *dialogue, m message) { _, _ = g.in.Write([]byte("y\n")) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &domain{}
			g := talk(t.Context(), t, d, req, nil)
			g.say(Answer{Wait: true})
			m := g.next()
			assert.Equal(t, m.Type, event.Plan)
			assert.DeepEqual(t, d.called(), []string{"PlanRestore s"})
			tt.answer(g, m)
			if tt.executed {
				assert.Equal(t, g.next().Type, event.Result)
				assert.DeepEqual(t, d.called(), []string{"PlanRestore s", "Execute o"})
			} else {
				g.failed(fault.Declined)
				assert.DeepEqual(t, d.called(), []string{"PlanRestore s"})
			}
			assert.Equal(t, g.exit(), exitSettled)
		})
	}
	d := &domain{}
	g := talk(t.Context(), t, d, req, func(s *server) { s.answerTimeout = time.Nanosecond })
	g.say(Answer{Wait: true})
	assert.Equal(t, g.next().Type, event.Plan)
	g.failed(fault.Declined) // silence is a no
	assert.DeepEqual(t, d.called(), []string{"PlanRestore s"})
}

func TestConfirmationMustNameWhatWasResolved(t *testing.T) {
	for _, req := range []Request{
		{Verb: Restore, Operation: "o", Restore: &plan.RestoreRequest{Snapshot: "latest"}},
		{Verb: Undo, Operation: "o", Undo: &plan.UndoRequest{}},
	} {
		for _, confirm := range []string{"resolved", "resolve", "other"} {
			d := &domain{}
			req.Confirm = confirm
			g := talk(t.Context(), t, d, req, nil)
			g.say(Answer{Wait: true})
			if confirm == "resolved" {
				assert.Equal(t, g.next().Type, event.Result)
				assert.Equal(t, len(d.called()), 2)
				continue
			}
			g.failed(fault.Declined)
			assert.Equal(t, len(d.called()), 1, "only planned")
		}
	}
}

func TestArchiveTravelsWhole(t *testing.T) {
	archive := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // several chunks
	d := &domain{archive: archive}
	g := talk(t.Context(), t, d, Request{Verb: Export, References: []string{"s"}}, nil)
	assert.Equal(t, g.next().Type, event.Result)
	assert.Equal(t, g.exit(), exitSettled)
	var got bytes.Buffer
	sink := &archiveSink{w: &got}
	_, err := io.Copy(sink, &g.stdout.b)
	assert.NilError(t, err)
	assert.NilError(t, sink.Close())
	assert.Check(t, bytes.Equal(got.Bytes(), archive))

	d = &domain{}
	g = talk(t.Context(), t, d, Request{Verb: Import, Operation: "o"}, nil)
	g.say(Answer{Wait: true})
	w := &archiveWriter{w: g.in}
	_, err = w.Write(archive)
	assert.NilError(t, err)
	assert.NilError(t, w.End())
	assert.Equal(t, g.next().Type, event.Result)
	assert.Check(t, bytes.Equal(d.archive, archive))
}

func TestClientThatDiesTearsTheArchive(t *testing.T) {
	d := &domain{}
	g := talk(t.Context(), t, d, Request{Verb: Import, Operation: "o"}, nil)
	g.say(Answer{Wait: true})
	w := &archiveWriter{w: g.in}
	_, err := w.Write([]byte("the first part"))
	assert.NilError(t, err)
	g.in.Close()
	g.failed(fault.Corrupt)
	assert.Check(t, errors.Is(d.importErr, errCut), "%v", d.importErr)
}

func TestReadingEndsWithItsClient(t *testing.T) {
	d := &domain{work: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	g := talk(t.Context(), t, d, Request{Verb: Verify, References: []string{"a"}}, nil)
	g.in.Close()
	g.failed(fault.Failed)
	assert.Equal(t, g.exit(), exitSettled)
}

func TestChangingGoesOnWithoutItsClient(t *testing.T) {
	gone := make(chan struct{})
	d := &domain{work: func(ctx context.Context) error { <-gone; return ctx.Err() }}
	g := talk(t.Context(), t, d, Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, nil)
	g.say(Answer{Wait: true})
	g.in.Close()
	close(gone)
	assert.Equal(t, g.next().Type, event.Result)
}

// A drill is of no use without its client: it is called off, and says what it
// took back.
func TestADrillEndsWithItsClient(t *testing.T) {
	d := &domain{work: func(ctx context.Context) error {
		<-ctx.Done()
		return fault.New(fault.Failed, "drill: %w", ctx.Err()).WithState("removed again")
	}}
	g := talk(t.Context(), t, d, Request{Verb: Drill, Operation: "o", Drill: &plan.DrillRequest{}}, nil)
	g.say(Answer{Wait: true})
	g.in.Close()
	f := g.failed(fault.Failed)
	assert.Equal(t, f.State, "removed again")
	assert.Equal(t, g.exit(), exitSettled)
}

// The exit status tells the engine whether to start the agent again.
func TestTermEndsAtOnceAndTellsTheEngine(t *testing.T) {
	working := make(chan struct{})
	d := &domain{work: func(ctx context.Context) error { close(working); <-ctx.Done(); return ctx.Err() }}
	ctx, term := context.WithCancel(t.Context())
	g := talk(ctx, t, d, Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, nil)
	g.say(Answer{Wait: true})
	<-working
	term()
	assert.Equal(t, g.exit(), exitContinue)
	assert.Equal(t, len(g.messages), 0, "the operation has not ended")

	ctx, term = context.WithCancel(t.Context())
	g = talk(ctx, t, &domain{}, Request{Verb: Restore, Operation: "o", Ask: true, Restore: &plan.RestoreRequest{}}, nil)
	g.say(Answer{Wait: true})
	assert.Equal(t, g.next().Type, event.Plan)
	term()
	assert.Equal(t, g.exit(), exitSettled)
}

func TestResultThatMayBeLostIsSaidAgain(t *testing.T) {
	down := func(s *server) {
		s.connect = func(context.Context, func(string) string, *greeting) (*connection, error) {
			return &connection{reachable: func(context.Context) bool { return false }, close: func() {}}, nil
		}
	}
	g := talk(t.Context(), t, &domain{}, Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, down)
	g.say(Answer{Wait: true})
	assert.Equal(t, g.next().Type, event.Result)
	assert.Equal(t, g.exit(), exitContinue)

	g = talk(t.Context(), t, &domain{}, Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, func(s *server) {
		s.events = newEvents(brokenWriter{})
	})
	g.say(Answer{Wait: true})
	assert.Equal(t, g.exit(), exitContinue)

	g = talk(t.Context(), t, &domain{}, Request{Verb: List}, down)
	assert.Equal(t, g.next().Type, event.Result)
	assert.Equal(t, g.exit(), exitSettled)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestBadRequestsAreRefused(t *testing.T) {
	for _, req := range []Request{
		{}, {Verb: "frob"}, {Verb: Create}, {Verb: Restore}, {Verb: Undo}, {Verb: Export},
		{Verb: Restore, DryRun: true}, {Verb: Status, References: []string{"a", "b"}},
	} {
		d := &domain{}
		g := talk(t.Context(), t, d, req, nil)
		go func() { _, _ = g.in.Write([]byte("{\"wait\":true}\n")) }()
		f := g.failed(fault.Failed)
		assert.Check(t, is.Contains(f.State, "nothing was changed"))
		assert.Equal(t, g.exit(), exitSettled)
		assert.Equal(t, len(d.called()), 0)
	}
}

// While the engine is down nobody reads what the agent says.
func TestEventsNeverBlock(t *testing.T) {
	r, w := io.Pipe()
	e := newEvents(w)
	for i := range 100 * progressBacklog {
		e.send(event.Event{Type: event.Progress, Bytes: int64(i)})
	}
	e.send(event.Event{Type: event.Result, Result: "kept"})
	assert.Check(t, !e.flush(time.Nanosecond))
	var last message
	var n int
	var times []time.Time
	done := make(chan struct{})
	go func() {
		defer close(done)
		l := &lines{handle: func(m message) { last = m; n++; times = append(times, m.Time) }}
		_, _ = io.Copy(l, r)
	}()
	assert.Check(t, e.flush(limit))
	w.Close()
	<-done
	assert.Equal(t, last.Type, event.Result)
	assert.Check(t, n <= progressBacklog+2, "%d", n)
	for i := 1; i < len(times); i++ {
		assert.Assert(t, times[i].After(times[i-1]))
	}
}

// An agent is a process of its own, whose processors are those that are asked
// for.
func TestAnAgentUsesAsManyProcessorsAsItIsToldTo(t *testing.T) {
	had := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(had)
	for _, req := range []Request{
		{Verb: Create, Operation: "o", Create: &plan.Create{Jobs: had + 1}},
		{Verb: Restore, Operation: "o", Restore: &plan.RestoreRequest{Snapshot: "s", Jobs: had + 2}},
		{Verb: Create, Operation: "o", Create: &plan.Create{}}, // nothing is asked for
	} {
		g := talk(t.Context(), t, &domain{}, req, nil)
		g.say(Answer{Wait: true})
		m := g.next()
		assert.Equal(t, m.Type, event.Result, "%v: %v", req.Verb, m.Error)
		assert.Equal(t, g.exit(), exitSettled)
		want := req.jobs()
		if want == 0 {
			want = had + 2
		}
		assert.Equal(t, runtime.GOMAXPROCS(0), want)
	}
}
