//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Somebody brings the project up again and again while it is restored: the
// data is all of the snapshot in the end, no container was ever recreated,
// and all run.
func TestComposeUpRacesARestore(t *testing.T) { WithEachDriver(t, testComposeUpRacesARestore) }

func testComposeUpRacesARestore(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	f.Sums(sums, "two")
	identity, policies := f.Identity(f.containers...), f.Policies()
	restore := f.BeginCLI("restore", "--force", id)
	for !restore.Ended() {
		f.Compose(f.dir, "up", "--detach") // fails while the fences are up
	}
	// A racer that came in at the last moment may have made it roll back.
	result := restore.Wait()
	f.WaitClosed()
	want := "one"
	if result.Code == 13 {
		want = "two"
	} else if result.Code != 0 {
		t.Errorf("want a restore that is done or rolled back\n%s", result)
	}
	f.Compose(f.dir, "up", "--detach", "--wait").OK(t)
	if got := f.Generation(sums); got != want {
		t.Errorf("generation %q is in place, want %q", got, want)
	}
	f.CheckWhole(identity, policies)
}

// A container that the engine always restarts, and that keeps ending, never
// starts on half-restored data, and goes on as before afterwards.
func TestARestartAlwaysWorkload(t *testing.T) { WithEachDriver(t, testARestartAlwaysWorkload) }

func testARestartAlwaysWorkload(t *testing.T, driver string) {
	e := NewEngine(t).Serve(driver)
	dir := e.Project("loop", `name: loop
services:
  one:
    image: snaprestore-demo/busybox
    pull_policy: never
    restart: always
    # Two volumes that must agree whenever it starts.
    command: ["sh", "-c", "cmp /left/generation /right/generation || echo mixed >>/log/mixed; date >>/log/starts; sleep 0.2"]
    volumes: ["left:/left", "right:/right", "log:/log"]
volumes: {left: {}, right: {}, log: {}}
`)
	e.Choose(dir, driver, "left", "right", "log")
	e.Compose(dir, "up", "--detach").OK(t)
	e.CheckDriver(driver, "loop_left", "loop_right", "loop_log")
	mixed := filepath.Join(e.VolumePath("loop_log"), "mixed")
	fill := func(generation string) {
		e.Docker("stop", "loop-one-1").OK(t)
		e.FillVolume("loop_left", generation)
		e.FillVolume("loop_right", generation)
		must(t, os.RemoveAll(mixed)) // before the first fill there is nothing to compare
		e.Docker("start", "loop-one-1").OK(t)
	}
	starts := func() int {
		data, _ := os.ReadFile(filepath.Join(e.VolumePath("loop_log"), "starts"))
		return strings.Count(string(data), "\n")
	}
	fill("one")
	id := e.CLI("create", "loop_left", "loop_right").OK(t).Line()
	fill("two")
	e.CLI("restore", "--force", id).OK(t)
	for _, name := range []string{"loop_left", "loop_right"} {
		if data, err := os.ReadFile(filepath.Join(e.VolumePath(name), "generation")); err != nil || string(data) != "one" {
			t.Errorf("%s has generation %q (%v), want one", name, data, err)
		}
	}
	if policy := e.Docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", "loop-one-1").OK(t).Line(); policy != "always" {
		t.Errorf("the restart policy is %q, want always", policy)
	}
	before := starts()
	WaitFor(t, "the engine restarts it again", 3*time.Minute, func() string {
		return unless(starts() >= before+2, "it does not start")
	})
	if _, err := os.Stat(mixed); err == nil {
		t.Error("the container saw one volume of the snapshot and one of before")
	}
}

// A volume that another project uses too: that project's container is stopped
// and started with the rest, and its operations are excluded meanwhile.
func TestAVolumeOfAnotherProjectToo(t *testing.T) { WithEachDriver(t, testAVolumeOfAnotherProjectToo) }

func testAVolumeOfAnotherProjectToo(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	other := f.Project("other", `name: other
services:
  reader:
    image: snaprestore-demo/busybox
    pull_policy: never
    restart: always
    command: ["sh", "-c", "trap exit TERM; sleep 100000 & wait"]
    volumes: ["shared:/shared", "own:/own"]
volumes:
  shared: {external: true, name: fleet_beta}
  own:
`)
	f.Choose(other, driver, "own")
	f.Compose(other, "up", "--detach").OK(t)
	f.CheckDriver(driver, "other_own")
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	identity := f.Identity("other-reader-1")
	started := func() string {
		return f.Docker("inspect", "--format", "{{.State.StartedAt}}", "other-reader-1").OK(t).Line()
	}

	restore := f.Hold(func() { f.Fill("two") }, "restore", "--force", id)
	before := started()
	f.CLI("create", "--project", "other").Exits(t, 11)
	f.SignalAgents(unix.SIGCONT)
	restore.Wait().OK(t)

	if got := f.Generation(sums); got != "one" {
		t.Errorf("generation %q is in place, want one", got)
	}
	f.WaitHealthy("other-reader-1")
	if started() == before {
		t.Error("the other project's container ran on, on the old data")
	}
	if got := f.Identity("other-reader-1"); got != identity {
		t.Errorf("the other project's container is another one: %s, was %s", got, identity)
	}
	f.CLI("create", "--project", "other").OK(t)
}

// Volumes that no container uses are restored with nothing to stop.
func TestVolumesWithoutContainers(t *testing.T) { WithEachDriver(t, testVolumesWithoutContainers) }

func testVolumesWithoutContainers(t *testing.T, driver string) {
	e := NewEngine(t).Serve(driver)
	for _, name := range []string{"left", "right"} {
		e.Docker("volume", "create", "--driver", driver, "--label", "keep=yes", name).OK(t)
		e.FillVolume(name, "one")
	}
	e.CheckDriver(driver, "left", "right")
	left, right := e.Sum("left"), e.Sum("right")
	id := e.CLI("create", "left", "right").OK(t).Line()
	e.FillVolume("left", "two")
	e.FillVolume("right", "two")
	laterLeft := e.Sum("left")

	e.CLI("restore", "--force", id, "right").OK(t)
	if e.Sum("left") != laterLeft || e.Sum("right") != right {
		t.Fatal("a restore of one volume did not change that one alone")
	}
	e.CLI("restore", "--force", id).OK(t)
	if e.Sum("left") != left || e.Sum("right") != right {
		t.Error("the volumes do not have the snapshot's data")
	}

	// One that is gone is made again, by its driver and with its labels.
	e.Docker("volume", "rm", "left").OK(t)
	e.CLI("restore", "--force", id, "left").OK(t)
	if e.Sum("left") != left {
		t.Error("the volume that was removed does not have the snapshot's data")
	}
	e.CheckDriver(driver, "left")
	if label := e.Docker("volume", "inspect", "--format", "{{.Labels.keep}}", "left").OK(t).Line(); label != "yes" {
		t.Errorf("the volume that was removed has label keep=%q, want yes", label)
	}
	e.CheckTidy()
}

// A workload that does not get healthy on the restored data gets its own back
// when --rollback was asked for.
func TestAnUnhealthyWorkloadIsRolledBack(t *testing.T) {
	WithEachDriver(t, testAnUnhealthyWorkloadIsRolledBack)
}

func testAnUnhealthyWorkloadIsRolledBack(t *testing.T, driver string) {
	f := NewEngine(t).Serve(driver).Fleet(checkedFleetFile, driver)
	f.Fill("one")
	poison := filepath.Join(f.VolumePath("fleet_alpha"), "poison")
	must(t, os.WriteFile(poison, nil, 0o600))
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	must(t, os.Remove(poison))
	f.WaitHealthy("fleet-alpha-1")
	sums := map[string]string{}
	f.Fill("two")
	f.Sums(sums, "two")
	identity, policies := f.Identity(f.containers...), f.Policies()
	f.CLI("restore", "--force", "--rollback", "--timeout", "20", id).Exits(t, 13)
	if got := f.Generation(sums); got != "two" {
		t.Errorf("generation %q is in place, want two", got)
	}
	f.CheckWhole(identity, policies)
}
