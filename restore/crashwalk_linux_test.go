package restore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// walker checks a scenario's states.
type walker struct {
	scenario
	t     tester
	w     *world
	first state
	// seen are the states that were checked already.
	seen map[string]bool
	todo []found
	// ends are the different states after recovery.
	ends map[string]bool
}

// found is a state, and how it came about.
type found struct {
	state
	how string
}

func newWalker(t *testing.T, sc scenario) *walker {
	t.Helper()
	w, first := sc.begin(t)
	return &walker{scenario: sc, t: t, w: w, first: first, seen: map[string]bool{}, ends: map[string]bool{}}
}

// find notes a state that is not known yet.
func (k *walker) find(s state, how string) {
	if digest := k.w.digest(s); !k.seen[digest] {
		k.seen[digest] = true
		k.todo = append(k.todo, found{s, how})
	}
}

// Every operation is interrupted before and after each of its steps. From each
// state that this leaves, and from each state that an interrupted recovery
// leaves, and so on until there is no new one (a few hundred), no container
// starts on a mixed set, and recovery leads to one of the ends.
func TestEveryCrashIsRecoveredFromAndEveryCrashOfRecovery(t *testing.T) {
	longWalk(t)
	for _, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			k := newWalker(t, sc)
			points := k.record(k.call)
			for _, key := range points {
				k.w.put(k.first)
				reached := false
				// What a dead process returns is told to nobody.
				_ = k.w.start(func(p point) error {
					if p.key == key {
						reached = true
						return errDead
					}
					return nil
				}).do(k.call)
				assert.Assert(t, reached, "the run did not come to %s", key)
				k.find(k.w.take(), "a crash at "+key)
			}
			crashes := len(k.todo)
			k.explore()
			t.Logf("%d points, %d states after a crash, %d with those of interrupted recoveries, %d ends", len(points), crashes, len(k.seen), len(k.ends))
		})
	}
}

// record runs the operation undisturbed, checks that it ends as it should, and
// gives its points.
func (k *walker) record(call func(context.Context, *restore.Domain) error) (points []string) {
	k.t.Helper()
	k.w.put(k.first)
	err := k.w.start(func(p point) error {
		points = append(points, p.key)
		return nil
	}).do(call)
	want := "new"
	if k.fails != "" {
		assert.Assert(k.t, fault.Is(err, k.fails), "%v", err)
		want = "undone"
	} else {
		assert.NilError(k.t, err)
	}
	if k.same {
		want = "same"
	}
	assert.Equal(k.t, k.outcome("an undisturbed run"), want)
	k.settled("an undisturbed run", k.containers(k.first))
	return points
}

// explore checks all states on the list, and puts on it those that recovering
// from them goes through.
func (k *walker) explore() {
	k.t.Helper()
	for len(k.todo) > 0 {
		s := k.todo[0]
		k.todo = k.todo[1:]
		k.neverMixed(s)
		for _, rebooted := range []bool{false, true} {
			k.w.put(s.state)
			k.w.e.Hook = nil
			how := s.how
			if rebooted {
				how += ", and the engine was restarted"
				_, err := k.w.e.Reboot()
				assert.NilError(k.t, err)
			}
			k.recovered(how, k.lastState(), k.wanted())
		}
		if k.t.Failed() {
			return
		}
	}
}

// wanted is what the containers must be after recovery: those that an open
// operation has on record as they were when it began, all others as they are.
func (k *walker) wanted() []string {
	now := k.containers(k.w.take())
	for _, op := range k.open() {
		for i, was := range k.containers(k.first) {
			if op.Find(strings.Fields(was)[0]) != nil {
				now[i] = was
			}
		}
	}
	return now
}

// recovered recovers, checks where that ends, and notes the states on the way.
func (k *walker) recovered(how string, record journal.State, want []string) {
	k.t.Helper()
	p := k.w.start(func(p point) error {
		if p.changes() && p.done {
			k.find(k.w.take(), how+"; recovery was interrupted after "+p.key)
		}
		return nil
	})
	var out plan.Recovered
	err := p.do(func(ctx context.Context, d *restore.Domain) (err error) {
		out, err = d.Recover(ctx, "")
		return err
	})
	assert.NilError(k.t, err, "after %s (%s): recovery: %+v", how, record, out)
	got := k.outcome(how)
	switch record {
	case journal.Staging, journal.Stopping, journal.Aborting:
		assert.Equal(k.t, got, "old", "after %s (%s)", how, record)
	case journal.Prepared, journal.Committed:
		assert.Assert(k.t, got == "new" || k.fails != "" && got == "undone", "after %s (%s): %s", how, record, got)
	}
	k.settled(how, want)

	end := k.w.take()
	assert.NilError(k.t, k.w.run(func(ctx context.Context, d *restore.Domain) error {
		out, err := d.Recover(ctx, "")
		assert.Equal(k.t, len(out.Operations), 0, "after %s: the second recovery found something", how)
		return err
	}))
	if again := k.w.describe(k.w.take()); again != k.w.describe(end) {
		assert.Equal(k.t, again, k.w.describe(end), "after %s: the second recovery changed something", how)
	}
	if digest := k.w.digest(end); !k.ends[digest] {
		k.ends[digest] = true
		assert.NilError(k.t, k.w.run(func(ctx context.Context, d *restore.Domain) error {
			_, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
			return err
		}), "after %s: the next operation", how)
	}
}

// open reads the records of the operations that are not closed.
func (k *walker) open() (all []*journal.Operation) {
	k.t.Helper()
	names, err := filepath.Glob(filepath.Join(k.w.e.StateRoot(), "journal", "*.json"))
	assert.NilError(k.t, err)
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), ".") {
			continue
		}
		data, err := os.ReadFile(name)
		assert.NilError(k.t, err)
		op, _, err := journal.Decode(data)
		assert.NilError(k.t, err)
		if op.State != journal.Closed {
			all = append(all, op)
		}
	}
	return all
}

// lastState is the state of the scenario's operation, where it is open.
func (k *walker) lastState() journal.State {
	for _, op := range k.open() {
		if op.ID == idThis {
			return op.State
		}
	}
	return ""
}

// outcome tells whether the world is as before the operation or as after it,
// in all its volumes and snapshots; anything else fails the test.
func (k *walker) outcome(how string) string {
	k.t.Helper()
	var words []string
	for name, tree := range k.w.trees() {
		word, err := content(tree)
		assert.NilError(k.t, err, "after %s: volume %s", how, name)
		words = append(words, word)
	}
	slices.Sort(words)
	words = slices.Compact(words)
	assert.Equal(k.t, len(words), 1, "after %s: mixed: %v", how, words)
	names := []string{}
	assert.NilError(k.t, k.w.run(func(ctx context.Context, d *restore.Domain) error {
		all, err := d.List(ctx, "")
		for _, s := range all {
			names = append(names, k.w.normal(s.Name))
		}
		return err
	}))
	slices.Sort(names)
	volumes := len(k.w.trees())
	if k.creates && volumes == k.volumes-1 && slices.Equal(names, k.had) && words[0] == k.was {
		return "old"
	}
	is := func(word string, snapshots []string) bool {
		return words[0] == word && slices.Equal(names, append([]string{}, snapshots...)) && volumes == k.volumes
	}
	switch {
	case k.same && is(k.was, k.had):
		return "same"
	case is(k.becomes, k.gets):
		return "new"
	case k.undoes != nil && is(k.was, k.undoes):
		return "undone"
	case !k.creates && is(k.was, k.had):
		return "old"
	}
	assert.Assert(k.t, false, "after %s: %d volumes hold %q and the snapshots are %q", how, volumes, words[0], names)
	return ""
}

// containers tells the state and the policy of every container of the workload.
func (k *walker) containers(s state) (all []string) {
	for _, c := range s.engine.Containers() {
		if strings.HasPrefix(c.Name, trial) {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s:%d", c.ID, c.State, c.Policy.Name, c.Policy.Retries))
	}
	return all
}

// settled checks that nothing is left of an operation but its result.
func (k *walker) settled(how string, want []string) {
	k.t.Helper()
	if got := k.containers(k.w.take()); !slices.Equal(got, want) {
		k.t.Log("after", how)
		assert.DeepEqual(k.t, got, want)
	}
	for _, c := range k.w.e.All() {
		for _, m := range c.Mounts {
			if !c.Up() {
				continue
			}
			live, err := os.Stat(m.Source)
			assert.NilError(k.t, err)
			assert.Assert(k.t, os.SameFile(live, k.w.e.Sees(c.ID, m.Target)),
				"after %s: container %s runs on a tree of %s that is not the live one", how, c.Name, m.Name)
		}
	}
	k.trialsAreGone(how)
	kept := map[string]bool{}
	assert.NilError(k.t, k.w.run(func(ctx context.Context, d *restore.Domain) error {
		all, err := d.List(ctx, "")
		if err != nil {
			return err
		}
		for _, s := range all {
			for _, v := range s.Volumes {
				if v.Tree == "" {
					continue
				}
				kept[v.Tree] = true
				if k.creates && v.Name == fmt.Sprintf("shop_v%d", k.volumes-1) {
					below, err := os.ReadDir(v.Tree)
					assert.NilError(k.t, err)
					assert.Equal(k.t, len(below), 0)
					continue
				}
				word, err := content(v.Tree)
				assert.NilError(k.t, err, "after %s: snapshot %s", how, s.Name)
				assert.Assert(k.t, word == "first" || word == "second")
			}
		}
		_, err = d.Verify(ctx, nil, "")
		return err
	}), "after %s", how)
	for name, tree := range k.w.trees() {
		entries, err := os.ReadDir(filepath.Dir(tree))
		assert.NilError(k.t, err)
		for _, e := range entries {
			path := filepath.Join(filepath.Dir(tree), e.Name())
			assert.Assert(k.t, path == tree || kept[path], "after %s: volume %s still has %s", how, name, e.Name())
		}
	}
	for dir, plain := range map[string]func(string) bool{
		"journal":   func(name string) bool { return name == "lock" || journal.ValidID(strings.TrimSuffix(name, ".json")) },
		"snapshots": journal.ValidID,
		".":         func(name string) bool { return slices.Contains(k.rooted(), name) },
	} {
		entries, err := os.ReadDir(filepath.Join(k.w.e.StateRoot(), dir))
		assert.NilError(k.t, err)
		for _, e := range entries {
			assert.Assert(k.t, plain(e.Name()), "after %s: %s still has %s", how, dir, e.Name())
		}
	}
}

// rooted is what a state root has in it, once an operation is over.
func (k *walker) rooted() []string {
	if k.kinds {
		return []string{"format", "journal", "snapshots", "volumes", "allow.json"}
	}
	return []string{"format", "journal", "snapshots"}
}

// trialsAreGone checks that nothing is left of a drill, or, where it ended as
// it should and was told to keep it, all of it and nothing that runs.
func (k *walker) trialsAreGone(how string) {
	k.t.Helper()
	left := k.w.trials()
	data, err := os.ReadFile(filepath.Join(k.w.e.StateRoot(), "journal", idThis+".json"))
	if err == nil {
		op, _, err := journal.Decode(data)
		assert.NilError(k.t, err)
		if op.State == journal.Closed && op.Kind == journal.Drill && op.Volumes[0].Keep {
			assert.Equal(k.t, len(left), len(op.Volumes)+len(op.Containers)+1, "after %s: %v", how, left)
			for _, one := range left {
				assert.Assert(k.t, !strings.HasSuffix(one, " running"), "after %s: %s", how, one)
			}
			return
		}
	}
	assert.Equal(k.t, len(left), 0, "after %s: %v", how, left)
}

// neverMixed starts every container that can be started in a state, as its
// engine and its user would, and checks that what runs then, together, sees
// only old or only new data.
func (k *walker) neverMixed(s found) {
	k.t.Helper()
	for _, rebooted := range []bool{false, true} {
		k.w.put(s.state)
		k.w.e.Hook = nil
		if rebooted {
			_, err := k.w.e.Reboot()
			assert.NilError(k.t, err)
		}
		for _, c := range k.w.e.All() {
			k.w.e.Start(context.Background(), c.ID) // what cannot start is in no danger
		}
		now, err := k.w.e.Checkpoint()
		assert.NilError(k.t, err)
		seen := map[string]string{}
		for _, tree := range now.Mounted() {
			if strings.Contains(tree, "/"+trial) {
				continue // it is nobody's data
			}
			word, err := content(tree)
			assert.NilError(k.t, err, "after %s: a container runs on %s", s.how, tree)
			seen[word] = tree
		}
		assert.Assert(k.t, len(seen) <= 1, "after %s (engine restarted: %t): containers run on %v", s.how, rebooted, seen)
	}
}
