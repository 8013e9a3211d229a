//go:build linux

package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

func TestPathsOfTheSystemAreNotAllowed(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	for _, path := range []string{"/", "/etc", "/etc/app", "/usr/local/data", "/var", "/srv", "relative", "/srv/../etc", "/srv/data/",
		e.DataRoot(), filepath.Join(e.DataRoot(), "volumes"), filepath.Dir(e.DataRoot())} {
		_, err := d.Allow(t.Context(), []string{"/srv/fine", path})
		assert.Assert(t, err != nil, path)
		list, err := d.Allowed()
		assert.NilError(t, err)
		assert.Equal(t, len(list), 0, path)
	}
}

// Whoever dies while paths are allowed, or whatever the disk refuses, leaves
// the list of before or the new one, and the next who adds to it goes on.
func TestAllowedPathsSurviveWhateverHappensToTheirList(t *testing.T) {
	e := lone(t)
	open(t, e) // makes the state root
	attempt := func(fail durable.Failpoint, prefix string) error {
		d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}, Fail: fail})
		if err != nil {
			return err
		}
		defer d.Close()
		_, err = d.Allow(t.Context(), []string{prefix})
		return err
	}
	list := func() []string {
		d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}})
		assert.NilError(t, err)
		defer d.Close()
		list, err := d.Allowed()
		assert.NilError(t, err)
		return list
	}
	want := list()
	for _, cause := range []error{enginetest.ErrCrashed, unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT} {
		for point := 1; ; point++ {
			prefix := fmt.Sprintf("/srv/%s/%03d", strings.ReplaceAll(cause.Error(), " ", "-"), point)
			n := 0
			err := attempt(func(durable.Step) error {
				if n++; n == point || (n > point && errors.Is(cause, enginetest.ErrCrashed)) {
					return cause
				}
				return nil
			}, prefix)
			now := list()
			grown := append(slices.Clone(want), prefix)
			sort.Strings(grown)
			switch {
			case err == nil:
				assert.DeepEqual(t, now, grown)
			case !slices.Equal(now, want):
				assert.DeepEqual(t, now, grown)
			}
			want = now
			if n < point {
				assert.NilError(t, err)
				assert.Assert(t, point > 3, "%d points", point)
				break
			}
		}
	}
}

// Many who allow a path at once lose none.
func TestPathsAllowedAtOnceAreAllKept(t *testing.T) {
	e := lone(t)
	open(t, e)
	const many = 20
	errs := make(chan error, many)
	for i := range many {
		d := open(t, e)
		go func() {
			_, err := d.Allow(t.Context(), []string{fmt.Sprintf("/srv/%d", i)})
			errs <- err
		}()
	}
	for range many {
		assert.NilError(t, <-errs)
	}
	list, err := open(t, e).Allowed()
	assert.NilError(t, err)
	assert.Equal(t, len(list), many, "%v", list)
}

// host makes a directory of the host beside the engine's, and a container that
// binds some sources below it.
func host(t *testing.T, sources ...string) (prefix string, c restore.Container) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	prefix = filepath.Join(root, "srv")
	assert.NilError(t, os.Mkdir(prefix, 0o755))
	c = restore.Container{ID: "b1", Name: "shop-bind-1", State: "running",
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "bind"}}
	for _, s := range sources {
		c.Mounts = append(c.Mounts, restore.Mount{Type: "bind", Source: filepath.Join(prefix, s), Target: "/" + s})
	}
	return prefix, c
}

func TestBindMountsAreRestoredWithTheVolumes(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	prefix, c := host(t, "one", "two")
	for _, name := range []string{"one", "two"} {
		trees[name] = filepath.Join(prefix, name)
		assert.NilError(t, os.Mkdir(trees[name], 0o750))
		write(t, trees[name], "old")
	}
	e.AddContainer(t, c, nil)
	_, err := d.Allow(t.Context(), []string{prefix})
	assert.NilError(t, err)
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	assert.Equal(t, len(snap.Volumes), 4)
	assert.Equal(t, len(snap.Skipped), 0)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	p, err := d.PlanRestore(t.Context(), journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID})
	assert.NilError(t, err)
	_, err = d.Execute(t.Context(), p)
	assert.NilError(t, err)
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "old")
	}
	p, err = d.PlanUndo(t.Context(), journal.NewID(), plan.UndoRequest{})
	assert.NilError(t, err)
	_, err = d.Execute(t.Context(), p)
	assert.NilError(t, err)
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "new")
	}
	checkRunning(t, e)
}

func TestBindMountsThatCannotBeExchangedAreSkippedWithTheirReason(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	prefix, c := host(t, "link", "file", "missing", "through/inside")
	c.State = "exited"
	c.Mounts = append(c.Mounts,
		restore.Mount{Type: "bind", Source: prefix, Target: "/prefix"},
		restore.Mount{Type: "bind", Source: "/etc/hosts", Target: "/hosts"},
		restore.Mount{Type: "bind", Source: t.TempDir(), Target: "/outside"})
	outside := t.TempDir()
	assert.NilError(t, os.Symlink(outside, filepath.Join(prefix, "link")))
	assert.NilError(t, os.Symlink(outside, filepath.Join(prefix, "through")))
	assert.NilError(t, os.Mkdir(filepath.Join(outside, "inside"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(prefix, "file"), nil, 0o644))
	e.AddContainer(t, c, nil)
	_, err := d.Allow(t.Context(), []string{prefix})
	assert.NilError(t, err)
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	assert.Equal(t, len(snap.Volumes), 2)
	for target, reason := range map[string]string{
		"/link": "symbolic link", "/file": "not a directory", "/missing": "does not exist",
		"/through/inside": "symbolic link on the way", "/prefix": "allowed prefix itself",
		"/hosts": "outside every allowed path", "/outside": "outside every allowed path",
	} {
		found := false
		for _, k := range snap.Skipped {
			if strings.HasSuffix(k.What, ":"+target) {
				found = true
				assert.Assert(t, strings.Contains(k.Reason, reason), "%s: %s", target, k.Reason)
			}
		}
		assert.Assert(t, found, target)
	}
}

func TestAnAgentThatDoesNotSeeABindMountAsksForIt(t *testing.T) {
	e, _ := shop(t)
	prefix, c := host(t, "one")
	assert.NilError(t, os.Mkdir(filepath.Join(prefix, "one"), 0o750))
	e.AddContainer(t, c, nil)
	d := open(t, e)
	_, err := d.Allow(t.Context(), []string{prefix})
	assert.NilError(t, err)
	blind, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}, Mounts: []string{}})
	assert.NilError(t, err)
	defer blind.Close()
	_, err = blind.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.DeepEqual(t, fault.From(err).Mounts, []string{prefix})
}

// Whatever allow.json holds, it is damaged and says so, or allows directories
// by their shortest names.
func FuzzAllowed(f *testing.F) {
	e := enginetest.New(f)
	d, err := restore.Open(f.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}})
	assert.NilError(f, err)
	f.Cleanup(func() { d.Close() })
	for _, text := range []string{
		`{"prefixes":["/srv/data"]}`, `{"prefixes":null}`, `{}`, `null`, ``, `[]`, `{"prefixes":["/"]}`, `{"prefixes":["srv"]}`,
		`{"prefixes":["/srv/../etc"]}`, `{"prefixes":"/srv/data"}`, `{"PREFIXES":["/srv/data","/srv/data/"]}`, `{"prefixes":["/srv/a"]}{}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		assert.NilError(t, os.WriteFile(filepath.Join(e.StateRoot(), "allow.json"), data, 0o600))
		list, err := d.Allowed()
		if err != nil {
			failed := fault.From(err)
			assert.Assert(t, failed.Kind == fault.Corrupt && failed.State != "" && failed.Hint != "", "%v", err)
			return
		}
		for _, prefix := range list {
			assert.Assert(t, filepath.IsAbs(prefix) && filepath.Clean(prefix) == prefix && prefix != "/", "%q", prefix)
		}
	})
}
