package enginetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
)

func shop(t *testing.T) (*Engine, string) {
	t.Helper()
	e := New(t)
	tree := e.AddVolume(t, restore.Volume{Name: "shop_db"})
	e.AddContainer(t, restore.Container{
		ID: "c1", Name: "shop-db-1", State: "running", HealthCheck: true,
		Policy: journal.Policy{Name: "always"},
		Mounts: []restore.Mount{{Name: "shop_db", Target: "/data"}},
	}, nil)
	return e, tree
}

func TestStartRefusesADanglingVolume(t *testing.T) {
	e, tree := shop(t)
	ctx := context.Background()
	assert.NilError(t, e.Stop(ctx, "c1", nil))
	assert.NilError(t, os.Rename(tree, tree+".away"))
	assert.NilError(t, os.Symlink("unfinished", tree))

	assert.Check(t, cmp.ErrorContains(e.Start(ctx, "c1"), "unfinished"))
	failed, err := e.Reboot()
	assert.NilError(t, err)
	assert.Check(t, cmp.ErrorContains(failed["c1"], "unfinished"))
	c, _ := e.Get("c1")
	assert.Equal(t, c.State, "exited")

	assert.NilError(t, os.Remove(tree))
	assert.NilError(t, os.Rename(tree+".away", tree))
	assert.NilError(t, e.Start(ctx, "c1"))
}

func TestARunningContainerKeepsTheTreeItStartedWith(t *testing.T) {
	e, tree := shop(t)
	before, err := os.Stat(tree)
	assert.NilError(t, err)
	assert.NilError(t, os.Rename(tree, tree+".old"))
	assert.NilError(t, os.Mkdir(tree, 0o755))
	assert.Check(t, os.SameFile(e.Sees("c1", "/data"), before))

	ctx := context.Background()
	assert.NilError(t, e.Stop(ctx, "c1", nil))
	assert.Check(t, e.Sees("c1", "/data") == nil)
	assert.NilError(t, e.Start(ctx, "c1"))
	now, err := os.Stat(tree)
	assert.NilError(t, err)
	assert.Check(t, os.SameFile(e.Sees("c1", "/data"), now))
	assert.Equal(t, e.Starts("c1"), 1)
}

func TestListsTellNoMoreThanTheEngineDoes(t *testing.T) {
	e, _ := shop(t)
	list, err := e.Containers(context.Background())
	assert.NilError(t, err)
	assert.Equal(t, list[0].Policy, journal.Policy{})
	assert.Equal(t, list[0].HealthCheck, false)
	full, err := e.Container(context.Background(), "c1")
	assert.NilError(t, err)
	assert.Equal(t, full.Policy.Name, "always")
	assert.Equal(t, full.Health, "healthy")
}

func TestHookFailsACallBeforeOrAfterItsEffect(t *testing.T) {
	broken := errors.New("broken")
	for _, done := range []bool{false, true} {
		e, _ := shop(t)
		e.Hook = func(c Call) error {
			if c.Method == "Stop" && c.Done == done {
				return broken
			}
			return nil
		}
		assert.ErrorIs(t, e.Stop(context.Background(), "c1", nil), broken)
		c, _ := e.Get("c1")
		assert.Equal(t, c.Up(), !done)
	}
}

func TestAfterACrashNothingIsDone(t *testing.T) {
	e, _ := shop(t)
	ctx := context.Background()
	e.Hook = func(c Call) error {
		if c.Method == "Pause" && c.Done {
			e.Crash()
		}
		return nil
	}
	assert.ErrorIs(t, e.Pause(ctx, "c1"), ErrCrashed)
	assert.ErrorIs(t, e.Unpause(ctx, "c1"), ErrCrashed)
	c, _ := e.Get("c1")
	assert.Equal(t, c.State, "paused")
	e.Revive()
	assert.NilError(t, e.Unpause(ctx, "c1"))
	assert.DeepEqual(t, e.Calls(), []Call{
		{Method: "Pause", On: "c1", Done: true}, {Method: "Unpause", On: "c1", Done: true},
	})
}

func TestRebootStartsWhatItsPolicySays(t *testing.T) {
	e := New(t)
	for _, c := range []struct {
		id, policy, state string
		byHand            bool
	}{
		{"always", "always", "exited", true},
		{"unless", "unless-stopped", "running", false},
		{"unless-stopped", "unless-stopped", "running", true},
		{"no", "no", "running", false},
		{"failing", "on-failure", "running", false},
		{"never-ran", "always", "created", false},
	} {
		e.AddContainer(t, restore.Container{
			ID: c.id, Name: c.id, State: c.state, Policy: journal.Policy{Name: c.policy},
		}, nil)
		if c.byHand && c.state == "running" {
			assert.NilError(t, e.Stop(context.Background(), c.id, nil))
		}
	}
	_, err := e.Reboot()
	assert.NilError(t, err)
	var up []string
	for _, c := range e.All() {
		if c.Up() {
			up = append(up, c.ID)
		}
	}
	assert.DeepEqual(t, up, []string{"always", "unless", "failing"})
}

func TestStrayDirectoriesBecomeVolumesAtReboot(t *testing.T) {
	e, _ := shop(t)
	assert.NilError(t, os.MkdirAll(filepath.Join(e.DataRoot(), "volumes", "stray"), 0o700))
	_, err := e.Reboot()
	assert.NilError(t, err)
	all, err := e.Volumes(context.Background())
	assert.NilError(t, err)
	assert.Equal(t, len(all), 2)
	_, err = e.Volume(context.Background(), "none")
	assert.ErrorIs(t, err, restore.ErrNoSuch)
}

func TestLocalVolumesWithoutADirectoryAreGoneAtReboot(t *testing.T) {
	e, _ := shop(t)
	tree := e.AddVolume(t, restore.Volume{Name: "lost"})
	assert.NilError(t, os.RemoveAll(filepath.Dir(tree)))
	_, err := e.Reboot()
	assert.NilError(t, err)
	_, err = e.Volume(context.Background(), "lost")
	assert.ErrorIs(t, err, restore.ErrNoSuch)
	_, err = e.Volume(context.Background(), "shop_db")
	assert.NilError(t, err)
}

func TestAVolumeInUseIsNotRemoved(t *testing.T) {
	e, tree := shop(t)
	ctx := context.Background()
	assert.ErrorContains(t, e.RemoveVolume(ctx, "shop_db"), "in use")
	e.Drop("c1")
	assert.NilError(t, e.RemoveVolume(ctx, "shop_db"))
	_, err := os.Lstat(filepath.Dir(tree))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
