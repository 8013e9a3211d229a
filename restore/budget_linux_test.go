package restore_test

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// watching is the engine pack, and notes at which priority it works, and when.
type watching struct {
	copyengine.Incremental
	mu    *sync.Mutex
	notes *[]string
	still func() bool // the workload stands still
	usual int         // the priority that this process was given
}

func (w watching) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	switch {
	case err != nil:
		what += ": " + err.Error()
	case raw < w.usual:
		what += " at low priority"
	}
	if w.still() {
		what += " while all stands still"
	}
	*w.notes = append(*w.notes, what)
}

func (w watching) SaveSince(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	w.note("save")
	return w.Incremental.SaveSince(ctx, base, settled, tree, store, index, skipped, p)
}

func (w watching) Ahead(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	w.note("copy ahead")
	return w.Incremental.Ahead(ctx, base, settled, tree, store, index, skipped, p)
}

func (w watching) Capture(ctx context.Context, base *copyengine.Base, settled time.Time, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Captured, error) {
	w.note("capture")
	c, err := w.Incremental.Capture(ctx, base, settled, tree, store, index, skipped, p)
	return watchedCapture{c, w}, err
}

type watchedCapture struct {
	copyengine.Captured
	w watching
}

func (c watchedCapture) Finish(ctx context.Context) (copyengine.Content, error) {
	c.w.note("finish")
	return c.Captured.Finish(ctx)
}

func (w watching) Load(ctx context.Context, store *os.Root, c copyengine.Content, tree *os.Root, p copyengine.Progress) error {
	w.note("load")
	return w.Incremental.Load(ctx, store, c, tree, p)
}

// What is copied while the workload runs is copied at low priority and within
// the limit; what it has to wait for is not.
func TestCopyingHoldsBackWhileTheWorkloadRunsAndOnlyThen(t *testing.T) {
	e, trees := shop(t)
	for _, tree := range trees {
		assert.NilError(t, os.WriteFile(tree+"/more", make([]byte, 300<<10), 0o600))
	}
	usual, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	assert.NilError(t, err)
	var notes []string
	engine := watching{pack.New().(copyengine.Incremental), &sync.Mutex{}, &notes, func() bool {
		for _, c := range e.All() {
			if c.State == "running" {
				return false
			}
		}
		return true
	}, usual}
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{engine}})
	assert.NilError(t, err)
	defer d.Close()
	// A tenth of a second's bytes come at once, the rest in half a second.
	const limit, least = 1 << 20, 450 * time.Millisecond
	// noted is what happened since the last time, each once, in its order.
	noted := func() []string {
		defer func() { notes = nil }()
		return slices.Compact(notes)
	}
	limited := func(do func()) {
		t.Helper()
		began := time.Now()
		do()
		assert.Assert(t, time.Since(began) >= least, "%s", time.Since(began))
	}
	var id string
	limited(func() {
		s, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop", LimitRate: limit})
		assert.NilError(t, err)
		id = s.ID
	})
	assert.DeepEqual(t, noted(), []string{"copy ahead at low priority", "capture while all stands still", "finish at low priority"})
	_, err = d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop", Consistency: "live", LimitRate: limit})
	assert.NilError(t, err)
	assert.DeepEqual(t, noted(), []string{"save at low priority"})
	limited(func() {
		p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: id, LimitRate: limit})
		assert.NilError(t, err)
		_, err = d.Execute(t.Context(), p)
		assert.NilError(t, err)
	})
	assert.DeepEqual(t, noted(), []string{"load at low priority"})
}
