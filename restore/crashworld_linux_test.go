package restore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
)

// tester is what a check needs of a test, so that one can be tried out.
type tester interface {
	assert.TestingT
	Helper()
	Failed() bool
}

// errDead is what everything returns in a process that has crashed.
var errDead = errors.New("the process is dead")

// world is an engine, its volumes and a state root, in one directory of a file
// system in memory: the tests here ask what is seen after a process dies, and
// a model of their own tells what a power loss would leave.
type world struct {
	t   tester
	dir string
	e   *enginetest.Engine
	// names gives the ids that a test knows a name, for keys and states.
	names  map[string]string
	copier copyengine.Engine // nil for plainEngine
	bound  string            // the source of the bind mount, "" for none
	// lines are what describe made of entries, which seldom change.
	lines map[entry]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	base := "/dev/shm"
	var at unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &at); err == nil && at.Type == unix.TMPFS_MAGIC {
		base = "" // where bind mounts may lie, too
	} else if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "snaprestore-crash-")
	assert.NilError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	dir, err = filepath.EvalSymlinks(dir)
	assert.NilError(t, err)
	return &world{t: t, dir: dir, e: enginetest.At(t, dir), lines: map[entry]string{}}
}

// process is one life of the domain: what it does passes hook, before and
// after each durable step, call of the engine, and file of a copy.
type process struct {
	w    *world
	hook func(point) error

	turn sync.Mutex // one hook at a time: containers are stopped at once
	mu   sync.Mutex
	seen map[string]int
	dead bool
}

// point is a place where a process may die.
type point struct {
	key  string // the same in every run
	done bool   // after the effect
	from string // the function that takes the step
	step *durable.Step
	call *enginetest.Call
}

// changes reports whether the point is behind a change of anything.
func (p point) changes() bool {
	if p.call != nil {
		return p.call.Changes()
	}
	switch p.step.Op {
	case durable.OpFsync, durable.OpSyncDir, durable.OpSyncFS:
		return false
	}
	return true
}

// start makes a process live in the world. Hook may be nil.
func (w *world) start(hook func(point) error) *process {
	p := &process{w: w, hook: hook, seen: map[string]int{}}
	w.e.Hook = func(c enginetest.Call) error {
		return p.pass(point{key: "engine " + c.String(), done: c.Done, call: &c})
	}
	return p
}

// pass is every failpoint of a process.
func (p *process) pass(at point) error {
	p.mu.Lock()
	key := p.w.normal(at.key)
	if at.done {
		key += " done"
	}
	p.seen[key]++
	at.key = fmt.Sprintf("%s #%d", key, p.seen[key])
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return errDead
	}
	if p.hook == nil {
		return nil
	}
	p.turn.Lock()
	err := p.hook(at)
	p.turn.Unlock()
	if errors.Is(err, errDead) {
		p.mu.Lock()
		p.dead = true
		p.mu.Unlock()
	}
	return err
}

func (p *process) step(s durable.Step) error {
	key := fmt.Sprintf("%s %s/%s", s.Op, s.Dir, s.Name)
	if s.To != "" {
		key += " -> " + filepath.Join(s.ToIn, s.To)
	}
	return p.pass(point{key: key, done: s.Done, step: &s, from: caller()})
}

// caller finds the function of the project that asked for a durable step.
func caller() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		frame, more := frames.Next()
		name := strings.TrimPrefix(frame.Function, "github.com/snaprestore/snaprestore/")
		if name != frame.Function && !strings.HasPrefix(name, "journal/durable.") && !strings.Contains(name, "_test.") {
			return name
		}
		if !more {
			return "a copy"
		}
	}
}

// do opens the domain and runs one call of it.
func (p *process) do(call func(context.Context, *restore.Domain) error) error {
	ctx := context.Background()
	copier := p.w.copier
	if copier == nil {
		copier = plainEngine{p}
	}
	d, err := restore.Open(ctx, restore.Config{
		Engine: p.w.e, Root: p.w.e.StateRoot(), Proc: p.w.e.Proc(), Copiers: copyengine.Set{copier}, Fail: p.step,
	})
	if err != nil {
		return err
	}
	err = call(ctx, d)
	if closeErr := d.Close(); closeErr != nil {
		return errors.Join(err, closeErr)
	}
	return err
}

// run does one call in a process of its own that nothing happens to.
func (w *world) run(call func(context.Context, *restore.Domain) error) error {
	return w.start(nil).do(call)
}

var ids = regexp.MustCompile(`[0-9a-f]{12}`)

// normal makes text the same in every run: ids and the world's place.
func (w *world) normal(s string) string {
	s = strings.ReplaceAll(s, w.dir, "")
	return ids.ReplaceAllStringFunc(s, func(id string) string {
		if name := w.names[id]; name != "" {
			return name
		}
		return "ID"
	})
}

// entry is one file, directory or link of a tree.
type entry struct {
	path string // relative to the world
	mode fs.FileMode
	data string // content, or target of a link
}

// state is all that outlives a process.
type state struct {
	entries []entry
	engine  enginetest.Checkpoint
}

// take reads the state of the world. Lock files hold nothing that lasts.
func (w *world) take() state {
	w.t.Helper()
	s := state{}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(w.dir, path)
		if strings.Contains(rel, "journal/lock/") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{path: rel, mode: info.Mode()}
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			e.data, err = os.Readlink(path)
		case 0:
			var data []byte
			data, err = os.ReadFile(path)
			e.data = string(data)
		}
		s.entries = append(s.entries, e)
		return err
	})
	assert.NilError(w.t, err)
	s.engine, err = w.e.Checkpoint()
	assert.NilError(w.t, err)
	return s
}

// put makes the world be in a state.
func (w *world) put(s state) {
	w.t.Helper()
	entries, err := os.ReadDir(w.dir)
	assert.NilError(w.t, err)
	for _, e := range entries {
		assert.NilError(w.t, os.RemoveAll(filepath.Join(w.dir, e.Name())))
	}
	w.write(s.entries)
	assert.NilError(w.t, w.e.Rewind(s.engine))
}

func (w *world) write(entries []entry) {
	w.t.Helper()
	for _, e := range entries {
		path := filepath.Join(w.dir, e.path)
		var err error
		switch e.mode.Type() {
		case fs.ModeDir:
			if e.path != "." {
				err = os.Mkdir(path, e.mode.Perm())
			}
		case fs.ModeSymlink:
			err = os.Symlink(e.data, path)
		default:
			err = os.WriteFile(path, []byte(e.data), e.mode.Perm())
		}
		assert.NilError(w.t, err)
	}
}

// what differs from run to run in the files of the state root.
var (
	times   = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`)
	figures = regexp.MustCompile(`"(seq|epoch|downtime|pause)":\d+,?`)
	sums    = regexp.MustCompile(`"crc32c":"[0-9a-f]{8}"`)
)

// describe is the same for states that differ in nothing that matters: ids,
// times, and how many records or takeovers there were.
func (w *world) describe(s state) string {
	var lines []string
	for _, e := range s.entries {
		line, known := w.lines[e]
		if !known {
			data := e.data
			if strings.Contains(e.path, "snaprestore/") && e.mode.IsRegular() {
				data = times.ReplaceAllString(data, "TIME")
				data = sums.ReplaceAllString(data, "")
				data = figures.ReplaceAllString(data, "")
			}
			line = w.normal(fmt.Sprintf("%s %s %q", e.path, e.mode, data))
			w.lines[e] = line
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n" + w.normal(s.engine.String())
}

func (w *world) digest(s state) string {
	sum := sha256.Sum256([]byte(w.describe(s)))
	return hex.EncodeToString(sum[:])
}

// content reads what the test wrote into a volume's tree, whole: a tree with
// anything but that is no tree of either side.
func content(tree string) (string, error) {
	a, err := os.ReadFile(filepath.Join(tree, "content"))
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(tree, "deep", "content"))
	if err != nil {
		return "", err
	}
	if string(a) != string(b) {
		return "", fmt.Errorf("torn: %q and %q", a, b)
	}
	return string(a), nil
}

// fill writes a volume's content.
func fill(t tester, tree, word string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Join(tree, "deep"), 0o750))
	for _, name := range []string{"content", "deep/content"} {
		assert.NilError(t, os.WriteFile(filepath.Join(tree, name), []byte(word), 0o640))
	}
}

// workload makes a project with that many volumes: a database, what depends on
// it, a container that is down, one of another project, and a paused one. With
// kinds the second volume is the driver's, and the last a bind mount.
func (w *world) workload(t *testing.T, volumes int, kinds bool, health enginetest.Health) {
	t.Helper()
	var names []string
	for i := range volumes {
		name := fmt.Sprintf("shop_v%d", i)
		if kinds && i == volumes-1 {
			w.bound = filepath.Join(w.dir, "srv", name)
			assert.NilError(t, os.MkdirAll(w.bound, 0o755))
			fill(t, w.bound, "first")
			names = append(names, w.bound)
			continue
		}
		v := restore.Volume{Name: name, Labels: map[string]string{
			"com.docker.compose.project": "shop", "com.docker.compose.volume": fmt.Sprintf("v%d", i),
		}}
		if kinds && i == 1 {
			w.e.SetHost(func(h *restore.Host) { h.VolumeDrivers = []string{"local", "snaprestore:latest"} })
			v.Driver = "snaprestore:latest"
		}
		names = append(names, name)
		fill(t, w.e.AddVolume(t, v), "first")
	}
	if kinds {
		assert.NilError(t, w.run(func(ctx context.Context, d *restore.Domain) error {
			_, err := d.Allow(ctx, []string{filepath.Dir(w.bound)})
			return err
		}))
	}
	last := names[len(names)-1]
	for _, c := range []struct {
		id, service, project, depends, state, policy string
		health                                       bool
		volumes                                      []string
	}{
		{"c-db", "db", "shop", "", "running", "always", true, names[:1]},
		{"c-web", "web", "shop", "db:service_healthy:false", "running", "unless-stopped", false, names},
		{"c-idle", "idle", "shop", "", "exited", "no", false, names},
		{"c-paused", "paused", "shop", "", "paused", "no", false, []string{last}},
		{"c-other", "app", "other", "", "running", "on-failure", false, []string{last}},
	} {
		made := restore.Container{
			ID: c.id, Name: c.id[2:], Image: c.service, ImageID: "sha256:" + c.service, State: c.state,
			HealthCheck: c.health, Policy: journal.Policy{Name: c.policy},
			Labels: map[string]string{
				"com.docker.compose.project": c.project, "com.docker.compose.service": c.service,
				"com.docker.compose.depends_on": c.depends,
			},
		}
		if c.policy == "on-failure" {
			made.Policy.Retries = 3
		}
		for i, v := range c.volumes {
			m := restore.Mount{Name: v, Target: "/" + filepath.Base(v)}
			if v == w.bound {
				m = restore.Mount{Type: "bind", Source: v, Target: fmt.Sprintf("/bound%d", i)}
			}
			made.Mounts = append(made.Mounts, m)
		}
		w.e.AddContainer(t, made, health)
	}
}

// trial begins the names of all that a drill makes.
const trial = "snaprestore-drill-"

// trials are what is there of drills.
func (w *world) trials() (all []string) {
	w.t.Helper()
	volumes, err := os.ReadDir(filepath.Join(w.e.DataRoot(), "volumes"))
	assert.NilError(w.t, err)
	for _, v := range volumes {
		if strings.HasPrefix(v.Name(), trial) {
			all = append(all, "volume "+v.Name())
		}
	}
	for _, c := range w.e.All() {
		if strings.HasPrefix(c.Name, trial) {
			all = append(all, "container "+c.Name+" "+c.State)
		}
	}
	for _, name := range w.e.Networks() {
		all = append(all, "network "+name)
	}
	return all
}

// trees gives the live trees' paths by volume, but for those of drills.
func (w *world) trees() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	hook := w.e.Hook
	w.e.Hook = nil // it is the test that asks
	defer func() { w.e.Hook = hook }()
	all, err := w.e.Volumes(context.Background())
	assert.NilError(w.t, err)
	for _, v := range all {
		if !strings.HasPrefix(v.Name, trial) {
			out[v.Name] = v.Mountpoint
		}
	}
	if w.bound != "" {
		out[w.bound] = w.bound
	}
	return out
}
