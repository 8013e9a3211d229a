// Package enginetest is a Docker engine in memory, for tests of the domain.
//
// Volumes of the local driver are real directories below the data root,
// volumes/NAME/_data, so that what the domain does to them is real. Containers
// are values: they have mounts, labels, states, restart policies and health,
// and a running one holds its mounted trees open, as a kernel mount would. A
// start fails as the engine's does when a mounted source dangles (moby
// volume/mounts, MountPoint.Setup evaluates the links of the source).
//
// Every call of restore.Engine passes the Hook before and after its effect.
// An error from it fails the call: before, nothing was done; after, it was
// done and its caller does not know. After Crash every call fails until
// Revive: the process that called is dead, the engine is not.
package enginetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// ErrCrashed is what every call returns after Crash.
var ErrCrashed = errors.New("the calling process has crashed")

// Call is one call of restore.Engine.
type Call struct {
	Method string // "Start"
	On     string // id, name or reference of the object, "" for lists
	Arg    string // the policy of SetPolicy, the grace of Stop
	Done   bool   // false before the effect, true after it
}

func (c Call) String() string {
	s := c.Method + "(" + c.On
	if c.Arg != "" {
		s += ", " + c.Arg
	}
	return s + ")"
}

// Changes reports whether the call is one that changes the engine's state.
func (c Call) Changes() bool {
	switch c.Method {
	case "CreateVolume", "RemoveVolume", "Stop", "Start", "Pause", "Unpause", "SetPolicy",
		"CreateTwin", "RemoveContainer", "CreateNetwork", "RemoveNetwork":
		return true
	}
	return false
}

// Engine is the fake. Its zero value is not usable; see New.
type Engine struct {
	// Hook is called before and after each call's effect; nil for none. It
	// may call the engine's own methods, but not restore.Engine's.
	Hook func(Call) error

	mu         sync.Mutex
	host       restore.Host
	proc       string
	volumes    map[string]restore.Volume
	images     []restore.Image
	containers []*container
	networks   map[string]bool
	calls      []Call
	crashed    bool
}

var _ restore.Engine = (*Engine)(nil)

// container is a container with what only the engine knows of it.
type container struct {
	restore.Container
	byHand bool // stopped by a call of Stop: unless-stopped does not start it
	health Health
	looked int // calls of Container since the start
	starts int
	trees  map[string]*os.File // held by mount target while it is up
}

// Health tells a container's health after it was inspected n times since its
// last start (n counts from 1): starting, healthy or unhealthy.
type Health func(c restore.Container, n int) string

// New makes an engine whose data root is a directory of the test.
func New(t testing.TB) *Engine {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return At(t, root)
}

// At makes an engine over an existing directory: data root dir/docker, and the
// volumes that lie there already.
func At(t testing.TB, dir string) *Engine {
	t.Helper()
	e := &Engine{
		host: restore.Host{
			ID: "TEST:ENGINE", Name: "host", Version: "28.5.2", OS: "linux", Arch: "amd64",
			DataRoot: filepath.Join(dir, "docker"), Driver: "overlay2",
		},
		proc:     filepath.Join(dir, "proc"),
		volumes:  map[string]restore.Volume{},
		networks: map[string]bool{},
	}
	for _, dir := range []string{filepath.Join(e.host.DataRoot, "volumes"), e.proc} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.adopt(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, c := range e.containers {
			c.letGo()
		}
	})
	return e
}

// DataRoot is the engine's data root.
func (e *Engine) DataRoot() string { return e.host.DataRoot }

// StateRoot is where the domain's state lies by default.
func (e *Engine) StateRoot() string { return filepath.Join(e.host.DataRoot, "snaprestore") }

// Proc is an empty directory to be used as /proc of the engine's host: no
// process but the engine's containers uses a volume.
func (e *Engine) Proc() string { return e.proc }

// SetHost changes what Host tells.
func (e *Engine) SetHost(change func(*restore.Host)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.host)
}

// AddVolume makes a volume and returns the path of its tree. Name is needed;
// Driver, Scope and Mountpoint have the local driver's values where empty.
func (e *Engine) AddVolume(t testing.TB, v restore.Volume) string {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	v, err := e.makeVolume(v)
	if err != nil {
		t.Fatal(err)
	}
	return v.Mountpoint
}

// AddContainer makes a container. ID and Name are needed; State is "created"
// where empty. A container that is up holds the trees of its mounts from now.
// A volume mount needs only Name and Target.
func (e *Engine) AddContainer(t testing.TB, c restore.Container, h Health) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.ID == "" || c.Name == "" {
		t.Fatal("a container needs an id and a name")
	}
	if c.State == "" {
		c.State = "created"
	}
	if c.Policy.Name == "" {
		c.Policy = journal.Policy{Name: "no"}
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	c.Mounts = append([]restore.Mount(nil), c.Mounts...)
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Type == "" {
			m.Type = "volume"
		}
		if m.Type != "volume" {
			continue
		}
		v, ok := e.volumes[m.Name]
		if !ok {
			t.Fatalf("container %s mounts volume %q, which does not exist", c.Name, m.Name)
		}
		m.Driver, m.Source = v.Driver, v.Mountpoint
	}
	made := &container{Container: c, health: h}
	if c.Up() {
		if err := made.hold(); err != nil {
			t.Fatal(err)
		}
	}
	e.containers = append(e.containers, made)
}

// AddImage makes an image.
func (e *Engine) AddImage(i restore.Image) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images = append(e.images, i)
}

// Change changes a container behind the domain's back, e.g. lets it exit.
func (e *Engine) Change(t testing.TB, id string, change func(*restore.Container)) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.find(id)
	if c == nil {
		t.Fatalf("no container %s", id)
	}
	change(&c.Container)
	if !c.Up() {
		c.letGo()
	}
}

// Drop removes a container, whatever it does, as somebody else would.
func (e *Engine) Drop(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.drop(id)
}

// Get looks at a container without a call being counted or a hook run.
func (e *Engine) Get(id string) (restore.Container, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.find(id); c != nil {
		return c.Container, true
	}
	return restore.Container{}, false
}

// All looks at all containers likewise, in the order in which they were made.
func (e *Engine) All() (all []restore.Container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		all = append(all, c.Container)
	}
	return all
}

// Starts counts how often a container was started.
func (e *Engine) Starts(id string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.find(id); c != nil {
		return c.starts
	}
	return 0
}

// Sees is the tree that an up container has mounted at target, whatever its
// path names by now; nil where it has none.
func (e *Engine) Sees(id, target string) fs.FileInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.find(id)
	if c == nil || c.trees[target] == nil {
		return nil
	}
	info, err := c.trees[target].Stat()
	if err != nil {
		return nil
	}
	return info
}

// Calls are the calls so far, each once, with Done telling whether it came to
// its effect.
func (e *Engine) Calls() []Call {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]Call(nil), e.calls...)
}

// Crash makes every later call fail with ErrCrashed.
func (e *Engine) Crash() { e.setCrashed(true) }

// Revive ends the state that Crash began: another process calls now.
func (e *Engine) Revive() { e.setCrashed(false) }

func (e *Engine) setCrashed(crashed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.crashed = crashed
}

// Reboot does what a restart of the engine does: all containers die, stray
// directories in the volumes root become volumes, local volumes whose directory
// is gone are none any more (moby volume/local, New reads the root), and those
// containers start whose policy says so, once. It returns the errors of failed starts by
// container id: such a container is not tried again (measured on Engine
// 20.10.24 and 28.5.2).
func (e *Engine) Reboot() (failed map[string]error, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.adopt(); err != nil {
		return nil, err
	}
	for name, v := range e.volumes {
		if _, err := os.Lstat(filepath.Join(e.host.DataRoot, "volumes", name)); v.Driver == "local" && errors.Is(err, fs.ErrNotExist) {
			delete(e.volumes, name)
		}
	}
	failed = map[string]error{}
	for _, c := range e.containers {
		was := c.Up()
		if was {
			c.stop(137)
		}
		switch c.Policy.Name {
		case "always":
		case "unless-stopped":
			if c.byHand {
				continue
			}
		case "on-failure":
			if !was {
				continue
			}
		default:
			continue
		}
		if c.State == "created" {
			continue
		}
		if err := c.start(); err != nil {
			failed[c.ID] = err
		}
	}
	return failed, nil
}

// adopt makes volumes of the directories in the volumes root.
func (e *Engine) adopt() error {
	entries, err := os.ReadDir(filepath.Join(e.host.DataRoot, "volumes"))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if _, known := e.volumes[entry.Name()]; !known && entry.IsDir() {
			e.volumes[entry.Name()] = e.local(restore.Volume{Name: entry.Name()})
		}
	}
	return nil
}

// local fills in what the local driver says of a volume.
func (e *Engine) local(v restore.Volume) restore.Volume {
	if v.Driver == "" {
		v.Driver = "local"
	}
	if v.Scope == "" {
		v.Scope = "local"
	}
	if spec, err := volume.Parse(v.Name, v.Options); err == nil && volume.Served(v.Driver) {
		// Where the volume driver keeps it; what containers see is the same.
		v.Mountpoint = filepath.Join(e.StateRoot(), volume.Folder, spec.Key(), volume.Live)
	}
	if v.Mountpoint == "" {
		v.Mountpoint = filepath.Join(e.host.DataRoot, "volumes", v.Name, "_data")
	}
	return v
}

func (e *Engine) makeVolume(v restore.Volume) (restore.Volume, error) {
	if v.Name == "" || filepath.Base(v.Name) != v.Name {
		return v, fmt.Errorf("create %q: includes invalid characters for a local volume name", v.Name)
	}
	if old, ok := e.volumes[v.Name]; ok {
		return old, nil // as the engine: the existing one is the answer
	}
	v = e.local(v)
	if err := os.MkdirAll(filepath.Dir(v.Mountpoint), 0o701); err != nil {
		return v, err
	}
	if err := os.Mkdir(v.Mountpoint, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return v, err
	}
	e.volumes[v.Name] = v
	return v, nil
}

func (e *Engine) find(id string) *container {
	for _, c := range e.containers {
		if c.ID == id || c.Name == id {
			return c
		}
	}
	return nil
}

func (e *Engine) drop(id string) {
	kept := e.containers[:0]
	for _, c := range e.containers {
		if c.ID == id || c.Name == id {
			c.letGo()
			continue
		}
		kept = append(kept, c)
	}
	e.containers = kept
}
