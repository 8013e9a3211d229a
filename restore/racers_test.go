package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// restoreOld takes a snapshot of the shop's old data, writes new, and gives
// the plan to restore it.
func restoreOld(t *testing.T, d *restore.Domain, trees map[string]string) *plan.Plan {
	t.Helper()
	_, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: "latest", Project: "shop"})
	assert.NilError(t, err)
	return p
}

// A container's restart policy starts it in the midst of a restore: the start
// waits in a volume's Mount for the restore, and a stop waits in the engine
// behind the start. The restore does not wait for that stop, and the container
// runs when it is done.
func TestAStopBehindAStartThatWaitsForTheRestoreIsNotWaitedFor(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	p := restoreOld(t, d, trees)
	var stops, hung atomic.Int32
	e.Hook = func(c enginetest.Call) error {
		switch {
		case c.Method == "Stop" && c.On == "c1" && c.Done:
			stops.Add(1)
		case c.Method == "Containers" && !c.Done && stops.Load() == 1 && hung.Load() == 0:
			e.Change(t, "c1", func(c *restore.Container) { c.State = "restarting" })
		case c.Method == "Stop" && c.On == "c1" && stops.Load() == 1:
			hung.Add(1)
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				if now, err := os.ReadFile(filepath.Join(trees["shop_db"], "content")); err == nil && string(now) == "old" {
					return nil // the volume is open again, with the restored data
				}
			}
			return errors.New("the volume stays shut")
		}
		return nil
	}
	restored, err := d.Execute(t.Context(), p)
	assert.NilError(t, err)
	assert.Equal(t, restored.Result, journal.ResultDone)
	assert.Equal(t, hung.Load(), int32(1), "no stop came behind a start")
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "old")
	}
	checkRunning(t, e)
}

// An engine may say no to a new restart policy of a container that ends at
// this very moment, and keep the old one (20.10): that ends no restore, and
// the policies are as before afterwards.
func TestAContainerThatEndsAsItsPolicyIsSetEndsNoRestore(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	p := restoreOld(t, d, trees)
	refused := map[string]int{}
	e.Hook = func(c enginetest.Call) error {
		if c.Method != "SetPolicy" || c.Done || refused[c.Arg] == 3 {
			return nil
		}
		refused[c.Arg]++
		return errors.New("cannot update container: process not found")
	}
	restored, err := d.Execute(t.Context(), p)
	assert.NilError(t, err)
	assert.Equal(t, restored.Result, journal.ResultDone)
	assert.DeepEqual(t, refused, map[string]int{"no": 3, "always": 3})
	checkRunning(t, e)
}

// A volume driver that dies in the midst of a start, and an engine that was
// killed in one, cost the workload nothing but time: what was not started is
// started again.
func TestAStartThatTheVolumeDriverDidNotAnswerIsRepeated(t *testing.T) {
	for _, cause := range []error{restore.ErrDriver, restore.ErrRemains} {
		t.Run(cause.Error(), func(t *testing.T) { startsAgain(t, cause) })
	}
}

func startsAgain(t *testing.T, cause error) {
	t.Helper()
	e, trees := shop(t)
	d := open(t, e)
	p := restoreOld(t, d, trees)
	failed := map[string]int{}
	e.Hook = func(c enginetest.Call) error {
		if c.Method != "Start" || c.Done || failed[c.On] == 2 {
			return nil
		}
		failed[c.On]++
		return fmt.Errorf("start: %w", cause)
	}
	restored, err := d.Execute(t.Context(), p)
	assert.NilError(t, err)
	assert.Equal(t, restored.Result, journal.ResultDone)
	assert.Assert(t, len(failed) > 0)
	for container, times := range failed {
		assert.Equal(t, times, 2, container)
	}
	checkRunning(t, e)
}
