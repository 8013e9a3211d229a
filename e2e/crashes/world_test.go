//go:build e2e && linux

package crashes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// The ids that the scenarios use.
const (
	idFirst   = "aaaaaaaaaaa1" // the snapshot of the first data
	idEarlier = "aaaaaaaaaaa2" // an operation before
	idThis    = "aaaaaaaaaaa3" // the operation that is interrupted
)

// pluginDriver is the volume driver's name in the engine.
const pluginDriver = "snaprestore:latest"

// errDead is what everything returns in a process that has crashed.
var errDead = errors.New("the process is dead")

// world is an engine and its volumes in one directory.
type world struct {
	dir string
	e   *enginetest.Engine
	// first is what the containers were before any operation.
	first []string
}

// newWorld makes a world without volumes.
func newWorld(t *testing.T, dir string) *world {
	t.Helper()
	w := &world{dir: dir, e: enginetest.At(t, dir)}
	w.e.SetHost(func(h *restore.Host) { h.VolumeDrivers = []string{"local", pluginDriver} })
	return w
}

func (w *world) srv() string { return filepath.Join(w.dir, "srv") }

// engine is the engine with its volume driver.
func (w *world) engine() restore.Engine { return drivenEngine{w.e} }

// drivenEngine is an engine whose volumes of the driver are made and removed
// by the driver's own code.
type drivenEngine struct{ *enginetest.Engine }

func (e drivenEngine) registry(do func(*volume.Registry) error) error {
	path := filepath.Join(e.StateRoot(), volume.Folder)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	dir, err := durable.Open(path, nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	return do(volume.Open(dir))
}

func (e drivenEngine) CreateVolume(ctx context.Context, v plan.CreateVolume) (restore.Volume, error) {
	if volume.Served(v.Driver) {
		if err := e.registry(func(r *volume.Registry) error {
			spec, err := volume.Parse(v.Name, v.Options)
			if err == nil {
				_, err = r.Create(spec)
			}
			return err
		}); err != nil {
			return restore.Volume{}, err
		}
	}
	return e.Engine.CreateVolume(ctx, v)
}

func (e drivenEngine) RemoveVolume(ctx context.Context, name string) error {
	v, err := e.Volume(ctx, name)
	if err == nil && volume.Served(v.Driver) {
		err = e.registry(func(r *volume.Registry) error {
			if err := r.Remove(name); !errors.Is(err, volume.ErrNotFound) {
				return err
			}
			return nil
		})
	}
	if err != nil {
		return err
	}
	return e.Engine.RemoveVolume(ctx, name)
}

// boot starts the engine as after a power loss: it asks its driver for the
// volumes, and has no labels for those that it does not know.
func (w *world) boot(t *testing.T, at enginetest.Checkpoint) error {
	if err := w.e.Rewind(at); err != nil {
		return err
	}
	w.e.Hook = nil
	var all []volume.Volume
	err := drivenEngine{w.e}.registry(func(r *volume.Registry) (err error) {
		all, err = r.List()
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range all {
		w.e.AddVolume(t, restore.Volume{Name: v.Name, Driver: pluginDriver, Options: v.Options})
	}
	_, err = w.e.Reboot()
	return err
}

// leave lets go of everything that the engine holds open.
func (w *world) leave() { _ = w.e.Rewind(enginetest.Checkpoint{}) }

// process is one life of the domain, with the copy engines of the agent.
func process(ctx context.Context, e restore.Engine, dir string, fail durable.Failpoint, call call) error {
	root := filepath.Join(dir, "docker", "snaprestore")
	d, err := restore.Open(ctx, restore.Config{Engine: e, Root: root, Proc: filepath.Join(dir, "proc"), Copiers: copyengine.Set{btrfs.New(), reflink.New(), pack.New(), archive.New()}, Fail: fail})
	if err != nil {
		return err
	}
	return errors.Join(call(ctx, d), d.Close())
}

// run does one call in a life of its own that nothing happens to.
func (w *world) run(call call) error {
	return process(context.Background(), w.engine(), w.dir, nil, call)
}

// dies does one call whose process ends after a durable step.
func (w *world) dies(call call, after func(durable.Step) bool) error {
	dead := false
	w.e.Hook = func(enginetest.Call) error {
		if dead {
			return errDead
		}
		return nil
	}
	defer func() { w.e.Hook = nil }()
	err := process(context.Background(), w.engine(), w.dir, func(s durable.Step) error {
		if dead = dead || s.Done && after(s); dead {
			return errDead
		}
		return nil
	}, call)
	if !dead {
		return fmt.Errorf("the process did not die: %w", err)
	}
	return nil
}

// volumes gives the live trees of the scenarios' volumes by name. A bind mount
// has that of its directory.
func (w *world) volumes() map[string]string {
	return map[string]string{
		"shop_db":    filepath.Join(w.e.DataRoot(), "volumes", "shop_db", "_data"),
		"shop_files": filepath.Join(w.e.StateRoot(), volume.Folder, "shop_files", volume.Live),
		"uploads":    filepath.Join(w.srv(), "uploads"),
	}
}

// workload makes a project with a volume of each kind.
func (w *world) workload(t *testing.T) {
	t.Helper()
	labels := func(key string) map[string]string {
		return map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.volume": key}
	}
	for name, driver := range map[string]string{"shop_db": "local", "shop_files": pluginDriver} {
		_, err := w.engine().CreateVolume(t.Context(), plan.CreateVolume{Name: name, Driver: driver, Labels: labels(name[5:])})
		assert.NilError(t, err)
	}
	assert.NilError(t, os.MkdirAll(filepath.Join(w.srv(), "uploads"), 0o755))
	assert.NilError(t, w.run(func(ctx context.Context, d *restore.Domain) error {
		_, err := d.Allow(ctx, []string{w.srv()})
		return err
	}))
	w.fill(t, "first")
	all := []restore.Mount{
		{Name: "shop_db", Target: "/db"}, {Name: "shop_files", Target: "/files"},
		{Type: "bind", Source: w.volumes()["uploads"], Target: "/uploads"},
	}
	for _, c := range []struct {
		id, service, project, depends, state, policy string
		health                                       bool
		mounts                                       []restore.Mount
	}{
		{"c-db", "db", "shop", "", "running", "always", true, all[:1]},
		{"c-web", "web", "shop", "db:service_healthy:false", "running", "unless-stopped", false, all},
		{"c-idle", "idle", "shop", "", "exited", "no", false, all},
		{"c-paused", "paused", "shop", "", "paused", "no", false, all[1:2]},
		{"c-other", "app", "other", "", "running", "on-failure", false, all[2:]},
	} {
		w.e.AddContainer(t, restore.Container{
			ID: c.id, Name: c.id[2:], Image: c.service, ImageID: "sha256:" + c.service, State: c.state,
			HealthCheck: c.health, Policy: journal.Policy{Name: c.policy}, Mounts: c.mounts,
			Labels: map[string]string{
				"com.docker.compose.project": c.project, "com.docker.compose.service": c.service,
				"com.docker.compose.depends_on": c.depends,
			},
		}, nil)
	}
	w.first = w.containers()
}

// lone makes one volume that no container uses.
func (w *world) lone(t *testing.T) {
	t.Helper()
	_, err := w.engine().CreateVolume(t.Context(), plan.CreateVolume{Name: "shop_db", Labels: map[string]string{
		"com.docker.compose.project": "shop", "com.docker.compose.volume": "db",
	}})
	assert.NilError(t, err)
	w.fill(t, "first")
}

// words is what a tree of a volume holds: the word, some other files, and one
// of many blocks.
func words(name, word string) map[string]string {
	blob := make([]byte, 40<<10)
	random := rand.New(rand.NewPCG(uint64(len(name))<<8|uint64(name[len(name)-1]), uint64(word[0])))
	for i := range blob {
		blob[i] = byte(random.Uint32())
	}
	all := map[string]string{"content": word, "deep/content": word + " in " + name, "deep/blob": string(blob)}
	for i := range 4 {
		all[fmt.Sprintf("deep/%d", i)] = strings.Repeat(word, 1+i*300)
	}
	return all
}

// fill gives all volumes that there are other data.
func (w *world) fill(t *testing.T, word string) {
	t.Helper()
	for name, tree := range w.volumes() {
		if _, err := os.Stat(tree); err != nil {
			continue
		}
		assert.NilError(t, os.MkdirAll(filepath.Join(tree, "deep"), 0o750))
		for path, data := range words(name, word) {
			assert.NilError(t, os.WriteFile(filepath.Join(tree, path), []byte(data), 0o640))
		}
	}
}

// read gives the word of a tree, all of which must be of that word.
func read(name, tree string) (string, error) {
	word, err := os.ReadFile(filepath.Join(tree, "content"))
	if err != nil {
		return "", err
	}
	if !slices.Contains([]string{"first", "second"}, string(word)) {
		return "", fmt.Errorf("%s: its word is %q", tree, word)
	}
	want := words(name, string(word))
	err = filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if text, ok := want[rel]; !ok || text != string(data) {
			return fmt.Errorf("%s: is not that of %q (%d bytes)", path, word, len(data))
		}
		delete(want, rel)
		return nil
	})
	if err == nil && len(want) > 0 {
		err = fmt.Errorf("%s: %d files of %q are missing", tree, len(want), word)
	}
	return string(word), err
}
