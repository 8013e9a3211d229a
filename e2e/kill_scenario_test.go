//go:build e2e && linux

package e2e

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
)

// victim is what is killed, and how the tests go on afterwards as the machine
// around an engine would.
type victim struct {
	name string
	kill func(e *Engine, client *Process)
}

// The driver, where there is one, is the last of them.
var victims = []victim{
	{"the CLI", func(_ *Engine, client *Process) { client.Kill() }},
	{"dockerd", func(e *Engine, _ *Process) { e.Restart() }},
	{"the agent", func(e *Engine, _ *Process) { e.SignalAgents(unix.SIGKILL) }},
	{"everything", func(e *Engine, client *Process) {
		e.SignalAgents(unix.SIGKILL)
		e.Kill9()
		e.SignalDrivers(unix.SIGKILL)
		client.Kill()
		e.Start()
	}},
	{"the driver", func(e *Engine, _ *Process) { e.KillDriver() }},
}

// withoutDriver are the victims on an engine that has no volume driver.
var withoutDriver = victims[:len(victims)-1]

// phases are the states of a restore that are struck in.
var phases = []journal.State{journal.Staging, journal.Stopping, journal.Prepared, journal.Committed, journal.Starting}

// Whatever is killed with kill -9, in whichever phase of a restore of volumes
// of every kind: in the end they are all of the snapshot or all of before, the
// same containers run with their own policies and have seen nothing else at any
// of their starts, nothing is left open or lying about, and that without
// anybody's help.
func TestARestoreOfAllKindsSurvivesKillsInEveryPhase(t *testing.T) {
	f := NewMixedFleet(t)
	for _, victim := range victims {
		t.Run(victim.name, func(t *testing.T) {
			f.In(t)
			struck := phases
			if victim.name == "the CLI" { // nothing depends on it from its yes on
				struck = []journal.State{journal.Stopping, journal.Committed}
			}
			f.survives(victim, struck)
			f.CheckSeen("fleet-witness-1", len(f.volumes))
		})
	}
}

// The same where there is no volume driver: of what is killed, the agent alone
// and everything are the least and the most.
func TestARestoreSurvivesKillsInEveryPhase(t *testing.T) {
	if oneDriver() {
		t.Skip("on this engine with volumes of all kinds only: SNAPRESTORE_E2E_DRIVERS is \"one\"")
	}
	for _, victim := range withoutDriver[2:] {
		t.Run(victim.name, func(t *testing.T) {
			NewFleet(t).survives(victim, phases)
		})
	}
}

// survives strikes a restore in these phases and checks what becomes of it.
func (f *Fleet) survives(victim victim, phases []journal.State) {
	f.t.Helper()
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(f.t).Line()
	identity, policies := f.Identity(f.containers...), f.Policies()
	met := 0
	for _, phase := range phases {
		client, struck := f.strikeAt(phase, func() *Process {
			f.Fill("two")
			f.Sums(sums, "two")
			return f.BeginCLI("restore", "--force", id)
		})
		if struck == journal.Closed {
			continue // an engine that is killed now leaves down what its policies say
		}
		met++
		victim.kill(f.Engine, client)
		client.Wait()
		last := f.WaitClosed()
		got := f.Generation(sums)
		f.t.Logf("struck at %s: ended %s, generation %s", struck, last.Outcome.Result, got)
		if decided := []journal.State{journal.Committed, journal.Starting, journal.Closed}; got != "one" && slices.Contains(decided, struck) {
			f.t.Errorf("struck at %s, when the new data was decided for, but generation %s is in place", struck, got)
		}
		f.CheckWhole(identity, policies)
		if now := f.Generation(sums); now != got {
			f.t.Errorf("generation %s was in place, and the containers found %s", got, now)
		}
	}
	if met == 0 {
		f.t.Errorf("no phase of %v was met", phases)
	}
	f.CLI("recover").OK(f.t)
}

// strikeAttempts is how often an operation is begun to meet one of its phases.
const strikeAttempts = 5

// strikeAt begins operations until one is seen in a phase, or a later one; that
// one is still at work when it is returned. Closed says that the phase was too
// short each time, and then nothing is at work.
func (f *Fleet) strikeAt(phase journal.State, begin func() *Process) (*Process, journal.State) {
	f.t.Helper()
	for range strikeAttempts {
		watch := f.Watch()
		client := begin()
		if struck := watch.Until(client.Ended, phase); struck != journal.Closed && struck != "" {
			return client, struck
		}
		client.Wait()
		f.WaitClosed()
	}
	f.t.Logf("%s was too short to be struck in, %d times", phase, strikeAttempts)
	return nil, journal.Closed
}

// An engine that is killed again while the agent that it has started anew waits
// for it: that agent, which the next boot ends, knows nothing of its operation
// yet, and is started once more all the same. The containers of a workload that
// ran are killed in their starts too, and run in the end.
func TestAnAgentIsStartedAgainHoweverOftenItsEngineIsKilled(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run("the workload "+map[bool]string{false: "is stopped", true: "runs"}[running], func(t *testing.T) {
			f := NewFleet(t)
			sums := map[string]string{}
			f.Fill("one")
			f.Sums(sums, "one")
			id := f.CLI("create", "--project", "fleet").OK(t).Line()
			f.Fill("two")
			f.Sums(sums, "two")
			identity, policies := f.Identity(f.containers...), f.Policies()
			if !running {
				f.Compose(f.dir, "stop").OK(t)
			}
			client := f.Hold(func() {}, "restore", "--force", id)
			f.Kill9()
			f.SignalAgents(unix.SIGKILL)
			client.Kill()
			client.Wait()
			for range 3 {
				f.BootAndKill()
			}
			f.Start()
			last := f.WaitClosed()
			if got := f.Generation(sums); got != "two" || last.Outcome.Result != journal.ResultRolledBack {
				t.Errorf("a restore that was killed while it staged ended %s, and generation %q is in place", last.Outcome.Result, got)
			}
			if running {
				f.CheckWhole(identity, policies)
			} else {
				f.CheckTidy(f.volumes...)
			}
		})
	}
}

// BootAndKill starts the engine, and kills it as soon as it has started an agent
// anew, or answers: an agent that it was killed in starting, and does not know
// of, may run already, and then no other is started (20.10: "id already in use").
func (e *Engine) BootAndKill() {
	e.t.Helper()
	was := e.Agents()
	e.Boot()
	WaitFor(e.t, "the engine starts the agent anew", time.Minute, func() string {
		now := slices.DeleteFunc(e.Agents(), func(pid int) bool { return slices.Contains(was, pid) })
		return unless(len(now) > 0 || e.Docker("version").Code == 0, "there is none, and it does not answer")
	})
	e.Kill9()
}

// Whatever is killed while a snapshot is taken: it is there whole or not at
// all, and what was paused runs on.
func TestACreateSurvivesKills(t *testing.T) {
	for _, victim := range withoutDriver {
		t.Run(victim.name, func(t *testing.T) {
			f := NewFleet(t)
			sums := map[string]string{}
			f.Fill("one")
			f.Sums(sums, "one")
			identity, policies := f.Identity(f.containers...), f.Policies()
			f.CLI("ls").OK(t) // lays out the journal
			client, struck := f.strikeAt(journal.Working, func() *Process {
				return f.BeginCLI("create", "--project", "fleet")
			})
			if struck == journal.Closed {
				return
			}
			victim.kill(f.Engine, client)
			client.Wait()
			f.WaitClosed()
			f.CheckWhole(identity, policies)
			snapshots := f.Snapshots()
			t.Logf("struck at %s: %d snapshots", struck, len(snapshots))
			for _, s := range snapshots {
				f.Fill("two")
				f.CLI("restore", "--force", s.ID).OK(t)
				if got := f.Generation(sums); got != "one" {
					t.Errorf("the snapshot has generation %q", got)
				}
			}
			f.CheckWhole(identity, policies)
		})
	}
}

// An undo that is interrupted ends as one that is not.
func TestAnUndoSurvivesKills(t *testing.T) {
	f := NewMixedFleet(t)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	f.Sums(sums, "two")
	f.CLI("restore", "--force", id).OK(t)
	identity, policies := f.Identity(f.containers...), f.Policies()
	for _, phase := range []journal.State{journal.Stopping, journal.Committed} {
		before := f.Generation(sums)
		watch := f.Watch()
		client := f.BeginCLI("undo", "--force")
		struck := watch.Until(client.Ended, phase)
		f.SignalAgents(unix.SIGKILL)
		client.Wait()
		last := f.WaitClosed()
		after := f.Generation(sums)
		if done := last.Outcome.Result == journal.ResultDone; done != (after != before) {
			t.Errorf("struck at %s: the undo ended %s, and generation %s became %s", struck, last.Outcome.Result, before, after)
		}
		f.CheckWhole(identity, policies)
	}
	f.CheckSeen("fleet-witness-1", len(f.volumes))
}

// While an operation is open its volumes are locked: a second one is refused
// with the holder's name, changes nothing, or waits when told to.
func TestASecondOperationIsRefusedOrWaits(t *testing.T) {
	f := NewFleet(t)
	f.Fill("one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	first := f.Hold(func() {}, "restore", "--force", id)
	f.CLI("create", "--project", "fleet").Exits(t, 11)
	f.CLI("create", "fleet_beta").Exits(t, 11)
	waiting := f.BeginCLI("create", "--lock-timeout", "2m", "--project", "fleet")
	WaitFor(t, "a second agent waits", 3*time.Minute, func() string {
		return unless(len(f.Agents()) == 2, "there are %d", len(f.Agents()))
	})
	f.SignalAgents(unix.SIGCONT)
	first.Wait().OK(t)
	waiting.Wait().OK(t)
}
