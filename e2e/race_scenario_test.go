//go:build e2e && linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
)

// Containers are started in every phase of a restore of volumes of every kind,
// while its agent stands still: by docker start, with volumes of the driver
// only and with all, by docker compose up, and again and again by a restart
// policy. What each of them sees is of one generation, and in the end all
// volumes are, and the workload runs.
func TestAStartInEveryPhaseOfARestoreSeesOneSetOfData(t *testing.T) {
	f := NewMixedFleet(t)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	identity, policies := f.Identity(f.containers...), f.Policies()
	racers := []struct {
		name    string
		policy  string
		volumes []string
	}{
		{"served", "no", []string{"fleet_alpha", "fleet_gamma"}},
		{"all", "no", f.volumes},
		{"again", "always", f.volumes},
	}
	for _, r := range racers {
		args := append([]string{"create", "--name", r.name, "--network", "none", "--restart", r.policy}, mounts(r.volumes...)...)
		f.Docker(append(args, "snaprestore-demo/busybox", "sh", "-c", strings.ReplaceAll(look, "$$", "$"))...).OK(t)
	}
	met := 0
	for _, phase := range phases {
		client, struck := f.strikeAt(phase, func() *Process {
			f.Fill("two")
			f.Sums(sums, "two")
			return f.BeginCLI("restore", "--force", id)
		})
		if struck == journal.Closed {
			continue
		}
		met++
		f.SignalAgents(unix.SIGSTOP)
		waiting := f.Logged(": waiting for restore")
		starts := []*Process{f.Begin("docker", "compose", "--project-directory", f.dir, "up", "--detach")}
		for _, r := range racers {
			starts = append(starts, f.Begin("docker", "start", r.name))
		}
		WaitFor(t, "each start ends, or waits for the restore", 3*time.Minute, func() string {
			for _, start := range starts {
				if !start.Ended() && f.Logged(": waiting for restore") == waiting {
					return "one neither waits nor ends"
				}
			}
			return ""
		})
		f.SignalAgents(unix.SIGCONT)
		result := client.Wait()
		last := f.WaitClosed()
		for _, start := range starts {
			start.Wait()
		}
		f.Docker("stop", "again").OK(t)
		want := "one"
		if result.Code == 13 {
			want = "two" // the starts had it give way
		} else if result.Code != 0 {
			t.Errorf("struck at %s: want a restore that is done or rolled back\n%s", struck, result)
		}
		got := f.Generation(sums)
		t.Logf("struck at %s: ended %s, generation %s, %d ms down", struck, last.Outcome.Result, got, last.Outcome.Downtime.Milliseconds())
		if got != want {
			t.Errorf("struck at %s: generation %q is in place, want %q", struck, got, want)
		}
		f.Up()
		f.CheckWhole(identity, policies)
	}
	if met == 0 {
		t.Errorf("no phase of %v was met", phases)
	}
	f.CheckSeen("fleet-witness-1", len(f.volumes))
	for _, r := range racers {
		f.CheckSeen(r.name, len(r.volumes))
		if !strings.Contains(f.Docker("logs", r.name).OK(t).Stdout, "saw") {
			t.Errorf("container %s never came up", r.name)
		}
	}
}

// An engine that starts with an interrupted restore in it lets no container
// find mixed data, whatever the kinds of the volumes, and though nobody
// recovers anything.
func TestBootIntoAnInterruptedRestore(t *testing.T) {
	for _, test := range []struct {
		name string
		// local and bind say whether the restore has such volumes too.
		local, bind bool
	}{
		{"of the driver's volumes", false, false},
		{"of all kinds of volumes", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := NewEngine(t)
			prefix := e.Dir + "/srv"
			e.CLI("install", "--allow-path", prefix).OK(t)
			volumes := []string{"left", "right"}
			for _, name := range volumes {
				e.Docker("volume", "create", "--driver", "snaprestore", name).OK(t)
			}
			if test.local {
				e.Docker("volume", "create", "plain").OK(t)
				volumes = append(volumes, "plain")
			}
			if test.bind {
				volumes = append(volumes, prefix+"/bound")
				fix(t, "mkdir", "-p", prefix+"/bound")
			}
			fill := func(generation string) {
				for _, name := range volumes {
					e.FillVolume(name, generation)
				}
			}
			fill("one")
			e.Docker(append(append([]string{"run", "--detach", "--name", "always", "--network", "none", "--restart", "always"}, mounts(volumes...)...),
				"snaprestore-demo/busybox", "sh", "-c", strings.ReplaceAll(look, "$$", "$")+"; trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done")...).OK(t)
			id := e.CLI("create", "--container", "always").OK(t).Line()
			saw := func(generation string) {
				t.Helper()
				WaitFor(t, "the container has seen generation "+generation, time.Minute, func() string {
					seen := strings.TrimSpace(e.Docker("logs", "always").OK(t).Stdout)
					return unless(strings.HasSuffix(seen, "saw "+strings.Repeat(generation, len(volumes))), "it saw %s", seen)
				})
			}
			struck := journal.Closed
			for attempt := 0; struck == journal.Closed; attempt++ {
				if attempt == 10 {
					t.Fatal("ten restores were too fast to be struck")
				}
				fill("two")
				e.Docker("restart", "always").OK(t)
				saw("two")
				watch := e.Watch()
				client := e.BeginCLI("restore", "--force", id)
				struck = watch.Until(client.Ended, journal.Prepared)
				if struck == journal.Prepared || struck == journal.Committed {
					e.SignalAgents(unix.SIGKILL)
					e.Kill9()
					e.SignalDrivers(unix.SIGKILL)
					client.Kill()
				} else {
					struck = journal.Closed // too fast: it is let go to its end
				}
				client.Wait()
			}
			e.Start()
			e.WaitClosed()
			e.WaitHealthy("always")
			saw("one")
			e.CheckSeen("always", len(volumes))
			e.CheckTidy(volumes...)
		})
	}
}
