package restore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// happened is a step or a call that was done.
type happened struct {
	key    string
	from   string // the function that took the step
	step   *durable.Step
	engine *enginetest.Checkpoint // the state after a call
}

func (h happened) syncs() bool {
	return h.step != nil && slices.Contains([]durable.Op{durable.OpFsync, durable.OpSyncDir, durable.OpSyncFS}, h.step.Op)
}

// recorder notes what a process does.
func (k *walker) recorder(record *[]happened) func(point) error {
	return func(p point) error {
		if !p.done {
			return nil
		}
		h := happened{key: strings.Replace(p.key, " done", "", 1), from: p.from, step: p.step}
		if p.step != nil {
			h.step.Data = slices.Clone(p.step.Data)
		} else if p.call.Changes() {
			now, err := k.w.e.Checkpoint()
			if err != nil {
				return err
			}
			now = now.PowerOff()
			h.engine = &now
		} else {
			return nil
		}
		*record = append(*record, h)
		return nil
	}
}

// loss is a power loss during a record.
type loss struct {
	*walker
	t       *testing.T
	first   state
	record  []happened
	from    int    // where power losses begin
	end     string // where the record ends: old or new
	results map[string]string
}

// image is what a power loss leaves.
type image struct {
	state
	how string
	// end is where it must end, since that had been told already; "" where it
	// may be either.
	end string
}

// play runs the model along the record, without the sync at index skip (-1 for
// none), and calls at after every step.
func (l *loss) play(skip int, at func(n int, d *disk, engine enginetest.Checkpoint, skipped []*change) bool) {
	d := newDisk(l.w, l.first)
	engine := l.first.engine.PowerOff()
	var skipped []*change
	if l.from == 0 && !at(0, d, engine, nil) {
		return
	}
	for n, h := range l.record {
		switch {
		case n == skip:
			skipped = d.covered(*h.step)
		case h.engine != nil:
			engine = *h.engine
		default:
			assert.NilError(l.t, d.step(*h.step))
		}
		skipped = slices.DeleteFunc(skipped, func(c *change) bool { return !slices.Contains(d.pending, c) })
		if n >= l.from && !at(n+1, d, engine, skipped) {
			return
		}
	}
}

// subsets gives ways to lose changes: all, each one, all but one, and some at
// random, the same in every run.
func subsets(changes []*change, seed int) (out []map[*change]bool) {
	add := func(lost ...*change) {
		m := map[*change]bool{}
		for _, c := range lost {
			m[c] = true
		}
		out = append(out, m)
	}
	add(changes...)
	if len(changes) <= 4 {
		for bits := range 1<<len(changes) - 1 {
			var lost []*change
			for i, c := range changes {
				if bits>>i&1 == 1 {
					lost = append(lost, c)
				}
			}
			add(lost...)
		}
		return out
	}
	add()
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	for i, c := range changes {
		if i%(1+len(changes)/4) == 0 {
			add(c)
			add(slices.DeleteFunc(slices.Clone(changes), func(other *change) bool { return other == c })...)
		}
	}
	for range 3 {
		add(slices.DeleteFunc(slices.Clone(changes), func(*change) bool { return random.IntN(2) == 0 })...)
	}
	return out
}

// sound checks every image of a power loss anywhere in the record.
func (l *loss) sound() {
	l.t.Helper()
	l.play(-1, func(n int, d *disk, engine enginetest.Checkpoint, _ []*change) bool {
		for i, lost := range subsets(d.pending, n) {
			how := fmt.Sprintf("a power loss after step %d of %d, %s, that lost %s", n, len(l.record), l.last(n), those(lost))
			img := image{
				state: state{entries: d.after(func(c *change) bool { return lost[c] }), engine: engine},
				how:   how, end: l.told(n),
			}
			if failure := l.check(img); failure != "" {
				l.t.Fatalf("%s (subset %d): %s", how, i, failure)
			}
		}
		return true
	})
}

// noticed tells whether a check fails somewhere when one sync is left out.
func (l *loss) noticed(skip int) bool {
	noticed := false
	l.play(skip, func(n int, d *disk, engine enginetest.Checkpoint, skipped []*change) bool {
		if n <= skip {
			return true
		}
		if len(skipped) == 0 {
			return false // everything has come to the disk after all
		}
		for _, lost := range subsets(skipped, n) {
			for _, others := range []bool{false, true} {
				img := image{
					state: state{engine: engine, entries: d.after(func(c *change) bool {
						return lost[c] || others && !slices.Contains(skipped, c)
					})},
					how: fmt.Sprintf("a power loss after step %d, without %s", n, l.record[skip].key),
					end: l.told(n),
				}
				if l.check(img) != "" {
					noticed = true
					return false
				}
			}
		}
		return true
	})
	return noticed
}

// told is the end that the caller of the operation knows of after n steps.
func (l *loss) told(n int) string {
	if n == len(l.record) {
		return l.end
	}
	return ""
}

func (l *loss) last(n int) string {
	if n == 0 {
		return "the beginning"
	}
	return l.record[n-1].key
}

func those(lost map[*change]bool) string {
	var names []string
	for c := range lost {
		names = append(names, c.name)
	}
	slices.Sort(names)
	return fmt.Sprintf("%q", names)
}

// probe is a tester whose failures are looked at and not reported.
type probe struct {
	said   []string
	failed bool
}

func (p *probe) Helper()         {}
func (p *probe) Log(args ...any) { p.said = append(p.said, fmt.Sprint(args...)) }
func (p *probe) Fail()           { p.failed = true }
func (p *probe) FailNow()        { p.failed = true; panic(p) }
func (p *probe) Failed() bool    { return p.failed }

// check recovers an image, as after a reboot, and tells what is wrong with the
// end, or "". Images that are the same are checked once.
func (l *loss) check(img image) (failure string) {
	key := fmt.Sprint(l.w.digest(img.state), img.end)
	if known, ok := l.results[key]; ok {
		return known
	}
	p := &probe{}
	k := *l.walker
	k.t, k.w.t = p, p
	defer func() {
		if r := recover(); r != nil && r != any(p) {
			panic(r)
		}
		k.w.t = l.t
		if p.failed {
			failure = strings.Join(p.said, "; ")
		}
		l.results[key] = failure
	}()
	k.w.put(img.state)
	k.w.e.Hook = nil
	if _, err := k.w.e.Reboot(); err != nil {
		return err.Error()
	}
	booted := k.w.take()
	k.neverMixed(found{state: booted, how: img.how})
	k.w.put(booted)
	want := k.wanted()
	if k.lastState() == journal.Prepared {
		k.goesBack(img.how, want)
		k.w.put(booted)
	}
	var out plan.Recovered
	err := k.w.run(func(ctx context.Context, d *restore.Domain) (err error) {
		out, err = d.Recover(ctx, "")
		return err
	})
	assert.NilError(p, err, "recovery: %+v", out)
	end := k.outcome(img.how)
	if img.end != "" {
		assert.Equal(p, end, img.end, "it had been told otherwise")
	}
	k.settled(img.how, want)
	return ""
}

// goesBack checks that from PREPARED there is a way back, too: the one taken
// when the engine fails while the fences are up. The process dies right after
// its decision, so that the record that waited for it is read.
func (k *walker) goesBack(how string, want []string) {
	decided := false
	_ = k.w.start(func(p point) error {
		switch {
		case p.key == "engine Containers() #1":
			return errEngine
		case p.done && p.step != nil && strings.HasSuffix(p.step.Name, ".aborting") && p.step.Op == durable.OpRename:
			decided = true
			return errDead
		}
		return nil
	}).do(recoverAll)
	k.w.e.Hook = nil
	assert.Assert(k.t, decided, "after %s: PREPARED did not give way to an error", how)
	assert.NilError(k.t, k.w.run(recoverAll), "after %s: going back", how)
	assert.Equal(k.t, k.outcome(how), "old")
	k.settled(how, want)
}

// agrees checks that the model has come to what is really there.
func (l *loss) agrees(real state) {
	l.t.Helper()
	l.play(-1, func(n int, d *disk, _ enginetest.Checkpoint, _ []*change) bool {
		if n == len(l.record) {
			model := state{entries: d.after(func(*change) bool { return false }), engine: real.engine}
			assert.Equal(l.t, l.w.describe(model), l.w.describe(real), "the model and the file system differ")
		}
		return true
	})
}
