//go:build e2e && linux

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// drillLabel is on all that a drill makes.
const drillLabel = "com.snaprestore.drill"

// trials are the containers, volumes and networks of drills.
func (e *Engine) trials() (names []string) {
	e.t.Helper()
	for _, list := range [][]string{
		{"ps", "--all", "--format", "{{.Names}}"}, {"volume", "ls", "--format", "{{.Name}}"}, {"network", "ls", "--format", "{{.Name}}"},
	} {
		names = append(names, e.Docker(append(list, "--filter", "label="+drillLabel)...).OK(e.t).Lines()...)
	}
	return names
}

// shopContainers are those of the shop.
var shopContainers = []string{"shop-db-1", "shop-cache-1", "shop-web-1", "shop-worker-1"}

// lives tells of the shop's containers which they are, since when they run, and
// whether they are paused.
func (s *Shop) lives() string {
	s.t.Helper()
	return s.Docker(append([]string{"inspect", "--format", "{{.Id}} {{.State.Status}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy.Name}}"},
		shopContainers...)...).OK(s.t).Line()
}

// A snapshot of a database under load is tried out: a second database gets
// healthy on the restored data, beside the first, which runs on untouched, and
// nothing of it is left.
func TestADrillOfADatabase(t *testing.T) {
	s := NewShop(t, local)
	s.SQL("create table state (v text); insert into state values ('snapshot')")
	id := s.CLI("create", "--project", "shop").OK(t).Line()
	s.SQL("update state set v = 'later'")
	before := s.lives()
	volumes := s.Docker("volume", "ls", "-q").OK(t).Line()
	networks := s.Docker("network", "ls", "-q").OK(t).Line()

	s.CLI("drill", id).OK(t)
	var done plan.Drilled
	result := s.CLI("drill", "--start", "--format", "json", id).OK(t)
	must(t, json.Unmarshal([]byte(result.Stdout), &done))
	status := map[string]string{}
	for _, c := range done.Containers {
		status[c.Container] = c.Status
	}
	if len(done.Volumes) != 3 || len(status) != 4 || status["shop-db-1"] != "healthy" || status["shop-cache-1"] != "healthy" || status["shop-web-1"] != "running" {
		t.Errorf("%d volumes, containers %v", len(done.Volumes), status)
	}
	if left := s.trials(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if now := s.Docker("volume", "ls", "-q").OK(t).Line(); now != volumes {
		t.Errorf("the volumes are\n%s\nwere\n%s", now, volumes)
	}
	if now := s.Docker("network", "ls", "-q").OK(t).Line(); now != networks {
		t.Errorf("the networks are\n%s\nwere\n%s", now, networks)
	}
	if after := s.lives(); after != before {
		t.Errorf("the workload was touched:\n%s\nwas\n%s", after, before)
	}
	if got := s.SQL("select v from state"); got != "later" {
		t.Errorf("the database has %q", got)
	}
	if got := s.CLI("inspect", "--format", "{{.Drilled.Operation}} {{.Drilled.Started}}", id).OK(t).Line(); got != done.Operation+" true" {
		t.Errorf("inspect says %q", got)
	}

	// What is kept is the restored data, and what Compose knows is as before.
	kept := s.CLI("drill", "--start", "--keep", "--service", "db", "--format", "json", id).OK(t)
	must(t, json.Unmarshal([]byte(kept.Stdout), &done))
	if len(done.Containers) != 1 {
		t.Fatalf("%+v", done.Containers)
	}
	twin := done.Containers[0].Trial
	s.Docker("start", twin).OK(t)
	s.WaitHealthy(twin)
	if got := s.Docker("exec", twin, "psql", "-qAtX", "-c", "select v from state").OK(t).Line(); got != "snapshot" {
		t.Errorf("the kept database has %q", got)
	}
	if got := s.Compose(s.dir, "ps", "--all", "--quiet").OK(t).Lines(); len(got) != len(shopContainers) {
		t.Errorf("compose counts %v", got)
	}
	s.Docker("rm", "--force", "--volumes", twin).OK(t)
	s.Docker("network", "rm", done.Network).OK(t)
	for _, v := range done.Volumes {
		s.Docker("volume", "rm", v.Trial).OK(t)
	}

	// A database that does not start on it is told from damaged data.
	s.Docker("rm", "--force", "shop-worker-1").OK(t)
	s.CLI("drill", "--start", id).Exits(t, 10)
	s.CLI("drill", "--start", "--timeout", "1ms", "--service", "db", id).Exits(t, 14)
	if left := s.trials(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.Up()
	s.CheckDatabase()
	s.CheckTidy()
}

// Whatever is killed in the middle of a drill, its volumes, containers and
// network go, and the workload runs on.
func TestADrillThatIsKilledLeavesNothing(t *testing.T) {
	s := NewShop(t, local)
	id := s.CLI("create", "--project", "shop").OK(t).Line()
	before := s.lives()
	// In the middle, the cache's twin runs.
	begun := func(program ...string) *Process {
		t.Helper()
		client := s.Begin(append(program, "drill", "--start", "--steady", "10m", id)...)
		WaitFor(t, "twins run", 3*time.Minute, func() string {
			names := s.Docker("ps", "--format", "{{.Names}}", "--filter", "label="+drillLabel).OK(t).Line()
			return unless(strings.Contains(names, "shop-worker-1"), "there are %q", names)
		})
		return client
	}
	docker := []string{"docker", "snaprestore"}
	for _, c := range []struct {
		name    string
		program []string
		kill    func(*Process)
		code    int // of the client
	}{
		{"the agent", docker, func(*Process) { s.SignalAgents(unix.SIGKILL) }, 1},
		// A terminal's ctrl-C reaches the plugin itself; and a docker of 20.10 that
		// is killed leaves it alive.
		{"the client, by ctrl-C", []string{host.plugin}, func(p *Process) { must(t, unix.Kill(p.Pid(), unix.SIGINT)) }, 1},
		{"the client", []string{host.plugin}, func(p *Process) { p.Kill() }, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.In(t)
			client := begun(c.program...)
			c.kill(client)
			if r := client.Wait(); r.Code != c.code {
				t.Errorf("the client's exit status is not %d\n%s", c.code, r)
			}
			last := s.WaitClosed()
			if last.Kind != journal.Drill || last.Outcome.Result != journal.ResultFailed {
				t.Errorf("%s ended %+v", last.Kind, last.Outcome)
			}
			if left := s.trials(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if after := s.lives(); after != before {
				t.Errorf("the workload was touched:\n%s\nwas\n%s", after, before)
			}
		})
	}
	s.CheckTidy()
}
