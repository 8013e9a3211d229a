package agent

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// run opens the domain and does what was asked, or finishes what an earlier
// agent of the same request began.
func (s *server) run(ctx context.Context, config restore.Config, g *greeting) (any, error) {
	config.Events = s.events.send
	r := s.request
	if n := r.jobs(); n > 0 {
		runtime.GOMAXPROCS(n) // which is what the copy engines go by
	}
	d, err := s.open(ctx, config)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if !s.traits.operation {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go s.hangUp(cancel)
		return s.read(ctx, d)
	}
	if r.Operation != "" {
		_, known, err := d.Known(r.Operation)
		switch {
		case err != nil:
			return nil, err
		case known:
			s.begun.Store(true)
			return s.resume(ctx, d)
		}
		s.unbegun.Store(true)
	}
	if !s.traits.blind && !g.wait() {
		return nil, fault.New(fault.Declined, "%s: the agent ended before the operation began", r.Verb).
			WithState("nothing was changed").WithHint("run the command again")
	}
	if s.traits.attended {
		var cancel func()
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go s.hangUp(cancel)
	}
	return s.change(ctx, d)
}

// hangUp waits for the end of the client's input, which comes 10 ms after its
// death (measured), and ends work that is of no use without a client.
func (s *server) hangUp(cancel func()) {
	for {
		if _, err := s.in.ReadByte(); err != nil {
			cancel()
			return
		}
	}
}

// read does a verb that changes nothing.
func (s *server) read(ctx context.Context, d Domain) (any, error) {
	r := s.request
	switch r.Verb {
	case List:
		return d.List(ctx, r.Project)
	case Inspect:
		return d.Inspect(ctx, r.References, r.Project)
	case Status:
		ref, err := s.reference(true)
		if err != nil {
			return nil, err
		}
		return d.Status(ctx, ref)
	case Verify:
		return d.Verify(ctx, r.References, r.Project)
	case Doctor:
		return d.Doctor(ctx)
	case Allow:
		return d.Allow(ctx, r.Paths)
	case Export:
		ref, err := s.reference(false)
		if err != nil {
			return nil, err
		}
		w := &archiveWriter{w: s.out}
		made, err := d.Export(ctx, ref, r.Project, r.Gzip, w)
		if err != nil {
			return nil, err
		}
		if err := w.End(); err != nil {
			return nil, fmt.Errorf("send archive: %w", err)
		}
		return made, nil
	case Restore, Undo:
		p, err := s.plan(ctx, d)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return nil, incomplete(r.Verb)
}

// change does a verb that begins an operation.
func (s *server) change(ctx context.Context, d Domain) (any, error) {
	r := s.request
	switch r.Verb {
	case Create:
		if r.Create == nil {
			return nil, incomplete(r.Verb)
		}
		s.begun.Store(true)
		return d.Create(ctx, r.Operation, *r.Create)
	case Remove:
		s.begun.Store(true)
		return d.Remove(ctx, r.Operation, r.References, r.Project)
	case Import:
		s.begun.Store(true)
		return d.Import(ctx, r.Operation, &archiveReader{r: s.in}, r.Name)
	case Adopt:
		if r.Adopt == nil {
			return nil, incomplete(r.Verb)
		}
		s.begun.Store(true)
		return d.Adopt(ctx, r.Operation, *r.Adopt)
	case Drill:
		if r.Drill == nil {
			return nil, incomplete(r.Verb)
		}
		s.begun.Store(true)
		return d.Drill(ctx, r.Operation, *r.Drill)
	case Recover:
		ref, err := s.reference(true)
		if err != nil {
			return nil, err
		}
		s.begun.Store(true)
		return d.Recover(ctx, ref)
	case Restore, Undo:
		p, err := s.plan(ctx, d)
		if err != nil {
			return nil, err
		}
		if r.Ask {
			if err := s.confirm(p); err != nil {
				return nil, err
			}
		}
		s.begun.Store(true)
		return d.Execute(ctx, p)
	}
	return nil, incomplete(r.Verb)
}

func incomplete(v Verb) error {
	return fault.New(fault.Failed, "%s: the request is incomplete", v).WithState("nothing was changed")
}

// reference gives the only reference of the request.
func (s *server) reference(optional bool) (string, error) {
	switch refs := s.request.References; {
	case len(refs) == 1:
		return refs[0], nil
	case len(refs) == 0 && optional:
		return "", nil
	}
	return "", incomplete(s.request.Verb)
}

// plan makes the plan of a restore or an undo, and holds it against the id
// that the client expects.
func (s *server) plan(ctx context.Context, d Domain) (*plan.Plan, error) {
	r := s.request
	var p *plan.Plan
	var err error
	var resolved string
	switch {
	case r.Verb == Restore && r.Restore != nil:
		if p, err = d.PlanRestore(ctx, r.Operation, *r.Restore); err == nil {
			resolved = p.Snapshot.ID
		}
	case r.Verb == Undo && r.Undo != nil:
		if p, err = d.PlanUndo(ctx, r.Operation, *r.Undo); err == nil {
			resolved = p.Undoes
		}
	default:
		return nil, incomplete(r.Verb)
	}
	if err != nil {
		return nil, err
	}
	if r.Confirm != "" && r.Confirm != resolved {
		return nil, fault.New(fault.Declined, "%s: what was asked for is %s, but %s was confirmed", r.Verb, resolved, r.Confirm).
			WithState("nothing was changed").WithHint("confirm with --confirm %s", resolved)
	}
	return p, nil
}

// confirm shows the plan to the client and waits for its yes.
func (s *server) confirm(p *plan.Plan) error {
	s.events.send(event.Event{Type: event.Plan, Operation: p.Operation, Plan: p})
	no := func(format string, args ...any) error {
		return fault.New(fault.Declined, format, args...).WithState("nothing was changed")
	}
	for {
		a, err := s.hear(s.answerTimeout)
		switch {
		case err != nil:
			return no("%s: not confirmed: %w", s.request.Verb, err)
		case a.Wait:
		case !a.Yes:
			return no("%s: declined", s.request.Verb)
		case a.Plan != p.Digest():
			return no("%s: another plan was confirmed than this", s.request.Verb)
		default:
			return nil
		}
	}
}

// resumeInterval is the pause between tries to resume an operation that
// somebody else holds, and resumePatience their end.
const (
	resumeInterval = 200 * time.Millisecond
	resumePatience = 10 * time.Minute
)

// resume finishes the operation of an agent that died, or finds how it ended,
// and gives the verb's result.
func (s *server) resume(ctx context.Context, d Domain) (any, error) {
	r := s.request
	restored, err := d.Resume(ctx, r.Operation)
	for deadline := time.Now().Add(resumePatience); fault.Is(err, fault.Locked) && time.Now().Before(deadline); {
		// The volume plugin, or somebody's recover, was faster.
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(resumeInterval):
		}
		restored, err = d.Resume(ctx, r.Operation)
	}
	if err != nil {
		return nil, err
	}
	if restored.Result == journal.ResultFailed {
		return nil, fault.New(fault.Failed, "%s: it was interrupted", r.Verb).
			WithState("the data is as before").WithHint("run the command again")
	}
	switch r.Verb {
	case Create, Import:
		found, err := d.Inspect(ctx, []string{restored.Snapshot}, "")
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("find snapshot %s: found %d", restored.Snapshot, len(found))
		}
		return found[0].Snapshot, nil
	case Drill:
		return d.Drilled(restored.Operation)
	case Adopt:
		var adopted []plan.Adopted
		for _, name := range restored.Volumes {
			adopted = append(adopted, plan.Adopted{Operation: restored.Operation, Volume: name})
		}
		return adopted, nil
	case Remove:
		if n := len(r.References); n > 1 {
			// Each has an operation of its own, and only this one is known.
			return nil, fault.New(fault.Failed, "rm: interrupted, and only some of %d snapshots were removed", n).
				WithState("%s is removed", restored.Snapshot).WithHint("docker snaprestore ls")
		}
		return []string{restored.Snapshot}, nil
	}
	return restored, nil
}
