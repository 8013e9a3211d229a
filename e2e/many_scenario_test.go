//go:build e2e && linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
)

// Fifty volumes, half of them the driver's and half local, of one container are
// restored all or none, also when everything is killed in the midst of it.
func TestFiftyVolumesAreRestoredAllOrNone(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	const each = 25
	var volumes, options []string
	for i := range each {
		for kind, driver := range map[string]string{"served": "snaprestore", "plain": "local"} {
			name := fmt.Sprintf("%s%02d", kind, i)
			e.Docker("volume", "create", "--driver", driver, name).OK(t)
			volumes = append(volumes, name)
			options = append(options, "--volume", name+":/all/"+name)
		}
	}
	slices.Sort(volumes)
	sums := map[string]string{}
	fill := func(generation string) {
		for _, name := range volumes {
			e.fillVolume(name, generation, 100)
			sums[name+" "+generation] = e.Sum(name)
		}
	}
	fill("one")
	e.Docker(append(append([]string{"run", "--detach", "--name", "holder", "--network", "none", "--restart", "unless-stopped"}, options...),
		"snaprestore-demo/busybox", "sh", "-c", "echo saw $(cat /all/*/generation); trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done")...).OK(t)
	e.WaitHealthy("holder")
	id := e.CLI("create", "--container", "holder").OK(t).Line()
	identity := e.Identity("holder")
	check := func() (generation string) {
		t.Helper()
		last := e.WaitClosed()
		found := map[string]int{}
		for _, name := range volumes {
			generation = e.VolumeGeneration(name, sums)
			found[generation]++
		}
		if len(found) != 1 || generation == "" {
			t.Fatalf("the volumes have mixed data: %v", found)
		}
		t.Logf("ended %s, generation %s, %d ms down", last.Outcome.Result, generation, last.Outcome.Downtime.Milliseconds())
		e.WaitHealthy("holder")
		if now := e.Identity("holder"); now != identity {
			t.Errorf("the container is another one: %s, was %s", now, identity)
		}
		e.CheckSeen("holder", len(volumes))
		e.CheckTidy()
		return generation
	}

	fill("two")
	e.CLI("restore", "--force", id).OK(t)
	if got := check(); got != "one" {
		t.Errorf("generation %s is in place after the restore, want one", got)
	}
	for _, phase := range []journal.State{journal.Prepared, journal.Committed} {
		fill("two")
		watch := e.Watch()
		client := e.BeginCLI("restore", "--force", id)
		struck := watch.Until(client.Ended, phase)
		e.SignalAgents(unix.SIGKILL)
		e.Kill9()
		e.SignalDrivers(unix.SIGKILL)
		client.Kill()
		e.Start()
		if got := check(); got != "one" {
			t.Errorf("struck at %s: generation %s is in place, want one", struck, got)
		}
	}
}

// Twenty containers of one volume of the driver start at once: each has its
// data, and the volume can be removed when they are gone.
func TestTwentyContainersOfOneVolumeStartAtOnce(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	e.Docker("volume", "create", "--driver", "snaprestore", "shared").OK(t)
	e.fillVolume("shared", "one", 100)
	var names []string
	for i := range 20 {
		name := fmt.Sprintf("user%02d", i)
		names = append(names, name)
		e.Docker("create", "--name", name, "--network", "none", "--volume", "shared:/data", "snaprestore-demo/busybox",
			"sh", "-c", "cp /data/generation /data/"+name+"; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done").OK(t)
	}
	for _, round := range []string{"one", "two"} {
		e.fillVolume("shared", round, 100)
		var starts []*Process
		for _, name := range names {
			starts = append(starts, e.Begin("docker", "start", name))
		}
		for _, start := range starts {
			start.Wait().OK(t)
		}
		WaitFor(t, "each container copies what it finds", time.Minute, func() string {
			for _, name := range names {
				if data, _ := os.ReadFile(filepath.Join(e.VolumePath("shared"), name)); string(data) != round {
					return fmt.Sprintf("%s has %q", name, data)
				}
			}
			return ""
		})
		e.Docker(append([]string{"stop"}, names...)...).OK(t)
	}
	e.Docker(append([]string{"rm"}, names...)...).OK(t)
	e.Docker("volume", "rm", "shared").OK(t)
	if left, _ := os.ReadDir(filepath.Join(e.Data, "snaprestore/volumes")); len(left) > 0 {
		t.Errorf("left of the volume: %s", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, e.Dir) && strings.Contains(line, "/shared ") {
			t.Errorf("still mounted: %s", line)
		}
	}
}
