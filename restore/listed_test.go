//go:build linux

package restore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Who can read the state root sees what the agent lists, and changes nothing.
func TestTheStateRootIsListedWithoutAnEngine(t *testing.T) {
	w := newWorld(t)
	root := w.e.StateRoot()
	_, err := restore.Listed(root, "")
	assert.ErrorContains(t, err, "open state root")
	_, err = os.Stat(root)
	assert.Assert(t, os.IsNotExist(err), "it was made")

	w.workload(t, 1, false, nil)
	var want []snapshot.Snapshot
	for range 2 {
		assert.NilError(t, w.run(func(ctx context.Context, d *restore.Domain) error {
			_, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop", Consistency: snapshot.Live})
			if err == nil {
				want, err = d.List(ctx, "")
			}
			return err
		}))
	}
	before := w.describe(w.take())
	for project, n := range map[string]int{"": 2, "shop": 2, "other": 0} {
		got, err := restore.Listed(root, project)
		assert.NilError(t, err)
		assert.Assert(t, got != nil)
		assert.DeepEqual(t, got, want[:n])
	}

	damaged := filepath.Join(root, "snapshots", want[0].ID, snapshot.File)
	whole, err := os.ReadFile(damaged)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(damaged, whole[1:], 0o600))
	got, err := restore.Listed(root, "")
	assert.ErrorContains(t, err, want[0].ID)
	assert.DeepEqual(t, got, want[1:])
	assert.NilError(t, os.WriteFile(damaged, whole, 0o600))

	format := filepath.Join(root, "format")
	was, err := os.ReadFile(format)
	assert.NilError(t, err)
	for _, layout := range []string{`{"layout":1000000}`, `{"layout":0}`, `x`} {
		assert.NilError(t, os.WriteFile(format, []byte(layout), 0o600))
		_, err = restore.Listed(root, "")
		assert.ErrorContains(t, err, "not a layout")
	}
	assert.NilError(t, os.WriteFile(format, was, 0o600))
	assert.Equal(t, w.describe(w.take()), before)
}
