//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The driver is installed, refuses what it does not know, keeps its volumes
// through an uninstall, and deletes them only when asked to.
func TestTheDriversLife(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	e.CLI("install").OK(t)
	if out := e.CLI("doctor", "--format", "{{.Name}}={{.Status}}").OK(t).Stdout; !strings.Contains(out, "volume driver=ok") {
		t.Errorf("doctor says %s", out)
	}
	for _, bad := range [][]string{
		{"--opt", "size=1g", "bad"}, {"--opt", "scope=stage", "bad"}, {"--opt", "scope=project", "--opt", "project=../x", "bad"}, {"a@b"},
	} {
		r := e.Docker(append([]string{"volume", "create", "--driver", "snaprestore"}, bad...)...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "nothing was changed") {
			t.Errorf("want a refusal\n%s", r)
		}
	}
	for _, name := range []string{"one", "two"} {
		e.Docker("volume", "create", "--driver", "snaprestore", "--label", "kept=yes",
			"--opt", "scope=stage", "--opt", "project=p", "--opt", "stage=s", name).OK(t)
	}
	e.Docker("volume", "create", "--driver", "snaprestore", "alone").OK(t)
	must(t, os.WriteFile(filepath.Join(e.VolumePath("one"), "f"), []byte("shared"), 0o600))
	if got := e.Sees("two", "f").OK(t).Line(); got != "shared" {
		t.Errorf("volumes of one stage do not share: %q", got)
	}
	e.Docker("create", "--name", "user", "--volume", "one:/data", "snaprestore-demo/busybox", "true").OK(t)
	e.CLI("uninstall").Exits(t, 1)
	if r := e.Docker("volume", "rm", "one"); r.Code == 0 {
		t.Error("a volume in use was removed")
	}
	e.Docker("rm", "user").OK(t)
	e.CLI("uninstall").OK(t)
	e.CLI("uninstall").Exits(t, 10)
	e.CLI("install").OK(t)
	if got := e.Sees("two", "f").OK(t).Line(); got != "shared" {
		t.Errorf("the data did not outlive an uninstall: %q", got)
	}
	if got := e.Docker("volume", "inspect", "--format", "{{.Labels.kept}} {{.Status.scope}}", "two").OK(t).Line(); got != "yes stage" {
		t.Errorf("the volume is another one: %s", got)
	}
	e.CLI("uninstall", "--purge").Exits(t, 2)
	e.CLI("uninstall", "--purge", "--force").OK(t)
	left, err := os.ReadDir(filepath.Join(e.Data, "snaprestore/volumes"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left after a purge: %v", left)
	}
}

// Containers find their data, and what they write is where it belongs, through
// everything that an engine and its driver go through.
func TestDriverVolumesThroughAllTroubles(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	e.Docker("volume", "create", "--driver", "snaprestore", "data").OK(t)
	e.Docker("run", "--detach", "--name", "writer", "--network", "none", "--restart", "always", "--volume", "data:/data",
		"snaprestore-demo/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done").OK(t)
	written := 0
	check := func(after string) {
		t.Helper()
		e.WaitHealthy("writer")
		written++
		word := strconv.Itoa(written)
		e.Docker("exec", "writer", "sh", "-c", "echo "+word+" >/data/f").OK(t)
		data, err := os.ReadFile(filepath.Join(e.VolumePath("data"), "f"))
		if err != nil || strings.TrimSpace(string(data)) != word {
			t.Fatalf("%s: what was written is not in the volume: %q, %v", after, data, err)
		}
		if got := e.Sees("data", "f").OK(t).Line(); got != word {
			t.Fatalf("%s: another container sees %q, want %q", after, got, word)
		}
	}
	check("at first")
	for range 2 {
		e.Docker("cp", "writer:/data/f", filepath.Join(e.Dir, "copy")).OK(t)
	}
	check("after docker cp")
	for range 2 {
		e.KillDriver()
	}
	check("after kill -9 of the driver")
	e.Docker("restart", "writer").OK(t)
	check("after a restart")
	e.Restart()
	check("after kill -9 of the engine")
	e.Stop()
	e.Start()
	check("after a graceful restart")
	e.Kill9()
	e.SignalDrivers(unix.SIGKILL)
	e.Start()
	check("after kill -9 of both")
	e.Docker("rm", "--force", "writer").OK(t)
	e.Docker("volume", "rm", "data").OK(t)
}

// An engine that has unmounted the driver's paths, as one does that is killed
// and started again at a bad moment, has them again when a container starts.
func TestAnEngineThatLostTheMountPathsHasThemAgain(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	e.Docker("volume", "create", "--driver", "snaprestore", "data").OK(t)
	must(t, os.WriteFile(filepath.Join(e.VolumePath("data"), "f"), []byte("kept"), 0o600))
	folders, err := filepath.Glob(filepath.Join(e.Data, "plugins/*/propagated-mount"))
	must(t, err)
	if len(folders) != 1 {
		t.Fatalf("want the folder of one plugin: %v", folders)
	}
	drivers := e.Drivers()
	lost := 0
	for unix.Unmount(folders[0], unix.MNT_DETACH) == nil {
		lost++
	}
	if lost == 0 {
		t.Fatal("nothing was mounted")
	}
	for range 2 {
		if got := e.Sees("data", "f").OK(t).Line(); got != "kept" {
			t.Errorf("a container sees %q", got)
		}
	}
	if now := e.Drivers(); len(now) != 1 || now[0] != drivers[0] {
		t.Errorf("the driver was started again: was %v, is %v", drivers, now)
	}
	e.KillDriver()
	if got := e.Sees("data", "f").OK(t).Line(); got != "kept" {
		t.Errorf("with the next driver a container sees %q", got)
	}
}
