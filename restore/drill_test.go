//go:build linux

package restore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// drilled is a shop whose snapshot is tried out. Whatever a test does, the
// workload must be left alone, and nothing of a drill may stay.
type drilled struct {
	t     *testing.T
	e     *enginetest.Engine
	d     *restore.Domain
	trees map[string]string
	snap  snapshot.Snapshot

	mu    sync.Mutex
	said  []string
	calls []enginetest.Call // those that change something
	hook  func(enginetest.Call) error
}

func newDrilled(t *testing.T, copiers ...copyengine.Engine) *drilled {
	t.Helper()
	e, trees := shop(t)
	k := &drilled{t: t, e: e, trees: trees}
	if len(copiers) == 0 {
		copiers = copyengine.Set{pack.New()}
	}
	var err error
	k.d, err = restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copiers,
		Events: func(e event.Event) {
			k.mu.Lock()
			defer k.mu.Unlock()
			if e.Type == event.Warning {
				k.said = append(k.said, e.Message)
			}
		}})
	assert.NilError(t, err)
	t.Cleanup(func() { k.d.Close() })
	return k
}

// create takes the snapshot, and changes the data after it.
func (k *drilled) create() {
	k.t.Helper()
	var err error
	k.snap, err = k.d.Create(k.t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(k.t, err)
	for _, tree := range k.trees {
		write(k.t, tree, "new")
	}
	k.e.Hook = func(c enginetest.Call) error {
		k.mu.Lock()
		if c.Changes() && !c.Done {
			k.calls = append(k.calls, c)
		}
		k.mu.Unlock()
		if k.hook != nil {
			return k.hook(c)
		}
		return nil
	}
}

// drill tries the snapshot out and checks that the workload was left alone.
func (k *drilled) drill(ctx context.Context, r plan.DrillRequest) (plan.Drilled, error) {
	k.t.Helper()
	if r.Snapshot == "" {
		r.Snapshot = k.snap.ID
	}
	r.Steady = max(r.Steady, time.Nanosecond)
	out, err := k.d.Drill(ctx, journal.NewID(), r)
	if err != nil {
		f := fault.From(err)
		assert.Assert(k.t, f.State != "" && f.Hint != "", "%+v", f)
	}
	k.untouched()
	return out, err
}

func (k *drilled) untouched() {
	k.t.Helper()
	for _, c := range k.calls {
		assert.Assert(k.t, strings.HasPrefix(c.On, trial), "a drill called %s", c)
	}
	for _, tree := range k.trees {
		assert.Equal(k.t, read(k.t, tree), "new")
	}
	for _, c := range k.e.All() {
		if !strings.HasPrefix(c.Name, trial) {
			assert.Equal(k.t, c.State, "running", c.Name)
		}
	}
}

// gone checks that nothing is there of drills, and that none is open.
func (k *drilled) gone() {
	k.t.Helper()
	w := &world{t: k.t, e: k.e}
	assert.Check(k.t, is.Len(w.trials(), 0))
	status, err := k.d.Status(context.Background(), "")
	assert.NilError(k.t, err)
	for _, s := range status {
		assert.Equal(k.t, s.State, journal.Closed, "%s %s", s.Kind, s.ID)
	}
}

// Every volume of a snapshot, however it is stored, is restored and compared,
// and what was made for it is removed.
func TestADrillRestoresAndComparesEveryVolumeAndRemovesIt(t *testing.T) {
	for name, engine := range map[string]copyengine.Engine{"archive": archive.New(), "pack": pack.New()} {
		t.Run(name, func(t *testing.T) { drillsEveryKind(t, engine) })
	}
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run("reflink on "+kind, func(t *testing.T) {
			t.Setenv("TMPDIR", conformance.FileSystem(t, kind))
			t.Run("there", func(t *testing.T) { drillsEveryKind(t, reflink.New()) })
			if kind == "btrfs" {
				t.Run("volumes of the driver as a whole", func(t *testing.T) { drillsEveryKind(t, btrfs.New(), reflink.New()) })
			}
		})
	}
}

func drillsEveryKind(t *testing.T, engines ...copyengine.Engine) {
	k := newDrilled(t, engines...)
	for _, tree := range k.trees {
		if os.Geteuid() == 0 {
			nasty := filepath.Join(tree, "nasty")
			assert.NilError(t, os.Mkdir(nasty, 0o755))
			conformance.Nasty(t, nasty)
		}
	}
	// A bind mount and volumes of the driver take part like any other.
	prefix, c := host(t, "bound")
	bound := filepath.Join(prefix, "bound")
	assert.NilError(t, os.Mkdir(bound, 0o750))
	write(t, bound, "old")
	k.trees[bound] = bound
	k.trees["shop_served"] = k.e.AddVolume(t, restore.Volume{Name: "shop_served", Driver: "snaprestore", Labels: map[string]string{
		"com.docker.compose.project": "shop", "com.docker.compose.volume": "served",
	}})
	write(t, k.trees["shop_served"], "old")
	k.e.AddContainer(t, c, nil)
	_, err := k.d.Allow(t.Context(), []string{prefix})
	assert.NilError(t, err)
	k.create()
	assert.Equal(t, len(k.snap.Volumes), 4)

	made := 0
	k.hook = func(c enginetest.Call) error {
		if c.Method != "RemoveVolume" || c.Done {
			return nil
		}
		made++
		v := filepath.Join(k.e.DataRoot(), "volumes", c.On, "_data")
		if got := read(t, v); got != "old" {
			t.Errorf("volume %s has %q", c.On, got)
		}
		return nil
	}
	out, err := k.drill(t.Context(), plan.DrillRequest{})
	assert.NilError(t, err)
	assert.Equal(t, made, 4)
	assert.Equal(t, len(out.Volumes), 4)
	for i, v := range out.Volumes {
		assert.Equal(t, v.Volume, k.snap.Volumes[i].Name)
		assert.Equal(t, v.Bytes, k.snap.Volumes[i].Bytes)
		assert.Equal(t, v.Files, k.snap.Volumes[i].Files)
	}
	k.gone()

	// One volume by its name in the compose file.
	k.hook = nil
	out, err = k.drill(t.Context(), plan.DrillRequest{Volumes: []string{"files"}})
	assert.NilError(t, err)
	assert.Equal(t, len(out.Volumes), 1)
	assert.Equal(t, out.Volumes[0].Volume, "shop_files")
	_, err = k.drill(t.Context(), plan.DrillRequest{Volumes: []string{"nope"}})
	assert.Assert(t, fault.Is(err, fault.NotFound), "%v", err)
	k.gone()
}

func TestADrillOfASafetySnapshot(t *testing.T) {
	k := newDrilled(t)
	k.create()
	p, err := k.d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: k.snap.ID})
	assert.NilError(t, err)
	restored, err := k.d.Execute(t.Context(), p)
	assert.NilError(t, err)
	for _, tree := range k.trees {
		write(t, tree, "new")
	}
	k.calls = nil
	out, err := k.drill(t.Context(), plan.DrillRequest{Snapshot: restored.Safety, Start: true})
	assert.NilError(t, err)
	assert.Equal(t, len(out.Volumes), 2)
	assert.Equal(t, len(out.Containers), 2)
	k.gone()
}

func TestADrillFindsADamagedSnapshot(t *testing.T) {
	k := newDrilled(t)
	k.create()
	k.e.Hook = nil
	file := filepath.Join(k.e.StateRoot(), "snapshots", k.snap.ID, k.snap.Volumes[1].File)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	data[20] ^= 1
	assert.NilError(t, os.WriteFile(file, data, 0o600))
	_, err = k.drill(t.Context(), plan.DrillRequest{Start: true})
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.ErrorContains(t, err, "shop_files")
	k.gone()
}

// careless is a copy engine that restores something else than was stored.
type careless struct{ copyengine.Engine }

func (c careless) Load(ctx context.Context, store *os.Root, content copyengine.Content, tree *os.Root, p copyengine.Progress) error {
	if err := c.Engine.Load(ctx, store, content, tree, p); err != nil {
		return err
	}
	return tree.Chmod("content", 0o600)
}

func TestADrillFindsATreeThatIsNotAsTheSnapshotSays(t *testing.T) {
	k := newDrilled(t, careless{archive.New()})
	k.create()
	_, err := k.drill(t.Context(), plan.DrillRequest{})
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.ErrorContains(t, err, `"content" has the mode 0600, not 0640`)
	k.gone()
}

// A drill that is called off, at whatever moment, takes back what it has made.
func TestADrillThatIsCalledOffAnywhereLeavesNothing(t *testing.T) {
	k := newDrilled(t)
	k.create()
	for n := 1; ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		k.hook = func(enginetest.Call) error {
			k.mu.Lock()
			defer k.mu.Unlock()
			if calls++; calls == n {
				cancel()
			}
			return nil
		}
		_, err := k.drill(ctx, plan.DrillRequest{Start: true})
		cancel()
		if calls < n {
			assert.NilError(t, err)
			break
		}
		if err != nil {
			assert.Assert(t, errors.Is(err, context.Canceled), "at call %d: %v", n, err)
		}
		k.gone()
	}
}

// An engine that was at work on a call of an agent that died may end it after
// recovery: the next one removes what came of it, and nothing that was kept.
func TestWhatComesLateOfADrillIsRemovedByTheNextRecovery(t *testing.T) {
	k := newDrilled(t)
	k.create()
	keeping, err := k.drill(t.Context(), plan.DrillRequest{Keep: true})
	assert.NilError(t, err)
	over, err := k.drill(t.Context(), plan.DrillRequest{Start: true})
	assert.NilError(t, err)
	unknown := trial + "0123456789ab-0-shop_db"
	for _, name := range []string{over.Volumes[0].Trial, unknown} {
		k.e.AddVolume(t, restore.Volume{Name: name})
	}
	k.e.AddContainer(t, restore.Container{ID: "late", Name: over.Containers[0].Trial,
		Mounts: []restore.Mount{{Name: over.Volumes[0].Trial, Target: "/data"}}}, nil)
	all, err := k.d.Status(t.Context(), over.Operation)
	assert.NilError(t, err)
	assert.NilError(t, k.e.CreateNetwork(t.Context(), all[0].Network, nil))
	_, err = k.d.Recover(t.Context(), "")
	assert.NilError(t, err)
	left := []string{"volume " + unknown}
	for _, v := range keeping.Volumes {
		left = append(left, "volume "+v.Trial)
	}
	slices.Sort(left)
	assert.DeepEqual(t, (&world{t: t, e: k.e}).trials(), left)
	k.untouched()
}

// A snapshot is not removed under a drill, nor, before recovery, under one that
// died; others read it meanwhile.
func TestASnapshotIsNotRemovedUnderADrill(t *testing.T) {
	k := newDrilled(t)
	k.create()
	tried := false
	k.hook = func(c enginetest.Call) error {
		if c.Method != "CreateVolume" || tried {
			return nil
		}
		tried = true
		other := openReal(t, k.e)
		_, err := other.Remove(t.Context(), journal.NewID(), []string{k.snap.ID}, "")
		assert.Check(t, fault.Is(err, fault.Locked), "%v", err)
		rows, err := other.Verify(t.Context(), []string{k.snap.ID}, "")
		assert.Check(t, err)
		assert.Check(t, is.Len(rows, 1))
		return nil
	}
	_, err := k.drill(t.Context(), plan.DrillRequest{})
	assert.NilError(t, err)
	assert.Assert(t, tried)

	k.hook = func(c enginetest.Call) error {
		if c.Method == "RemoveVolume" {
			k.e.Crash()
		}
		return nil
	}
	_, err = k.drill(t.Context(), plan.DrillRequest{})
	assert.Assert(t, err != nil)
	k.e.Revive()
	k.hook = nil
	_, err = k.d.Remove(t.Context(), journal.NewID(), []string{k.snap.ID}, "")
	assert.Assert(t, fault.Is(err, fault.Interrupted), "%v", err)
	out, err := k.d.Recover(t.Context(), "")
	assert.NilError(t, err)
	assert.Equal(t, len(out.Operations), 1)
	assert.Equal(t, out.Operations[0].Kind, journal.Drill)
	k.gone()
	_, err = k.d.Remove(t.Context(), journal.NewID(), []string{k.snap.ID}, "")
	assert.NilError(t, err)
}

// What a snapshot was last drilled with is shown with it: of the whole of it,
// and only what succeeded.
func TestTheLastDrillThatSucceededIsRemembered(t *testing.T) {
	k := newDrilled(t)
	k.create()
	last := func() *plan.LastDrill {
		list, err := k.d.Inspect(t.Context(), []string{k.snap.ID}, "")
		assert.NilError(t, err)
		return list[0].Drilled
	}
	assert.Assert(t, last() == nil)
	_, err := k.drill(t.Context(), plan.DrillRequest{Volumes: []string{"db"}})
	assert.NilError(t, err)
	assert.Assert(t, last() == nil, "that was a part of it")
	first, err := k.drill(t.Context(), plan.DrillRequest{})
	assert.NilError(t, err)
	assert.Equal(t, last().Operation, first.Operation)
	assert.Equal(t, last().Started, false)
	second, err := k.drill(t.Context(), plan.DrillRequest{Start: true})
	assert.NilError(t, err)
	assert.Equal(t, last().Operation, second.Operation)
	assert.Equal(t, last().Started, true)
	k.hook = func(c enginetest.Call) error {
		if c.Method == "CreateTwin" {
			return errors.New("no")
		}
		return nil
	}
	_, err = k.drill(t.Context(), plan.DrillRequest{Start: true})
	assert.Assert(t, fault.Is(err, fault.NotStarted), "%v", err)
	assert.Equal(t, last().Operation, second.Operation)
	k.gone()
}
