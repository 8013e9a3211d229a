//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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

// Operations repeat a start on this ground: what a start that was killed has
// left of itself is in the way of the next one, which takes it away.
func TestTheRemainsOfAKilledStartAreInTheWayOnce(t *testing.T) {
	e := NewEngine(t)
	id := e.Docker("create", "--name", "once", "--network", "none", "snaprestore-demo/busybox", "true").OK(t).Line()
	must(t, os.MkdirAll(filepath.Join(e.Dir, "exec/runtime-runc/moby", id), 0o711))
	if failed := e.Docker("start", "once"); failed.Code == 0 || !strings.Contains(failed.Stderr, "container with given ID already exists") {
		t.Errorf("want a start that meets the remains\n%s", failed)
	}
	e.Docker("start", "once").OK(t)
}

// What containerd has left of a start that was killed stays in the way, and
// goes when containerd is started again, as the error of an operation says.
func TestTheRemainsOfAKilledStartInContainerdStayUntilItIsStartedAgain(t *testing.T) {
	e := NewEngine(t)
	id := e.Docker("create", "--name", "once", "--network", "none", "snaprestore-demo/busybox", "true").OK(t).Line()
	must(t, os.MkdirAll(filepath.Join(e.Dir, stuckFolder, "moby", id), 0o711))
	for range 2 {
		if failed := e.Docker("start", "once"); failed.Code == 0 || !strings.Contains(failed.Stderr, stuckFolder) {
			t.Errorf("want a start that meets the remains\n%s", failed)
		}
	}
	e.RestartContainerd()
	WaitFor(t, "the container starts", time.Minute, func() string {
		started := e.Docker("start", "once")
		return unless(started.Code == 0, "%s", started.Stderr)
	})
}

// stuckFolder is where containerd keeps directories of tasks, in the engine's.
const stuckFolder = "shims/io.containerd.runtime.v2.task"
