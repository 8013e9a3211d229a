//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Shop is the demo project of scripts/shop: a database, a cache, and two
// services that share a volume.
type Shop struct {
	*Engine
	dir string // of its compose file
}

// NewShop starts an engine and the shop on it, healthy, with pgbench's tables
// in its database, and with all volumes of a driver.
func NewShop(t testing.TB, driver string) *Shop {
	t.Helper()
	return NewEngine(t).OpenShop(driver, "dbdata", "cachedata", "files")
}

// OpenShop starts the shop, with those of its volumes of a driver, by their
// keys in the compose file, and the others local.
func (e *Engine) OpenShop(driver string, keys ...string) *Shop {
	e.t.Helper()
	s := &Shop{Engine: e.Serve(driver)}
	s.dir = filepath.Join(s.Dir, "shop")
	must(s.t, os.CopyFS(s.dir, os.DirFS(filepath.Join(host.repository, "scripts/shop"))))
	s.Choose(s.dir, driver, keys...)
	s.Up()
	for _, key := range keys {
		s.CheckDriver(driver, "shop_"+key)
	}
	s.Bench("-i", "-q")
	return s
}

// Up brings the shop up and waits for its health.
func (s *Shop) Up() {
	s.t.Helper()
	s.Compose(s.dir, "up", "--detach", "--wait").OK(s.t)
}

// Bench runs pgbench in the database's container.
func (s *Shop) Bench(args ...string) {
	s.t.Helper()
	s.Docker(append([]string{"exec", "shop-db-1", "pgbench"}, args...)...).OK(s.t)
}

// SQL runs one statement and gives its value.
func (s *Shop) SQL(statement string) string {
	s.t.Helper()
	return s.SQLIn("shop-db-1", statement)
}

// SQLIn runs one statement on the database in a container and gives its value.
func (e *Engine) SQLIn(container, statement string) string {
	e.t.Helper()
	return e.Docker("exec", container, "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement).OK(e.t).Line()
}

// Redis runs one command of the cache's client.
func (s *Shop) Redis(args ...string) string {
	s.t.Helper()
	return s.Docker(append([]string{"exec", "shop-cache-1", "redis-cli"}, args...)...).OK(s.t).Line()
}

// CheckDatabase fails the test unless the shop's database is sound.
func (s *Shop) CheckDatabase() {
	s.t.Helper()
	s.WaitHealthy("shop-db-1")
	s.CheckDatabaseIn("shop-db-1")
}

// CheckDatabaseIn fails the test unless the checks of the server in a container
// pass (heap and indexes; pages are checked against their checksums as they are
// read) and pgbench's invariant holds: accounts, tellers, branches and history
// agree.
func (e *Engine) CheckDatabaseIn(container string) {
	e.t.Helper()
	e.Docker("exec", container, "pg_amcheck", "--database=postgres", "--install-missing", "--heapallindexed").OK(e.t)
	sums := e.SQLIn(container, `select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
		(select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)`)
	parts := strings.Split(sums, "|")
	for _, part := range parts {
		if len(parts) != 4 || part != parts[0] {
			e.t.Fatalf("accounts, tellers, branches and history disagree: %s", sums)
		}
	}
}

// WaitHealthy waits until containers run and their health checks, where they
// have one, pass.
func (e *Engine) WaitHealthy(names ...string) {
	e.t.Helper()
	WaitFor(e.t, "healthy containers", 3*time.Minute, func() string {
		states := e.Docker(append([]string{"inspect", "--format",
			"{{.Name}} {{.State.Status}}{{with .State.Health}} {{.Status}}{{end}}"}, names...)...).OK(e.t).Line()
		for _, state := range strings.Split(states, "\n") {
			if !strings.HasSuffix(state, " running") && !strings.HasSuffix(state, " running healthy") {
				return states
			}
		}
		return ""
	})
}

// Identity is what stays of a container while it is the same one: its id.
func (e *Engine) Identity(names ...string) string {
	e.t.Helper()
	return e.Docker(append([]string{"inspect", "--format", "{{.Name}} {{.Id}} {{.Image}}"}, names...)...).OK(e.t).Line()
}
