package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// failure is an error at one point, and from there on at every durable step
// where it is sticky.
type failure struct {
	key    string
	err    error
	sticky bool
}

func (f failure) String() string {
	if f.sticky {
		return fmt.Sprintf("%v at %s and from there on", f.err, f.key)
	}
	return fmt.Sprintf("%v at %s", f.err, f.key)
}

// hook makes the failure happen, and tells whether the run came to it.
func (f failure) hook(reached *bool) func(point) error {
	return func(p point) error {
		if p.key == f.key {
			*reached = true
			return f.err
		}
		if *reached && f.sticky && p.step != nil {
			return f.err
		}
		return nil
	}
}

var diskErrors = []error{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT}

var errEngine = errors.New("the engine says no")

// failures are those of one scenario: every step fails once and for good, with
// one error after the other or with all of them, before its effect and, once,
// after it; every call of the engine fails once.
func failures(points []string, all bool) (out []failure) {
	for i, key := range points {
		done := strings.Contains(key, " done #")
		switch {
		case strings.HasPrefix(key, "engine ") && !done:
			out = append(out, failure{key, errEngine, false})
		case strings.HasPrefix(key, "engine "):
		case done:
			out = append(out, failure{key, unix.EIO, false})
		case all:
			for _, err := range diskErrors {
				out = append(out, failure{key, err, false}, failure{key, err, true})
			}
		default:
			out = append(out, failure{key, diskErrors[i%4], false}, failure{key, diskErrors[(i+1)%4], true})
		}
	}
	return out
}

// everyError asks for each error at each step of all operations; else that is
// done for the first one only, and the others take them in turn.
func everyError() bool { return os.Getenv("SNAPRESTORE_EVERY_ERROR") != "" }

// An error at any step leaves the old data with its workload running, or the
// new data, or is in doubt and says so; then recovery decides.
func TestAnErrorAnywhereEndsAsOldAsNewOrInDoubt(t *testing.T) {
	longWalk(t)
	for i, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			k := newWalker(t, sc)
			ends := map[string]int{}
			for _, f := range failures(k.record(k.call), i == 0 || everyError()) {
				ends[k.failed(f)]++
				if t.Failed() {
					return
				}
			}
			t.Log(ends)
		})
	}
}

// failed runs the operation with one failure, and tells how it ended.
func (k *walker) failed(f failure) (end string) {
	k.t.Helper()
	how := f.String()
	k.w.put(k.first)
	reached := false
	err := k.w.start(f.hook(&reached)).do(k.call)
	assert.Assert(k.t, reached, "the run did not come to %s", f.key)
	k.w.e.Hook = nil
	now := k.w.take()
	before := k.containers(k.first)
	running := slices.Equal(k.containers(now), before)
	open := len(k.open()) > 0
	said := fault.From(err)
	if err != nil {
		assert.Assert(k.t, said.State != "" && said.Hint != "", "after %s: no state or no hint: %v (%+v)", how, err, said)
	}
	switch {
	case err == nil:
		end = "done"
		if got := k.outcome(how); !k.same {
			assert.Equal(k.t, got, "new")
		}
		assert.Assert(k.t, running, "after %s: done, but the workload is not as before: %v", how, k.containers(now))
	case said.Kind == fault.InDoubt:
		end = "in doubt"
		assert.Assert(k.t, open || strings.Contains(said.State, "snapshot"), "after %s: in doubt and not open: %v", how, err)
		if strings.Contains(said.State, "its containers run") {
			assert.Assert(k.t, running, "after %s: %v, but %v", how, err, k.containers(now))
		}
		k.neverMixed(found{state: now, how: how})
		k.w.put(now)
	case said.Kind == fault.NotStarted:
		end = "not started"
		assert.Assert(k.t, k.fails != "" || errors.Is(f.err, errEngine), "after %s: %v", how, err)
		k.neverMixed(found{state: now, how: how})
		k.w.put(now)
	default:
		end = string(said.Kind)
		assert.Assert(k.t, running, "after %s: %v, but the workload is not as before: %v", how, err, k.containers(now))
		if was := k.outcome(how); was != "old" && was != "undone" && !k.same {
			assert.Assert(k.t, open, "after %s: failed as new, and not open: %v", how, err)
		}
	}
	if end == "not started" && !open {
		return end
	}
	want := k.wanted()
	var out plan.Recovered
	assert.NilError(k.t, k.w.run(func(ctx context.Context, d *restore.Domain) (err error) {
		out, err = d.Recover(ctx, "")
		return err
	}), "after %s (%v): recovery", how, err)
	assert.Equal(k.t, len(out.Operations) > 0, open, "after %s: %v", how, err)
	was := k.outcome(how)
	if !open && err != nil && !k.same {
		assert.Assert(k.t, was == "old" || was == "undone", "after %s: %s: %v", how, was, err)
	}
	k.settled(how, want)
	return end
}

// midways are the states that a crash leaves, one for each state that the
// operation's record can then have: that with the most done.
func (k *walker) midways(points []string) map[journal.State]found {
	k.t.Helper()
	out := map[journal.State]found{}
	for _, key := range points {
		k.w.put(k.first)
		_ = k.w.start(func(p point) error {
			if p.key == key {
				return errDead
			}
			return nil
		}).do(k.call)
		if state := k.lastState(); state != "" {
			out[state] = found{k.w.take(), "a crash at " + key}
		}
	}
	return out
}

// A recovery that fails at any of its steps says so, leaves nothing that could
// run on a mixed set, and the next one ends what it began.
func TestAnErrorAnywhereInARecoveryIsMadeGoodByTheNext(t *testing.T) {
	longWalk(t)
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			k := newWalker(t, sc)
			ends := map[string]int{}
			for record, from := range k.midways(k.record(k.call)) {
				k.w.put(from.state)
				want := k.wanted()
				var points []string
				assert.NilError(t, k.w.start(func(p point) error {
					points = append(points, p.key)
					return nil
				}).do(recoverAll))
				for _, f := range failures(points, everyError()) {
					ends[k.failedRecovery(record, from, want, f)]++
					if t.Failed() {
						return
					}
				}
			}
			t.Log(ends)
		})
	}
}

// failedRecovery recovers with one failure, and then without; it tells how the
// first ended.
func (k *walker) failedRecovery(record journal.State, from found, want []string, f failure) (end string) {
	k.t.Helper()
	how := fmt.Sprintf("%s (%s), a recovery with %s", from.how, record, f)
	k.w.put(from.state)
	reached := false
	err := k.w.start(f.hook(&reached)).do(recoverAll)
	assert.Assert(k.t, reached, "the recovery did not come to %s", f.key)
	k.w.e.Hook = nil
	now := k.w.take()
	end = "done"
	if err != nil {
		said := fault.From(err)
		end = string(said.Kind)
		assert.Assert(k.t, said.State != "" && said.Hint != "", "after %s: no state or no hint: %v (%+v)", how, err, said)
		k.neverMixed(found{state: now, how: how})
		k.w.put(now)
	} else {
		assert.Equal(k.t, len(k.open()), 0, "after %s: it said nothing, and left an open operation", how)
	}
	if end == string(fault.NotStarted) && len(k.open()) == 0 {
		want = k.containers(now) // it is over, and the workload is the user's
	}
	assert.NilError(k.t, k.w.run(recoverAll), "after %s (%v): the next recovery", how, err)
	if k.creates && errors.Is(f.err, errEngine) {
		k.dropMade() // what could not be removed stays, with a warning
	}
	got := k.outcome(how)
	switch record {
	case journal.Staging, journal.Stopping, journal.Aborting:
		assert.Assert(k.t, got == "old" || k.same, "after %s: %s", how, got)
	case journal.Committed:
		assert.Assert(k.t, got == "new" || k.same || k.fails != "" && got == "undone", "after %s: %s", how, got)
	}
	k.settled(how, want)
	return end
}

// dropMade removes the volume that an operation made and left behind empty.
func (k *walker) dropMade() {
	k.t.Helper()
	name := fmt.Sprintf("shop_v%d", k.volumes-1)
	if entries, err := os.ReadDir(k.w.trees()[name]); err == nil && len(entries) == 0 {
		assert.NilError(k.t, k.w.e.RemoveVolume(context.Background(), name))
	}
}
