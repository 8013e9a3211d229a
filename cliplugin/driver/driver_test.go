package driver

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// engine keeps one plugin, some volumes, and a list of what was done. Fail
// names the call that fails.
type engine struct {
	host       restore.Host
	plugin     *engineapi.Plugin
	volumes    []restore.Volume
	containers []restore.Container
	timeout    time.Duration
	did        []string
	fail       string
}

var errEngine = errors.New("engine says no")

func (e *engine) call(name string) error {
	e.did = append(e.did, name)
	if e.fail == name {
		return errEngine
	}
	return nil
}

func (e *engine) Host(context.Context) (restore.Host, error) { return e.host, nil }
func (e *engine) Plugin(context.Context, string) (engineapi.Plugin, error) {
	if e.plugin == nil {
		return engineapi.Plugin{}, restore.ErrNoSuch
	}
	return *e.plugin, nil
}

func (e *engine) CreatePlugin(_ context.Context, s engineapi.PluginSpec) error {
	err := e.call("create")
	if err == nil {
		e.plugin = &engineapi.Plugin{Name: s.Name, Build: s.Build, Binds: s.Binds}
	}
	return err
}

func (e *engine) EnablePlugin(_ context.Context, _ string, timeout time.Duration) error {
	err := e.call("enable")
	if err == nil {
		e.plugin.Enabled, e.timeout = true, timeout
	}
	return err
}

func (e *engine) DisablePlugin(_ context.Context, _ string, force bool) error {
	e.plugin.Enabled = false
	return e.call("disable")
}

func (e *engine) RemovePlugin(_ context.Context, _ string, force bool) error {
	e.plugin = nil
	return e.call("remove")
}

func (e *engine) Containers(context.Context) ([]restore.Container, error) { return e.containers, nil }
func (e *engine) Volumes(context.Context) ([]restore.Volume, error)       { return e.volumes, nil }
func (e *engine) RemoveVolume(_ context.Context, name string) error       { return e.call("rm " + name) }

func TestInstallBringsThisBuild(t *testing.T) {
	spec := Spec([]byte("program"), "/data/snaprestore")
	for _, c := range []struct {
		name   string
		found  *engineapi.Plugin
		change Change
		did    string
	}{
		{"nothing there", nil, Installed, "create enable"},
		{"this build", &engineapi.Plugin{Enabled: true, Build: spec.Build, Binds: spec.Binds}, Kept, ""},
		{"this build disabled", &engineapi.Plugin{Build: spec.Build, Binds: spec.Binds}, Enabled, "enable"},
		{"another build", &engineapi.Plugin{Enabled: true, Build: "0123", Binds: spec.Binds}, Replaced, "disable remove create enable"},
		{"another build disabled", &engineapi.Plugin{Build: "0123", Binds: spec.Binds}, Replaced, "remove create enable"},
		{"another state root", &engineapi.Plugin{Enabled: true, Build: spec.Build, Binds: []string{"/old"}}, Replaced, "disable remove create enable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := &engine{plugin: c.found}
			change, err := Install(context.Background(), e, spec)
			assert.NilError(t, err)
			assert.Equal(t, change, c.change)
			assert.Equal(t, strings.Join(e.did, " "), c.did)
			assert.Assert(t, e.plugin.Enabled)
			if strings.Contains(c.did, "enable") && c.change != Kept {
				assert.Assert(t, e.timeout > volume.MountWait)
			}
			status, _, _ := Check(context.Background(), e, spec)
			assert.Equal(t, status, "ok")
		})
	}
}

var errKilled = errors.New("killed")

// mortal is an engine whose caller dies at the n-th step: before a call has its
// effect, or after it.
type mortal struct {
	*engine
	dies, step int
}

func (m *mortal) around(do func() error) error {
	for _, effect := range []func() error{nil, do} {
		if effect != nil {
			if err := effect(); err != nil {
				return err
			}
		}
		if m.step++; m.step >= m.dies {
			return errKilled
		}
	}
	return nil
}

func (m *mortal) CreatePlugin(ctx context.Context, s engineapi.PluginSpec) error {
	return m.around(func() error { return m.engine.CreatePlugin(ctx, s) })
}

func (m *mortal) EnablePlugin(ctx context.Context, name string, timeout time.Duration) error {
	return m.around(func() error { return m.engine.EnablePlugin(ctx, name, timeout) })
}

func (m *mortal) DisablePlugin(ctx context.Context, name string, force bool) error {
	return m.around(func() error { return m.engine.DisablePlugin(ctx, name, force) })
}

func (m *mortal) RemovePlugin(ctx context.Context, name string, force bool) error {
	return m.around(func() error { return m.engine.RemovePlugin(ctx, name, force) })
}

// An installation or an upgrade that is killed anywhere, and once more in the
// next one, is finished by the one after that.
func TestAnInstallationKilledAnywhereIsFinishedByTheNext(t *testing.T) {
	spec := Spec([]byte("program"), "/data/snaprestore")
	for _, found := range []engineapi.Plugin{
		{}, {Name: spec.Name, Build: spec.Build, Binds: spec.Binds}, {Name: spec.Name, Build: "0123", Enabled: true, Binds: spec.Binds},
	} {
		kills := 0
		for first := 1; ; first++ {
			var err error
			for second := 1; ; second++ {
				e := &engine{}
				if found.Build != "" {
					was := found
					e.plugin = &was
				}
				if _, err = Install(t.Context(), &mortal{engine: e, dies: first}, spec); err == nil {
					break
				}
				assert.ErrorIs(t, err, errKilled)
				_, again := Install(t.Context(), &mortal{engine: e, dies: second}, spec)
				_, last := Install(t.Context(), e, spec)
				assert.NilError(t, last, "killed at %d, then at %d", first, second)
				status, detail, _ := Check(t.Context(), e, spec)
				assert.Equal(t, status, "ok", "killed at %d, then at %d: %s", first, second, detail)
				if kills++; again == nil {
					break
				}
			}
			if err == nil {
				break
			}
		}
		assert.Assert(t, kills > 2, "%d kills", kills)
	}
}

func TestInstallRefusesWithoutChange(t *testing.T) {
	spec := Spec([]byte("program"), "/data/snaprestore")
	for _, c := range []struct {
		e    engine
		says string
	}{
		{engine{host: restore.Host{Rootless: true}}, "without the rights of root"},
		{engine{host: restore.Host{UserNamespace: true}}, "without the rights of root"},
		{engine{plugin: &engineapi.Plugin{Enabled: true}}, "another plugin named"},
	} {
		_, err := Install(context.Background(), &c.e, spec)
		assert.ErrorContains(t, err, c.says)
		assert.ErrorContains(t, err, "nothing was changed")
		assert.Assert(t, fault.From(err).Hint != "")
		assert.Equal(t, len(c.e.did), 0)
	}
	e := &engine{fail: "create"}
	_, err := Install(context.Background(), e, spec)
	assert.ErrorIs(t, err, errEngine)
	assert.ErrorContains(t, err, "untouched")
}

func TestUninstall(t *testing.T) {
	ours := []restore.Volume{{Name: "a", Driver: "snaprestore:latest"}, {Name: "x", Driver: "local"}, {Name: "b", Driver: "snaprestore:latest"}}
	plugin := func() *engineapi.Plugin {
		return &engineapi.Plugin{Name: "snaprestore:latest", Build: "b", Enabled: true}
	}
	user := []restore.Container{{Name: "c", Mounts: []restore.Mount{{Type: "volume", Name: "b"}}}}

	e := &engine{plugin: plugin(), volumes: ours}
	out, err := Uninstall(context.Background(), e, false)
	assert.NilError(t, err)
	assert.DeepEqual(t, out, Uninstalled{Kept: []string{"a", "b"}})
	assert.DeepEqual(t, e.did, []string{"disable", "remove"})

	e = &engine{plugin: plugin(), volumes: ours}
	out, err = Uninstall(context.Background(), e, true)
	assert.NilError(t, err)
	assert.DeepEqual(t, out.Purged, []string{"a", "b"})
	assert.DeepEqual(t, e.did, []string{"rm a", "rm b", "disable", "remove"})

	e = &engine{plugin: plugin(), volumes: ours, containers: user}
	for _, purge := range []bool{false, true} {
		_, err = Uninstall(context.Background(), e, purge)
		assert.ErrorContains(t, err, "container c uses volume b")
		assert.Equal(t, len(e.did), 0)
	}

	e = &engine{plugin: plugin(), volumes: ours, fail: "rm b"}
	out, err = Uninstall(context.Background(), e, true)
	assert.ErrorContains(t, err, "1 of 2 volumes were deleted")
	assert.DeepEqual(t, out.Kept, []string{"b"})
	assert.Assert(t, e.plugin.Enabled)

	_, err = Uninstall(context.Background(), &engine{}, false)
	assert.Assert(t, fault.Is(err, fault.NotFound))
}
