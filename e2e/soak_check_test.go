//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// kept is what a snapshot may have of the ledger: surely least, and no more
// than most but for one row.
type kept struct{ least, most []string }

// check looks at everything once a round is over, and remembers what the
// snapshots are that it has made.
func (s *soak) check(d deed, result Result) {
	s.t.Helper()
	s.WaitClosed()
	ops := s.news()
	s.runAgain(ops)
	s.WaitRows(5)
	s.CheckClerk()
	rows := s.CheckLedger()
	outcome := s.judge(d, ops, result, rows)
	s.ended[d.verb+" "+outcome]++
	s.CheckDatabaseIn("bank-db-1")
	if got := s.Identity(s.containers...); got != s.identity {
		s.t.Errorf("the containers are other ones:\n%s\nwere\n%s", got, s.identity)
	}
	if got := s.Policies(); got != s.policies {
		s.t.Errorf("the restart policies are\n%s\nwere\n%s", got, s.policies)
	}
	s.CLI("recover").OK(s.t)
	if len(s.news()) != len(ops) {
		s.t.Errorf("recover began an operation: there are %d, there were %d", len(s.news()), len(ops))
	}
	s.CheckTidy(s.copies...)
	for _, where := range []string{"snapshots/.*", "parked/*"} {
		left, err := filepath.Glob(filepath.Join(s.Data, "snaprestore", where))
		must(s.t, err)
		if len(left) > 0 {
			s.t.Errorf("left behind: %v", left)
		}
	}
	s.CLI("verify").OK(s.t)
	s.remember(d, result, rows)
	s.prune()
}

// news are the operations of this round.
func (s *soak) news() (ops []*journal.Operation) {
	s.t.Helper()
	for _, op := range s.Operations() {
		if !slices.Contains(s.operations, op.ID) {
			ops = append(ops, op)
		}
	}
	return ops
}

// disentangle has a person end the process over which the engine has started a
// container by its policy, after it was killed while it started it: it takes the
// end of each process for the end of the next, ends that, and so on (28.5). It
// reports whether there was one.
func (s *soak) disentangle(name string) bool {
	s.t.Helper()
	if !s.booted.After(s.began) {
		return false
	}
	id := s.Docker("inspect", "--format", "{{.Id}}", name).OK(s.t).Line()
	ends := func() int { return s.Logged(`failed to delete container from containerd" container=` + id) }
	before := ends()
	if before == s.told[id] {
		return false
	}
	// It takes the engine two seconds each time.
	for since := time.Now(); time.Since(since) < 4*time.Second; {
		if ends() > before {
			s.t.Logf("started and ended by the engine: %s", name)
			for _, pid := range processes("no helper of the engine", "/"+id) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			s.byHand++
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.told[id] = before
	return false
}

// clearedAfter is how long containerd may take to have what is left of a start
// that was killed away, before a person starts it again: five seconds mostly.
const clearedAfter = time.Minute

// runAgain waits until the containers run, and starts those that may be down.
func (s *soak) runAgain(ops []*journal.Operation) {
	s.t.Helper()
	began := time.Now()
	WaitFor(s.t, "the containers run", 3*time.Minute, func() string {
		missing := ""
		states := s.Docker(append([]string{"inspect", "--format", "{{.Name}} {{.State.Status}} {{.HostConfig.RestartPolicy.Name}} {{.State.Error}}"},
			s.containers...)...).OK(s.t).Line()
		for _, line := range strings.Split(states, "\n") {
			state := strings.SplitN(strings.TrimSpace(strings.TrimPrefix(line, "/"))+" ", " ", 4)
			switch {
			case state[1] == "running" || state[1] == "restarting":
				if s.disentangle(state[0]) || state[1] == "restarting" {
					missing = line
				}
			case state[1] == "exited" && len(s.hit) > 0 &&
				(strings.Contains(state[3], stuckFolder) || strings.Contains(state[3], "AlreadyExists: task")):
				// No operation is there to wait for it, or can mend it: a person
				// does what its error says.
				if time.Since(began) > clearedAfter {
					s.t.Logf("left down by containerd: %s", line)
					s.RestartContainerd()
				}
				missing = line
				s.Docker("start", state[0])
				s.byHand++
			case state[1] == "exited" && s.excused(state[0], state[2], strings.TrimSpace(state[3]), ops):
				s.t.Logf("left down: %s", line)
				s.Docker("start", state[0]).OK(s.t)
				s.byHand++
			default:
				missing = line
			}
		}
		return missing
	})
}

// excused tells that the engine has left a container down, and nothing of ours
// had to start it: no operation that has it on record ended after the boot. An
// engine that was killed starts none with the policy unless-stopped, or none,
// when it boots, and gives up a start that fails on what was killed with it: a
// call to the driver, or a start.
func (s *soak) excused(name, policy, failure string, ops []*journal.Operation) bool {
	booted := s.booted.After(s.began)
	for _, op := range ops {
		if (!booted || op.Updated.After(s.booted)) && slices.ContainsFunc(op.Containers, func(c journal.Container) bool { return c.Name == name }) {
			return false
		}
	}
	if failure != "" {
		return strings.Contains(failure, "/VolumeDriver.") && len(s.hit) > 0 ||
			strings.Contains(failure, "container with given ID already exists") && booted
	}
	return booted && (policy == "unless-stopped" || policy == "no")
}

// judge fails the test unless the ledger is that of before or that of the
// snapshot, whichever the outcome says, and gives the outcome.
func (s *soak) judge(d deed, ops []*journal.Operation, result Result, rows []string) (outcome string) {
	s.t.Helper()
	outcome = "without a record"
	if len(ops) > 1 {
		s.t.Errorf("one command has made %d operations", len(ops))
	}
	if len(ops) > 0 {
		outcome = ops[0].Outcome.Result
	}
	if len(s.hit) == 0 && result.Code != 0 {
		s.t.Errorf("nobody was killed\n%s", result)
	}
	if result.Code == 0 && outcome != journal.ResultDone && len(d.states) > 0 {
		s.t.Errorf("the client was told that it is done, and the record says %s", outcome)
	}
	replaced := d.data != nil && (outcome == journal.ResultDone || outcome == journal.ResultNotStarted)
	switch {
	case !replaced && !begins(rows, s.before):
		s.t.Fatalf("%s ended %s, and the ledger of %d rows does not go on where that of %d had come to", d.verb, outcome, len(rows), len(s.before))
	case replaced:
		s.matches(d, rows)
	}
	return outcome
}

// matches fails the test unless the ledger is that of the snapshot, gone on.
func (s *soak) matches(d deed, rows []string) {
	s.t.Helper()
	if !begins(rows, d.data.least) {
		s.t.Fatalf("the snapshot has surely %d rows, and the ledger of %d does not begin with them", len(d.data.least), len(rows))
	}
	same := len(d.data.least)
	for same < min(len(rows), len(d.data.most)) && rows[same] == d.data.most[same] {
		same++
	}
	had := map[string]bool{}
	for _, row := range s.before {
		had[row] = true
	}
	for _, row := range rows[min(len(rows), same+1):] {
		if had[row] {
			s.t.Fatalf("the snapshot has at most %d rows, and the restored ledger has %q from after it", len(d.data.most), row)
		}
	}
}

// remember notes what the snapshots have, and forgets those that are gone.
func (s *soak) remember(d deed, result Result, rows []string) {
	s.t.Helper()
	if d.verb == "export" {
		s.archive = nil
		if result.Code == 0 {
			data := s.kept[d.args[len(d.args)-1]]
			s.archive = &data
		} else {
			must(s.t, os.RemoveAll(s.archiveFile()))
		}
	}
	now := map[string]kept{}
	for _, one := range s.Snapshots() {
		known, ok := s.kept[one.ID]
		switch {
		case ok:
		case one.Kind == snapshot.Safety:
			for _, v := range one.Volumes {
				if v.Name == "bank_files" {
					known.least = ledgerAt(s.t, v.Tree)
					known.most = known.least
				}
			}
			if !begins(known.least, s.before) {
				s.t.Errorf("the replaced data has %d rows, not beginning with the %d of before", len(known.least), len(s.before))
			}
		case one.Kind == snapshot.Imported:
			known = *s.archive
		default:
			known = kept{s.before, rows}
		}
		now[one.ID] = known
	}
	for id := range s.kept {
		if _, there := now[id]; !there && d.verb != "rm" && d.verb != "undo" {
			s.t.Errorf("snapshot %s is gone after a %s", id, d.verb)
		}
	}
	if _, there := now[result.Line()]; result.Code == 0 && (d.verb == "create" || d.verb == "import") && !there {
		s.t.Errorf("%s has told of a snapshot that is not there\n%s", d.verb, result)
	}
	s.kept = now
}

// soakKeeps is how many snapshots stay, so that the disk stays as it is.
const soakKeeps = 6

// prune removes the oldest snapshots.
func (s *soak) prune() {
	s.t.Helper()
	var old []string
	for i, one := range s.Snapshots() {
		if i >= soakKeeps {
			old = append(old, one.ID)
			delete(s.kept, one.ID)
		}
	}
	if len(old) > 0 {
		s.CLI(append([]string{"rm"}, old...)...).OK(s.t)
	}
}
