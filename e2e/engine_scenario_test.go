//go:build e2e && linux

package e2e

import (
	"testing"
)

// The other tests rest on this: an engine of the suite starts, runs the demo
// project, survives a restart with its data, and leaves nothing behind.
func TestEngineRunsTheDemoProject(t *testing.T) {
	s := NewShop(t, local)
	s.Bench("--transactions=50", "--client=2")
	s.Redis("set", "colour", "green")
	s.Stop()
	s.Start()
	s.Up()
	s.CheckDatabase()
	if got := s.Redis("get", "colour"); got != "green" {
		t.Errorf("the cache has %q after the engine was restarted, want green", got)
	}
}

// An engine is cleared away with all its processes, though some are frozen, as
// a run that was killed leaves them.
func TestAnEngineIsClearedAwayWithPausedContainers(t *testing.T) {
	e := NewEngine(t)
	e.Docker("run", "--detach", "--name", "paused", "--network", "none", "snaprestore-demo/busybox", "sleep", "100000").OK(t)
	e.Docker("pause", "paused").OK(t)
	must(t, endProcesses(e.Dir, "/"+e.name+"/"))
}
