//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
)

// mixedFile is the fleet with two of its volumes served by the volume driver,
// one of them of a project's scope. Alpha is mounted by two services.
func mixedFile() string {
	return strings.Replace(fleetFile, "volumes:\n  alpha:\n  beta:\n  gamma:\n  delta:\n", `volumes:
  alpha: {driver: snaprestore}
  beta:
  gamma: {driver: snaprestore, driver_opts: {scope: project, project: fleet}}
  delta:
`, 1)
}

// NewMixedFleet is NewFleet with volumes of both drivers.
func NewMixedFleet(t testing.TB, flags ...string) *Fleet {
	t.Helper()
	f := &Fleet{Engine: NewEngine(t, flags...)}
	f.CLI("install").OK(t)
	f.dir = f.Project("fleet", mixedFile())
	f.Compose(f.dir, "up", "--detach", "--wait").OK(t)
	return f
}

// Drivers are the process numbers of the engine's volume driver.
func (e *Engine) Drivers() (pids []int) {
	e.t.Helper()
	for _, pid := range processes(e.Dir, "/"+e.name+"/") {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if strings.HasPrefix(string(line), "/snaprestored\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillDriver kills the driver and waits until the engine has started it again.
// An engine gives a driver up that dies before it has recorded that it runs.
func (e *Engine) KillDriver() {
	e.t.Helper()
	was, recorded := e.Drivers(), e.driverRecorded()
	for _, pid := range was {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	WaitFor(e.t, "the driver is started again", time.Minute, func() string {
		now := e.Drivers()
		return unless(len(was) > 0 && len(now) > 0 && now[0] != was[0] && e.driverRecorded().After(recorded), "was %v, is %v", was, now)
	})
}

// driverRecorded is when the engine last wrote down how its plugin stands.
func (e *Engine) driverRecorded() time.Time {
	e.t.Helper()
	records, err := filepath.Glob(filepath.Join(e.Data, "plugins/*/config.json"))
	must(e.t, err)
	if len(records) != 1 {
		e.t.Fatalf("want one plugin: %v", records)
	}
	info, err := os.Stat(records[0])
	must(e.t, err)
	return info.ModTime()
}

// Sees is what a new container finds in a volume's file.
func (e *Engine) Sees(volume, file string) Result {
	e.t.Helper()
	return e.Docker("run", "--rm", "--network", "none", "--volume", volume+":/data", "snaprestore-demo/busybox", "cat", "/data/"+file)
}

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
	for _, pid := range e.Drivers() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	e.Start()
	check("after kill -9 of both")
	e.Docker("rm", "--force", "writer").OK(t)
	e.Docker("volume", "rm", "data").OK(t)
}

// A restore of volumes of both drivers ends with all of them old or all new,
// whatever is killed in which phase, the driver too.
func TestARestoreOfBothKindsSurvivesKills(t *testing.T) {
	f := NewMixedFleet(t)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	identity, policies := f.Identity(fleetContainers...), f.Policies()
	for _, victim := range []struct {
		name string
		kill func(client *Process)
	}{
		{"the driver", func(*Process) { f.KillDriver() }},
		{"everything", func(client *Process) {
			f.SignalAgents(unix.SIGKILL)
			f.Kill9()
			for _, pid := range f.Drivers() {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			client.Kill()
			f.Start()
		}},
	} {
		for _, phase := range []journal.State{journal.Stopping, journal.Prepared, journal.Committed, journal.Starting} {
			client, struck := f.strikeAt(phase, func() *Process {
				f.Fill("two")
				f.Sums(sums, "two")
				return f.BeginCLI("restore", "--force", id)
			})
			if struck == journal.Closed {
				continue
			}
			victim.kill(client)
			client.Wait()
			last := f.WaitClosed()
			got := f.Generation(sums)
			t.Logf("%s struck at %s: ended %s, generation %s", victim.name, struck, last.Outcome.Result, got)
			// A driver that is started again has left a start without its volume.
			f.Compose(f.dir, "up", "--detach", "--wait").OK(t)
			f.CheckWhole(identity, policies)
			if got != f.Generation(sums) {
				t.Errorf("struck at %s: the containers found another generation", struck)
			}
		}
	}
}

// Somebody starts containers all the time while volumes of both drivers are
// restored: what they see is of one generation, at any moment.
func TestStartsRaceARestoreOfBothKinds(t *testing.T) {
	f := NewMixedFleet(t)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	f.Sums(sums, "two")
	f.Docker("create", "--name", "racer", "--network", "none", "--volume", "fleet_alpha:/a", "--volume", "fleet_beta:/b",
		"--volume", "fleet_gamma:/c", "snaprestore-demo/busybox", "sh", "-c", "echo $(cat /a/generation /b/generation /c/generation)").OK(t)
	seen := map[string]int{}
	var result Result
	// A start between the plan and the locks has the restore refuse, with
	// nothing changed: it is asked again.
	for range 10 {
		restore := f.BeginCLI("restore", "--force", id)
		for !restore.Ended() {
			if r := f.Docker("start", "--attach", "racer"); r.Code == 0 && r.Line() != "" {
				seen[r.Line()]++
			}
		}
		result = restore.Wait()
		if result.Code != 1 || !strings.Contains(result.Stderr, "nothing was changed") {
			break
		}
		if got := f.Generation(sums); got != "two" {
			t.Fatalf("a refused restore left generation %q", got)
		}
	}
	for what := range seen {
		if what != "oneoneone" && what != "twotwotwo" {
			t.Errorf("a container saw %q", what)
		}
	}
	f.WaitClosed()
	want := "one"
	switch result.Code {
	case 0:
	case 1, 13:
		want = "two" // the starts had it refuse, or roll back
	default:
		t.Errorf("want a restore that is done, refused or rolled back\n%s", result)
	}
	if got := f.Generation(sums); got != want {
		t.Errorf("generation %q is in place, want %q", got, want)
	}
	t.Logf("seen: %v", seen)
}

// An engine that starts with an interrupted restore in it settles the driver's
// volumes before any container gets them, though nobody recovers anything.
func TestBootIntoAnInterruptedRestoreOfDriverVolumes(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	for _, name := range []string{"left", "right"} {
		e.Docker("volume", "create", "--driver", "snaprestore", name).OK(t)
		e.FillVolume(name, "one")
	}
	id := e.CLI("create", "left", "right").OK(t).Line()
	for _, name := range []string{"left", "right"} {
		e.FillVolume(name, "two")
	}
	e.Docker("run", "--detach", "--name", "always", "--network", "none", "--restart", "always", "--volume", "left:/a", "--volume", "right:/b",
		"snaprestore-demo/busybox", "sh", "-c", "echo $(cat /a/generation /b/generation) >>/seen; trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done").OK(t)
	WaitFor(t, "the container has looked at its first data", time.Minute, func() string {
		seen := e.Docker("exec", "always", "cat", "/seen")
		return unless(seen.Code == 0 && len(seen.Lines()) == 1, "it saw %q", seen.Stdout)
	})
	struck := journal.Closed
	for attempt := 0; struck == journal.Closed; attempt++ {
		if attempt == 10 {
			t.Fatal("ten restores were too fast to be struck")
		}
		for _, name := range []string{"left", "right"} {
			e.FillVolume(name, "two")
		}
		watch := e.Watch()
		client := e.BeginCLI("restore", "--force", id)
		struck = watch.Until(client.Ended, journal.Prepared)
		if struck == journal.Prepared || struck == journal.Committed {
			e.SignalAgents(unix.SIGKILL)
			e.Kill9()
			client.Kill()
		} else {
			struck = journal.Closed // too fast: it is let go to its end
		}
		client.Wait()
	}
	e.Start()
	e.WaitClosed()
	e.WaitHealthy("always")
	// It wrote down what it saw at each of its starts.
	var starts []string
	WaitFor(t, "the container sees the restored data", time.Minute, func() string {
		starts = e.Docker("exec", "always", "cat", "/seen").OK(t).Lines()
		return unless(len(starts) > 1 && starts[len(starts)-1] == "oneone", "it saw %v", starts)
	})
	for _, seen := range starts {
		if seen != "oneone" && seen != "twotwo" {
			t.Errorf("the container saw mixed data: %v", starts)
		}
	}
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
