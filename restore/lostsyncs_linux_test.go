package restore_test

import (
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// syncs collects, over all scenarios, which syncs are needed.
type syncs struct {
	mu     sync.Mutex
	needed map[string]bool // by class
}

func (s *syncs) note(class string, needed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.needed[class] = s.needed[class] || needed
}

// class names a sync by the function that makes it and what it brings to the
// disk; "" where that is nothing.
func (l *loss) class(skip int) (class string) {
	d := newDisk(l.w, l.first)
	for _, h := range l.record[:skip] {
		if h.step != nil {
			assert.NilError(l.t, d.step(*h.step))
		}
	}
	h := l.record[skip]
	var names []string
	for _, c := range d.covered(*h.step) {
		if h.step.Op == durable.OpSyncFS {
			names = []string{"everything"}
			break
		}
		name := l.w.normal(c.name)
		if l.w.bound != "" { // whose names have the source's in them
			base := filepath.Base(l.w.bound)
			name = strings.ReplaceAll(strings.ReplaceAll(name, "."+base+".", "."), base, "_data")
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return ""
	}
	if renamed := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return strings.HasPrefix(name, "create .tmp-")
	}); len(renamed) > 0 {
		names = renamed
	}
	slices.Sort(names)
	return fmt.Sprintf("%s by %s of %s", h.step.Op, h.from, strings.Join(slices.Compact(names), ", "))
}

// without leaves out each sync in turn.
func (l *loss) without(all *syncs) {
	for i := l.from; i < len(l.record); i++ {
		if !l.record[i].syncs() {
			continue
		}
		if class := l.class(i); class != "" {
			all.note(class, l.noticed(i))
		}
	}
}

// ofRecovery does the same with recoveries: the operation dies after each of
// its changes, with what it had not synced, and the power is lost while what
// comes after it recovers.
func (l *loss) ofRecovery(all *syncs, crashes []crash) {
	l.t.Helper()
	for _, c := range crashes {
		l.w.put(c.state)
		r := &loss{walker: l.walker, t: l.t, first: l.first, from: c.after, results: l.results}
		r.record = slices.Clone(l.record[:c.after])
		assert.NilError(l.t, l.w.start(l.recorder(&r.record)).do(recoverAll))
		r.agrees(l.w.take())
		r.end = l.outcome("a recovery")
		r.sound()
		r.without(all)
	}
}

// crash is the state after a number of things that happened.
type crash struct {
	state
	after int
}

// Whatever of the unsynced writes a power loss takes, recovery leads to one of
// the two ends; and without any one of the syncs it would not, unless the
// table says why it is made all the same.
func TestEveryPowerLossIsRecoveredFromAndEverySyncIsNeeded(t *testing.T) {
	longWalk(t)
	all := &syncs{needed: map[string]bool{}}
	t.Run("scenarios", func(t *testing.T) {
		two := scenarios()[0]
		two.name, two.volumes, two.deep = "restore of 2 volumes", 2, true
		for _, sc := range append(scenarios(), two) {
			t.Run(sc.name, func(t *testing.T) {
				if sc.opaque || sc.fails != "" {
					t.Skip("more is written than the steps that the model knows, or the end is none of the two")
				}
				t.Parallel()
				k := newWalker(t, sc)
				l := &loss{walker: k, t: t, first: k.first, end: "new", results: map[string]string{}}
				k.w.put(k.first)
				var crashes []crash
				record := k.recorder(&l.record)
				assert.NilError(t, k.w.start(func(p point) error {
					err := record(p)
					if sc.deep && p.done && p.changes() {
						crashes = append(crashes, crash{k.w.take(), len(l.record)})
					}
					return err
				}).do(k.call))
				l.agrees(k.w.take())
				l.sound()
				whole := len(l.results)
				l.without(all)
				t.Logf("%d steps, %d images of the whole, %d with those that lack a sync", len(l.record), whole, len(l.results))
				if sc.deep {
					l.ofRecovery(all, crashes)
					t.Logf("%d images with those of recoveries", len(l.results))
				}
			})
		}
	})
	noticed := 0
	for _, class := range slices.Sorted(maps.Keys(all.needed)) {
		if all.needed[class] {
			noticed++
		}
		reason, redundant := spared(class)
		switch {
		case all.needed[class] && redundant:
			t.Errorf("%s: is needed, and the table says: %s", class, reason)
		case !all.needed[class] && !redundant:
			t.Errorf("%s: nothing notices when it is left out", class)
		}
	}
	t.Logf("%d of %d kinds of syncs are noticed when left out, the others are in the table", noticed, len(all.needed))
}

// spared looks a class up in the table.
func spared(class string) (reason string, is bool) {
	for _, row := range spare {
		if ok, err := path.Match(row.class, class); ok && err == nil {
			return row.reason, true
		}
	}
	return "", false
}

// spare are the syncs without which every check passes, and why they are made.
var spare = []struct{ class, reason string }{
	{"fsync by restore/snapshot.([*]Draft).Commit of content of snapshot.json", "the sync of the file system that follows covers it"},
	{"syncdir by journal.([*]Log).Write of rename .tmp-THIS.json THIS.json (stopping)", "STAGING is recovered from alike: containers that ran are started"},
	{"syncdir by journal.([*]Log).Write of rename .tmp-THIS.json THIS.json (prepared)", "STOPPING goes back from fences that are up, too"},
	{"syncdir by journal.([*]Log).Write of rename .tmp-THIS.json THIS.json (aborting)", "STAGING and STOPPING lead to the same end"},
	{"syncdir by journal.([*]Log).Write of rename .tmp-THIS.json THIS.json (starting)", "a decision is carried out again, to the same end"},
	{"syncdir by journal.([*]Log).Write of rename .tmp-THIS.json THIS.json (closed)", "what is still open is ended again, to the same end"},
	{"syncdir by journal.Open of *", "a takeover syncs before it reads; lock files hold nothing that lasts"},
	{"syncdir by restore.([*]Domain).openRoot of *", "directories are new only before the first snapshot, which syncs the file system; the file format is made again"},
	{"syncdir by restore.CheckLayout of *", "the file is made again"},
	{"syncdir by restore.apply of symlink *", "a recovery from PREPARED makes a fence that is missing"},
	{"syncdir by restore.apply of removeall *", "going back looks again, and syncs first"},
	{"syncdir by restore.apply of unlink .snaprestore-THIS.fence", "going back looks again, and syncs first"},
	{"syncdir by restore.bring of mkdir *", "it is removed again"},
	{"syncdir by restore.bring of symlink *", "it is made or removed again"},
	{"syncdir by restore/snapshot.([*]Store).Settle of mkdir .*.partial", "it is made or removed again"},
	{"syncdir by restore/snapshot.([*]Store).remove of removeall *", "the next sweep removes it"},
}
