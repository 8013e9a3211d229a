package command

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

func (f *fakeEngine) Host(context.Context) (restore.Host, error) {
	return restore.Host{OS: "linux", Arch: runtime.GOARCH, DataRoot: "/data"}, f.err
}

func (f *fakeEngine) Plugin(context.Context, string) (engineapi.Plugin, error) {
	if f.plugin == nil {
		return engineapi.Plugin{}, restore.ErrNoSuch
	}
	return *f.plugin, nil
}

func (f *fakeEngine) CreatePlugin(_ context.Context, spec engineapi.PluginSpec) error {
	f.plugin = &engineapi.Plugin{Name: spec.Name, Build: spec.Build, Binds: spec.Binds}
	return nil
}

func (f *fakeEngine) EnablePlugin(context.Context, string, time.Duration) error {
	f.plugin.Enabled = true
	return nil
}

func (f *fakeEngine) DisablePlugin(context.Context, string, bool) error {
	f.plugin.Enabled = false
	return nil
}

func (f *fakeEngine) RemovePlugin(context.Context, string, bool) error {
	f.plugin = nil
	return nil
}

func (f *fakeEngine) RemoveVolume(_ context.Context, name string) error {
	f.volumes = slices.DeleteFunc(f.volumes, func(v restore.Volume) bool { return v.Name == name })
	return nil
}

func TestInstallTellsWhatItDid(t *testing.T) {
	e := &fakeEngine{}
	a := &fakeAgent{result: []string{"/srv/a", "/srv/b"}}
	o := execute(t, a, e, terminal{}, "install", "--allow-path", "/srv/a", "--allow-path", "/srv/b")
	assert.NilError(t, o.err)
	assert.Equal(t, o.stdout, "volume driver snaprestore: installed\nbind mounts allowed under: /srv/a, /srv/b\n")
	assert.DeepEqual(t, a.requests, []agent.Request{{Verb: agent.Allow, Paths: []string{"/srv/a", "/srv/b"}}})
	assert.DeepEqual(t, e.plugin.Binds, []string{"/data/snaprestore"})
	assert.Assert(t, e.plugin.Enabled)

	o = execute(t, &fakeAgent{result: []string{}}, e, terminal{}, "install")
	assert.NilError(t, o.err)
	assert.Equal(t, o.stdout, "volume driver snaprestore: installed already\n")
	e.plugin.Build = "0123"
	o = execute(t, &fakeAgent{result: []string{}}, e, terminal{}, "install")
	assert.NilError(t, o.err)
	assert.Equal(t, o.stdout, "volume driver snaprestore: replaced by this version\n")
}

func TestInstallStopsWhereAPathIsRefused(t *testing.T) {
	e := &fakeEngine{}
	o := execute(t, &fakeAgent{err: fault.New(fault.Failed, "allow /etc: a system directory")}, e, terminal{}, "install", "--allow-path", "/etc")
	assert.ErrorContains(t, o.err, "a system directory")
	assert.Assert(t, e.plugin == nil)
}

func TestUninstallAsksBeforeDataIsDeleted(t *testing.T) {
	for _, c := range []struct {
		args   []string
		term   terminal
		exit   int
		stays  bool // the plugin
		volume bool
		stdout string
	}{
		{args: []string{"uninstall"}, volume: true, stdout: "volume driver snaprestore: removed\nvolumes that stay, for the next install: db\n"},
		{args: []string{"uninstall", "--purge"}, exit: 2, stays: true, volume: true},
		{args: []string{"uninstall", "--purge"}, term: terminal{in: "n\n", tty: true}, exit: 2, stays: true, volume: true},
		{args: []string{"uninstall", "--purge"}, term: terminal{in: "y\n", tty: true}, stdout: "volume driver snaprestore: removed\ndeleted volumes: db\n"},
		{args: []string{"uninstall", "--purge", "-f"}, stdout: "volume driver snaprestore: removed\ndeleted volumes: db\n"},
	} {
		e := &fakeEngine{
			plugin:  &engineapi.Plugin{Name: "snaprestore:latest", Enabled: true, Build: "b"},
			volumes: []restore.Volume{{Name: "db", Driver: "snaprestore:latest"}, {Name: "other", Driver: "local"}},
		}
		o := execute(t, &fakeAgent{}, e, c.term, c.args...)
		assert.Equal(t, fault.ExitStatus(o.err), c.exit)
		assert.Equal(t, o.stdout, c.stdout)
		assert.Equal(t, e.plugin != nil, c.stays)
		assert.Equal(t, len(e.volumes) == 2, c.volume)
	}
}
