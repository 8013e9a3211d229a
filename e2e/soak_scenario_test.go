//go:build e2e && linux

package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// soakMinutes is how long TestSoak goes on where SNAPRESTORE_SOAK_MINUTES does
// not say it.
const soakMinutes = 5

// A database under load is saved, restored, undone and so on, while at random
// moments the CLI, the agent, the driver, dockerd or everything is killed, now
// and then once more in the recovery from that. After each round:
//
//   - every operation has ended, without anybody's help;
//   - all volumes have the ledger of one moment: that of before, goes on, or
//     that of the snapshot, as the operation's outcome says; no row that was
//     acknowledged is missing; no container ever started on anything else;
//   - the database's own checks pass, and pgbench's sums agree;
//   - the same containers run, with their policies. Down may only be what an
//     engine leaves down by itself: see excused;
//   - nothing is left beside a volume or among the snapshots;
//   - all snapshots verify.
//
// SNAPRESTORE_SOAK_SEED repeats a run: what is done in a round follows from the
// seed, its number, and the snapshots there are by then.
func TestSoak(t *testing.T) {
	minutes, err := strconv.ParseFloat(environment("SNAPRESTORE_SOAK_MINUTES", fmt.Sprint(soakMinutes)), 64)
	must(t, err)
	seed, err := strconv.ParseUint(environment("SNAPRESTORE_SOAK_SEED", fmt.Sprint(rand.Uint32())), 10, 64)
	must(t, err)
	s := &soak{Bank: NewBank(t), kept: map[string]kept{}, struck: map[string]int{}, ended: map[string]int{}, told: map[string]int{}}
	s.identity, s.policies = s.Identity(s.containers...), s.Policies()
	s.before = s.Ledger(s.copies[len(s.copies)-1])
	first := deed{verb: "create", args: []string{"--project", "bank"}}
	s.remember(first, s.CLI(append([]string{first.verb}, first.args...)...).OK(t), s.CheckLedger())
	began, number := time.Now(), 0
	t.Cleanup(func() {
		s.figures(seed, time.Since(began), number)
		if t.Failed() {
			t.Logf("failed in round %d; the same again: SNAPRESTORE_SOAK_SEED=%d", number, seed)
		}
	})
	for deadline := began.Add(time.Duration(minutes * float64(time.Minute))); time.Now().Before(deadline) && !t.Failed(); {
		number++
		s.random = rand.New(rand.NewPCG(seed, uint64(number)))
		s.round(number)
	}
}

// soak is a bank that is struck again and again.
type soak struct {
	*Bank
	identity, policies string
	random             *rand.Rand
	kept               map[string]kept // by the snapshot's id
	archive            *kept           // what is in archiveFile; nil for no such file

	// Of the round that is on:
	before     []string // the ledger before it
	operations []string // ids of those that were there before it
	began      time.Time
	hit        []string // whom it killed

	struck map[string]int // kills, by victim and phase
	ended  map[string]int // rounds, by operation and outcome
	told   map[string]int // what the log of the engine had of each container, and is explained
	byHand int            // starts of containers that an engine had left down
}

// deed is an operation that a round begins.
type deed struct {
	verb   string
	args   []string
	states []journal.State // of its record; none where it has none
	span   time.Duration   // about how long it takes
	data   *kept           // what it puts into the volumes; nil where it replaces nothing
}

func (s *soak) archiveFile() string { return filepath.Join(s.Dir, "archive") }

// choose chooses an operation.
func (s *soak) choose() deed {
	working := []journal.State{journal.Working}
	create := deed{verb: "create", args: []string{"--project", "bank"}, states: working, span: 2500 * time.Millisecond}
	snapshots := s.Snapshots()
	restoreOf := func(one snapshot.Snapshot) deed {
		data := s.kept[one.ID]
		return deed{verb: "restore", args: []string{"--force", one.ID}, states: phases, span: 5 * time.Second, data: &data}
	}
	if len(snapshots) == 0 {
		return create
	}
	one := snapshots[s.random.IntN(len(snapshots))]
	safety := slices.IndexFunc(snapshots, func(one snapshot.Snapshot) bool { return one.Kind == snapshot.Safety })
	switch n := s.random.IntN(100); {
	case n < 30:
		return restoreOf(snapshots[0])
	case n < 50:
		return restoreOf(one)
	case n < 70 && safety >= 0:
		data := s.kept[snapshots[safety].ID]
		return deed{verb: "undo", args: []string{"--force"}, states: phases, span: 4 * time.Second, data: &data}
	case n < 76 && len(snapshots) > 1:
		return deed{verb: "rm", args: []string{one.ID}, states: working, span: time.Second}
	case n < 81 && one.Kind != snapshot.Safety:
		return deed{verb: "export", args: []string{"--output", s.archiveFile(), one.ID}, span: 1500 * time.Millisecond}
	case n < 86 && s.archive != nil:
		return deed{verb: "import", args: []string{s.archiveFile()}, states: working, span: 2 * time.Second}
	}
	return create
}

// round does one thing, kills somebody meanwhile, and checks what becomes of it.
func (s *soak) round(number int) {
	s.t.Helper()
	s.WaitRows(10)
	s.before = s.Ledger(s.copies[len(s.copies)-1])
	s.operations = nil
	for _, op := range s.Operations() {
		s.operations = append(s.operations, op.ID)
	}
	s.began, s.hit = time.Now(), nil
	d := s.choose()
	s.t.Logf("round %d: %s %s", number, d.verb, strings.Join(d.args, " "))

	watch := s.Watch()
	defer watch.Close()
	client := s.BeginCLI(append([]string{d.verb}, d.args...)...)
	if len(d.states) > 0 && s.random.IntN(3) > 0 {
		watch.Until(client.Ended, d.states[s.random.IntN(len(d.states))])
		client.WaitUntil(time.Duration(s.random.Int64N(int64(200 * time.Millisecond))))
	} else {
		client.WaitUntil(time.Duration(s.random.Int64N(int64(d.span))))
	}
	s.strike(client, watch)
	if len(s.hit) > 0 && s.random.IntN(4) == 0 { // while that is recovered from
		client.WaitUntil(time.Duration(s.random.Int64N(int64(3 * time.Second))))
		s.strike(client, watch)
	}
	result := client.Wait()
	s.t.Logf("struck %v: %s", s.hit, result)
	s.check(d, result)
}

// strike kills somebody, or nobody.
func (s *soak) strike(client *Process, watch *Watch) {
	s.t.Helper()
	choice := s.random.IntN(len(victims) + 1)
	if choice == len(victims) {
		return
	}
	phase := "no record"
	if states := watch.states(); len(states) > 0 {
		phase = string(states[len(states)-1])
	}
	victim := victims[choice]
	s.t.Logf("kill %s, the operation is %s", victim.name, phase)
	victim.kill(s.Engine, client)
	s.hit = append(s.hit, victim.name)
	s.struck[victim.name+", "+phase]++
}

// used is how much of the engine's disk is, in bytes.
func (s *soak) used() uint64 {
	var st unix.Statfs_t
	must(s.t, unix.Statfs(s.Data, &st))
	return (st.Blocks - st.Bfree) * uint64(st.Bsize)
}

// figures prints what was gone through.
func (s *soak) figures(seed uint64, took time.Duration, rounds int) {
	kills := 0
	for _, n := range s.struck {
		kills += n
	}
	s.t.Logf("soak: %d rounds and %d kills in %.0f min, seed %d; %d containers started by hand that an engine had left down; %d MB of disk in use",
		rounds, kills, took.Minutes(), seed, s.byHand, s.used()>>20)
	for _, table := range []struct {
		of     string
		counts map[string]int
	}{{"killed", s.struck}, {"ended", s.ended}} {
		var lines []string
		for what, n := range table.counts {
			lines = append(lines, fmt.Sprintf("%4d %s", n, what))
		}
		slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[5:], b[5:]) })
		s.t.Logf("%s:\n%s", table.of, strings.Join(lines, "\n"))
	}
}
