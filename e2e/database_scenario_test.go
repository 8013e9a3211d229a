//go:build e2e && linux

package e2e

import (
	"strings"
	"testing"
	"time"
)

// A snapshot taken while clients write is what a power loss would have left:
// after a restore the database recovers, passes its own checks, and pgbench's
// sums agree. The cache and the shared volume come back with it.
func TestASnapshotUnderWriteLoadRestoresToASoundDatabase(t *testing.T) {
	WithEachDriver(t, testASnapshotUnderWriteLoadRestoresToASoundDatabase)
}

func testASnapshotUnderWriteLoadRestoresToASoundDatabase(t *testing.T, driver string) {
	s := NewShop(t, driver)
	s.Redis("set", "colour", "green")
	load := s.Begin("docker", "exec", "shop-db-1", "pgbench", "--client=4", "--time=120")
	WaitFor(t, "clients write", 3*time.Minute, func() string {
		return unless(s.SQL("select count(*) > 500 from pgbench_history") == "t", "there is little history")
	})
	before := s.Identity("shop-db-1", "shop-cache-1", "shop-web-1", "shop-worker-1")
	id := s.CLI("create", "--project", "shop").OK(t).Line()
	if load.Ended() {
		t.Fatalf("the snapshot ended the clients' load\n%s", load.Wait())
	}
	atSnapshot := s.SQL("select count(*) from pgbench_history")
	WaitFor(t, "clients go on writing", 3*time.Minute, func() string {
		return unless(s.SQL("select count(*) > "+atSnapshot+" + 500 from pgbench_history") == "t", "nothing new is written")
	})

	s.SQL("drop table pgbench_branches cascade")
	load.Wait()
	s.Redis("flushall")
	s.Docker("exec", "shop-web-1", "rm", "/srv/files/visits").OK(t)
	s.CLI("restore", "--project", "shop", "--confirm", id, id).OK(t)

	s.CheckDatabase()
	// Between the snapshot and the count that was read after it, clients wrote.
	if got := s.SQL("select count(*) between 500 and " + atSnapshot + " from pgbench_history"); got != "t" {
		t.Errorf("the history is not the snapshot's: %s rows, at the snapshot at most %s", s.SQL("select count(*) from pgbench_history"), atSnapshot)
	}
	if got := s.Redis("get", "colour"); got != "green" {
		t.Errorf("the cache has %q, want green", got)
	}
	s.Docker("exec", "shop-web-1", "test", "-s", "/srv/files/visits").OK(t)
	if got := s.Identity("shop-db-1", "shop-cache-1", "shop-web-1", "shop-worker-1"); got != before {
		t.Errorf("the containers are other ones:\n%s\nwere\n%s", got, before)
	}
	s.CheckTidy()
}

// After a restore compose finds what it made: it changes nothing, and offers
// to recreate nothing.
func TestComposeSaysRunningAfterARestore(t *testing.T) {
	WithEachDriver(t, testComposeSaysRunningAfterARestore)
}

func testComposeSaysRunningAfterARestore(t *testing.T, driver string) {
	s := NewShop(t, driver)
	id := s.CLI("create", "--project", "shop").OK(t).Line()
	s.Bench("--transactions=50")
	s.CLI("restore", "--force", id).OK(t)
	started := func() string {
		return s.Docker("inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}",
			"shop-db-1", "shop-cache-1", "shop-web-1", "shop-worker-1").OK(t).Line() +
			s.Docker("volume", "inspect", "--format", "{{.Name}} {{.CreatedAt}}", "shop_dbdata", "shop_cachedata", "shop_files").OK(t).Line()
	}
	before := started()
	// Nobody answers a question: a compose that wants to recreate a volume fails.
	up := s.Compose(s.dir, "up", "--detach", "--wait").OK(t)
	if after := started(); after != before {
		t.Errorf("compose changed something:\n%s\nwas\n%s\n%s", after, before, up)
	}
	for _, container := range []string{"shop-db-1", "shop-cache-1", "shop-web-1", "shop-worker-1"} {
		if !strings.Contains(up.Stderr, container+"  Running") && !strings.Contains(up.Stderr, container+" Running") {
			t.Errorf("compose does not say Running of %s\n%s", container, up)
		}
	}
}

// An undo brings back what the restore replaced, and can be undone itself;
// the database is sound each time.
func TestAnUndoAndItsUndo(t *testing.T) { WithEachDriver(t, testAnUndoAndItsUndo) }

func testAnUndoAndItsUndo(t *testing.T, driver string) {
	s := NewShop(t, driver)
	s.SQL("create table state (v text); insert into state values ('snapshot')")
	s.CLI("create", "--project", "shop", "--name", "good").OK(t)
	s.SQL("update state set v = 'later'")
	s.Bench("--transactions=200")
	s.CLI("restore", "--project", "shop", "--force", "good").OK(t)
	for _, step := range []struct{ verb, want string }{{"", "snapshot"}, {"undo", "later"}, {"undo", "snapshot"}, {"undo", "later"}} {
		if step.verb != "" {
			s.CLI(step.verb, "--force").OK(t)
		}
		if got := s.SQL("select v from state"); got != step.want {
			t.Fatalf("after %q the database has %q, want %q", step.verb, got, step.want)
		}
		s.CheckDatabase()
	}
	s.CheckTidy()
}
