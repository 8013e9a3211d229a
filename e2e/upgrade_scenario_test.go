//go:build e2e && linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Writer is a container that runs on a volume of the driver and a local one,
// both holding generation "one", of which there is a snapshot.
type Writer struct {
	*Engine
	volumes  []string
	snapshot string
	sums     map[string]string
}

// NewWriter starts it on an engine of its own.
func NewWriter(t testing.TB, flags ...string) *Writer {
	t.Helper()
	w := &Writer{Engine: NewEngine(t, flags...), volumes: []string{"served", "plain"}, sums: map[string]string{}}
	w.CLI("install").OK(t)
	w.Docker("volume", "create", "--driver", "snaprestore", "--label", "kept=yes", "--opt", "scope=stage", "--opt", "project=p", "--opt", "stage=s", "served").OK(t)
	w.Docker("volume", "create", "plain").OK(t)
	for _, name := range w.volumes {
		w.FillVolume(name, "one")
		w.sums[name+" one"] = w.Sum(name)
	}
	w.Docker(append(append([]string{"run", "--detach", "--name", "writer", "--network", "none", "--restart", "unless-stopped"}, mounts(w.volumes...)...),
		"snaprestore-demo/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done")...).OK(t)
	w.snapshot = w.CLI("create", "--container", "writer").OK(t).Line()
	return w
}

// Started is when the container was started.
func (w *Writer) Started() string {
	w.t.Helper()
	return w.Docker("inspect", "--format", "{{.State.StartedAt}}", "writer").OK(w.t).Line()
}

// Writes has the container write into its volumes, and fails the test unless
// it is found where their data belongs, and by another container.
func (w *Writer) Writes(word string) {
	w.t.Helper()
	w.WaitHealthy("writer")
	w.Docker("exec", "writer", "sh", "-c", "for dir in /a /b; do echo "+word+" >$dir/word; done").OK(w.t)
	for _, name := range w.volumes {
		if data, err := os.ReadFile(filepath.Join(w.VolumePath(name), "word")); err != nil || strings.TrimSpace(string(data)) != word {
			w.t.Errorf("volume %s has %q (%v), want %q", name, data, err, word)
		}
		if seen := w.Sees(name, "word").OK(w.t).Line(); seen != word {
			w.t.Errorf("another container sees %q in volume %s, want %q", seen, name, word)
		}
	}
}

// Restores restores the snapshot under the container and takes it back.
func (w *Writer) Restores(word string) {
	w.t.Helper()
	identity := w.Identity("writer")
	w.CLI("restore", "--force", w.snapshot).OK(w.t)
	for _, name := range w.volumes {
		if got := w.VolumeGeneration(name, w.sums); got != "one" {
			w.t.Errorf("volume %s has generation %q after a restore, want one", name, got)
		}
		if w.Docker("exec", "writer", "ls", "/a/word", "/b/word").Code == 0 {
			w.t.Error("the container runs on what was replaced")
		}
	}
	w.CLI("undo", "--force").OK(w.t)
	if seen := w.Docker("exec", "writer", "cat", "/a/word", "/b/word").OK(w.t).Lines(); len(seen) != 2 || seen[0] != word || seen[1] != word {
		w.t.Errorf("after the undo the container sees %v, want %q", seen, word)
	}
	if now := w.Identity("writer"); now != identity {
		w.t.Errorf("the container is another one: %s, was %s", now, identity)
	}
}

// A driver of another build takes the place of the one that runs, under a
// container that runs: no volume is lost, and what is written and mounted
// before and afterwards is right.
func TestTheDriverIsUpgradedUnderARunningContainer(t *testing.T) {
	w := NewWriter(t)
	w.Writes("before")
	started := w.Started()
	described := func() string {
		return w.Docker("volume", "inspect", "--format", "{{.Name}} {{.Labels}} {{.Options}} {{.Status.scope}} {{.Status.directory}}", "served").OK(t).Line()
	}
	before, drivers := described(), w.Drivers()

	// A client that carries no program is the driver itself: another one that does
	// the same.
	installed := filepath.Join(w.config(), "cli-plugins/docker-snaprestore")
	must(t, os.Remove(installed))
	build := exec.Command("go", "build", "-trimpath", "-o", installed, "./cmd/docker-snaprestore")
	build.Dir, build.Env = host.repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the client: %v\n%s", err, out)
	}
	if shown := w.CLI("doctor", "--format", "{{.Name}}={{.Status}}").OK(t).Stdout; !strings.Contains(shown, "volume driver=warning") {
		t.Errorf("doctor does not warn of a driver of another build: %s", shown)
	}
	w.CLI("install").OK(t)
	if now := w.Drivers(); len(now) != 1 || now[0] == drivers[0] {
		t.Errorf("the driver is the same: it was %v, and is %v", drivers, now)
	}
	if shown := w.CLI("doctor", "--format", "{{.Name}}={{.Status}}").OK(t).Stdout; !strings.Contains(shown, "volume driver=ok") {
		t.Errorf("doctor is not content with the new driver: %s", shown)
	}
	if now := described(); now != before {
		t.Errorf("the volume is %s, was %s", now, before)
	}
	if now := w.Started(); now != started {
		t.Errorf("the container was started again: %s, was %s", now, started)
	}
	w.Writes("after")
	w.Docker("restart", "writer").OK(t)
	w.Writes("restarted")
	w.Restores("restarted")
	w.Docker("rm", "--force", "writer").OK(t)
	w.Docker("volume", "rm", "served", "plain").OK(t)
}

// With --live-restore containers run on while the engine is away: what they
// write is where it belongs, and a restore afterwards is right.
func TestContainersThatOutliveTheirEngine(t *testing.T) {
	w := NewWriter(t, "--live-restore")
	started := w.Started()
	for _, trouble := range []struct {
		name string
		end  func()
	}{
		{"killed", w.Kill9},
		{"stopped", w.Stop},
	} {
		trouble.end()
		w.Start()
		WaitFor(t, "the driver serves", time.Minute, func() string {
			return unless(w.Docker("volume", "inspect", "served").Code == 0, "it does not")
		})
		if now := w.Started(); now != started {
			t.Errorf("%s: the container was started again: %s, was %s", trouble.name, now, started)
		}
		w.Writes(trouble.name)
		w.Restores(trouble.name)
		started = w.Started()
	}
}
