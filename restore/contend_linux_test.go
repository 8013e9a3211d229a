package restore_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// A hundred operations at once over overlapping sets of volumes, each with a
// domain of its own as a process has: creates, restores, undos, removals,
// verifications and exports, some of which wait for locks. All end. Each has
// done what it was asked for, or says what was in its way and has changed
// nothing. Nobody writes to a volume while it is read. In the end every volume
// and every snapshot has what the closed operations, one after another in the
// order of their records, would have left there, and all containers run.
func TestAHundredOperationsAtOnceLoseNothing(t *testing.T) {
	const operations = 100
	c := newContention(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for n := range operations {
		wg.Add(1)
		go func() {
			defer wg.Done()
			d, err := c.domain()
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			<-begin
			c.operate(ctx, d, n)
		}()
	}
	close(begin)
	wg.Wait()
	t.Log(c.ended)
	named, unnamed := 0, 0
	for what, n := range c.ended {
		if strings.HasSuffix(what, " locked") {
			named += n
		} else if strings.HasSuffix(what, " locked by nobody") {
			unnamed += n
		}
	}
	if unnamed > named {
		t.Errorf("%d were told who holds a lock, and %d were not", named, unnamed)
	}
	c.check(t.Context())
}

// contention is an engine whose volumes many operations want at once.
type contention struct {
	t     *testing.T
	e     *enginetest.Engine
	trees map[string]string // by volume
	// written is what the test had put into the volumes when it made a snapshot.
	written map[string]data

	mu    sync.Mutex
	ended map[string]int
}

// data is what volumes have, by their names.
type data map[string]string

func newContention(t *testing.T) *contention {
	c := &contention{t: t, e: enginetest.New(t), trees: map[string]string{}, written: map[string]data{}, ended: map[string]int{}}
	var names []string
	for i := range 12 {
		name := fmt.Sprintf("v%02d", i)
		names = append(names, name)
		c.trees[name] = c.e.AddVolume(t, restore.Volume{Name: name})
	}
	// Each volume has a container, and two neighbours have one in common.
	for i, name := range names {
		for id, mounts := range map[string][]restore.Mount{
			"own" + name:  {{Name: name, Target: "/data"}},
			"both" + name: {{Name: name, Target: "/data"}, {Name: names[(i+1)%len(names)], Target: "/more"}},
		} {
			c.e.AddContainer(t, restore.Container{ID: id, Name: id, State: "running", Image: "app", ImageID: "sha256:1",
				Policy: journal.Policy{Name: "always"}, Mounts: mounts}, nil)
		}
	}
	d, err := c.domain()
	assert.NilError(t, err)
	defer d.Close()
	random := rand.New(rand.NewPCG(1, 1))
	var made []string
	for i := range 5 {
		now := data{}
		for _, name := range names {
			now[name] = fmt.Sprint(name, " ", i)
			write(t, c.trees[name], now[name])
		}
		snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Volumes: some(random, names)})
		assert.NilError(t, err)
		made = append(made, snap.ID)
		c.written[snap.ID] = now
	}
	for _, id := range made[:3] {
		p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: id})
		assert.NilError(t, err)
		_, err = d.Execute(t.Context(), p)
		assert.NilError(t, err)
	}
	return c
}

// some chooses three to five names.
func some(random *rand.Rand, names []string) []string {
	names = slices.Clone(names)
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names[:3+random.IntN(3)]
}

func (c *contention) domain() (*restore.Domain, error) {
	return restore.Open(c.t.Context(), restore.Config{Engine: c.e, Root: c.e.StateRoot(), Proc: c.e.Proc(),
		Copiers: copyengine.Set{quiet{pack.New(), c}}})
}

// quiet is a copy engine that looks whether anybody writes to what it saves.
type quiet struct {
	copyengine.Engine
	*contention
}

func (q quiet) Save(ctx context.Context, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	q.checkQuiet(tree)
	defer q.checkQuiet(tree)
	return q.Engine.Save(ctx, tree, store, index, skipped, p)
}

func (c *contention) checkQuiet(tree *os.Root) {
	read, err := tree.Stat(".")
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, one := range c.e.All() {
		for _, m := range one.Mounts {
			seen := c.e.Sees(one.ID, m.Target)
			if now, _ := c.e.Get(one.ID); now.State == "running" && seen != nil && os.SameFile(seen, read) {
				c.t.Errorf("container %s runs on volume %s while that is read for a snapshot", one.Name, m.Name)
			}
		}
	}
}

// operate carries out operation number n, and judges its error.
func (c *contention) operate(ctx context.Context, d *restore.Domain, n int) {
	random := rand.New(rand.NewPCG(2, uint64(n)))
	var wait time.Duration
	if random.IntN(5) > 0 {
		wait = 10 * time.Minute
	}
	var names []string
	for name := range c.trees {
		names = append(names, name)
	}
	slices.Sort(names)
	all, err := d.List(ctx, "")
	if err != nil {
		c.t.Error(err)
		return
	}
	one := all[random.IntN(len(all))]
	id := journal.NewID()
	execute := func(p *plan.Plan, err error) error {
		if err == nil {
			_, err = d.Execute(ctx, p)
		}
		return err
	}
	var verb string
	switch {
	case n%20 < 5:
		verb = "create"
		_, err = d.Create(ctx, id, plan.Create{Volumes: some(random, names), LockTimeout: wait})
	case n%20 < 12:
		verb = "restore"
		err = execute(d.PlanRestore(ctx, id, plan.RestoreRequest{Snapshot: one.ID, LockTimeout: wait}))
	case n%20 < 15:
		verb = "undo"
		request := plan.UndoRequest{LockTimeout: wait}
		if one.Kind == snapshot.Safety {
			request.Operation = one.Operation
		}
		err = execute(d.PlanUndo(ctx, id, request))
	case n%20 < 16:
		verb = "rm"
		_, err = d.Remove(ctx, id, []string{one.ID}, "")
	case n%20 < 18:
		verb = "export"
		_, err = d.Export(ctx, one.ID, "", false, io.Discard)
	default:
		verb = "verify"
		var rows []plan.Verified
		rows, err = d.Verify(ctx, nil, "")
		for _, row := range rows {
			if row.Result != "ok" {
				c.t.Errorf("verify: %+v", row)
			}
		}
	}
	c.judge(d, verb, id, one, wait, err)
}

// A shared lock has the name of its last holder only, who may have let go; and
// who has just taken a lock needs a moment to sign it.
var namesHolder = regexp.MustCompile(`is held by (operation [0-9a-f]{12} \((create|restore|undo|rm),|restore|undo|verify|export)`)

// judge fails the test for an error that does not explain itself, or that
// should not be: who waits for locks is not told of them.
func (c *contention) judge(d *restore.Domain, verb, id string, one snapshot.Snapshot, wait time.Duration, err error) {
	f := fault.From(err)
	how := "done"
	switch {
	case f == nil:
	case f.Kind == fault.Locked:
		how = "locked"
		if !namesHolder.MatchString(f.Message) {
			how = "locked by nobody"
		}
		if wait > 0 && slices.Contains([]string{"create", "restore", "undo"}, verb) {
			c.t.Errorf("%s, which waits: %v", verb, err)
		}
	case f.Kind == fault.NotFound:
		how = "gone"
		if _, err := d.Inspect(c.t.Context(), []string{one.ID}, ""); err == nil && verb != "undo" {
			c.t.Errorf("%s did not find snapshot %s, which is there: %v", verb, one.ID, f)
		}
	case strings.Contains(f.Message, "changed since the plan was made"):
		how = "planned for something else"
	default:
		c.t.Errorf("%s: %v (%s)", verb, err, f.Kind)
	}
	if f != nil {
		if f.State != "nothing was changed" && f.Kind != fault.NotFound {
			c.t.Errorf("%s does not say that nothing was changed: %v", verb, err)
		}
		if _, known, err := d.Known(id); err != nil || known {
			c.t.Errorf("%s says that nothing was changed, and is on record: %v", verb, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[verb+" "+how]++
}

// check replays the journal and compares with what there is.
func (c *contention) check(ctx context.Context) {
	c.t.Helper()
	d, err := c.domain()
	assert.NilError(c.t, err)
	defer d.Close()
	volumes, snapshots := c.replay(ctx, d)
	for name, tree := range c.trees {
		assert.Check(c.t, is.Equal(read(c.t, tree), volumes[name]), "volume %s", name)
	}
	for _, one := range c.e.All() {
		assert.Check(c.t, is.Equal(one.State, "running"), one.Name)
		assert.Check(c.t, is.Equal(one.Policy.Name, "always"), one.Name)
	}
	all, err := d.List(ctx, "")
	assert.NilError(c.t, err)
	owned := map[string]bool{}
	for _, one := range all {
		for _, v := range one.Volumes {
			owned[v.Tree] = true
		}
	}
	for _, pattern := range []string{filepath.Join(c.e.DataRoot(), "volumes/*/.*"), filepath.Join(c.e.StateRoot(), "snapshots/.*")} {
		left, err := filepath.Glob(pattern)
		assert.NilError(c.t, err)
		for _, path := range left {
			assert.Check(c.t, owned[path], "%s was left behind", path)
		}
	}
	for _, one := range all {
		if one.Kind != snapshot.Safety { // it has no files that could be read
			p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: one.ID})
			assert.NilError(c.t, err)
			_, err = d.Execute(ctx, p)
			assert.NilError(c.t, err)
		}
		for _, v := range one.Volumes {
			at := v.Tree
			if at == "" {
				at = c.trees[v.Name]
			}
			assert.Check(c.t, is.Equal(read(c.t, at), snapshots[one.ID][v.Name]), "snapshot %s, volume %s", one.ID, v.Name)
		}
	}
}

// replay does in a model what the records say, in the order in which they were
// closed: what the volumes and snapshots have then. It fails the test where two
// operations had the same volume in hand at once.
func (c *contention) replay(ctx context.Context, d *restore.Domain) (volumes data, snapshots map[string]data) {
	c.t.Helper()
	ops, err := d.Status(ctx, "")
	assert.NilError(c.t, err)
	if len(ops) >= 100 {
		c.t.Fatal("the journal forgets what came before its last hundred operations")
	}
	slices.SortFunc(ops, func(a, b plan.Status) int { return a.Updated.Compare(b.Updated) })
	held := map[string]time.Time{} // until when a key was
	snapshots = map[string]data{}
	for _, op := range ops {
		if op.State != journal.Closed || op.Outcome.Result != journal.ResultDone {
			c.t.Errorf("%s %s is %s: %+v", op.Kind, op.ID, op.State, op.Outcome)
			continue
		}
		for _, key := range op.Locks {
			if strings.HasPrefix(key, "snapshot:") && op.Kind == journal.Restore {
				continue // shared
			}
			if op.Created.Before(held[key]) {
				c.t.Errorf("%s %s began to work on %s before the operation that was closed before it had ended", op.Kind, op.ID, key)
			}
			held[key] = op.Updated
		}
		switch op.Kind {
		case journal.Create:
			if at, ok := c.written[op.Snapshot]; ok {
				volumes = maps.Clone(at)
			}
			snapshots[op.Snapshot] = maps.Clone(volumes)
		case journal.Restore, journal.Undo:
			snapshots[op.Safety] = maps.Clone(volumes)
			for _, v := range op.Volumes {
				volumes[v.Name] = snapshots[op.Snapshot][v.Name]
			}
		}
	}
	return volumes, snapshots
}
