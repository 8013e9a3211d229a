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
)

// bankFile is a database under load with volumes of every kind. A clerk enters
// rows into the database and, once they are acknowledged, into a file of each
// of three more volumes; clients of pgbench write beside him. Containers meet
// at the database's socket, in a bind mount that takes part in nothing.
//
// There is no health check: an engine that is killed while it runs one may lose
// track of that container for good (28.5 with containerd 2.1), whatever else
// happens. For the same reason the load is no docker exec.
const bankFile = `name: bank
x-part: &part
  image: snaprestore-demo/postgres
  pull_policy: never
  network_mode: none
services:
  db:
    <<: *part
    restart: unless-stopped
    stop_signal: SIGINT
    volumes: ["dbdata:/var/lib/postgresql/data", "./run/socket:/run/postgresql"]
  clerk:
    <<: *part
    restart: always
    user: "0:0"
    entrypoint: ["sh", "/program/clerk"]
    volumes: ["files:/files", "common:/common", "./data/bound:/bound", "./run/socket:/run/postgresql", "./run/program:/program:ro"]
    depends_on: [db]
  clients:
    <<: *part
    restart: on-failure
    entrypoint: ["sh", "/program/clients"]
    volumes: ["./run/socket:/run/postgresql", "./run/program:/program:ro"]
    depends_on: [db]
  keeper:
    <<: *part
    user: "0:0"
    entrypoint: ["sh", "-c", "trap exit TERM; while :; do sleep 1000 & wait $$!; done"]
    volumes: ["files:/files:ro"]
volumes:
  dbdata: {driver: snaprestore}
  files:
  common: {driver: snaprestore, driver_opts: {scope: project, project: bank}}
`

// clerk is the program that keeps the ledger. Whenever it starts it compares
// all copies with the database: each has all rows, but for the last one if the
// clerk died with it in hand. Anything else is data of several generations, or
// a lost row: it says so and writes no more.
const clerk = `trap exit TERM
copies="/files/ledger /common/ledger /bound/ledger"
ask() { psql -qAtX -v ON_ERROR_STOP=1 -c "$1" 2>/dev/null; }
until ask "select n || ' ' || token from ledger order by n" >/tmp/rows; do sleep 0.1 & wait $!; done
rows=$(wc -l </tmp/rows)
for copy in $copies; do
	touch $copy
	have=$(wc -l <$copy)
	if cmp -s $copy /tmp/rows; then continue; fi
	if [ $have = $((rows - 1)) ] && head -n $have /tmp/rows | cmp -s - $copy; then
		tail -n 1 /tmp/rows >>$copy
		continue
	fi
	echo "saw MIXED DATA: the database has $rows rows, $copy has $have"
	while :; do sleep 1000 & wait $!; done
done
echo "saw one ledger of $rows rows"
while :; do
	row=$(ask "insert into ledger select coalesce(max(n), 0) + 1, gen_random_uuid() from ledger returning n || ' ' || token") || exec sh $0
	for copy in $copies; do echo "$row" >>$copy; done
	sleep 0.1 & wait $!
done
`

// clients is the program of the database's other clients.
const clients = `trap exit TERM
while :; do
	pgbench --no-vacuum --client=2 --rate=40 --time=600 >/tmp/log 2>&1 & wait $!
	sleep 0.3 & wait $!
done
`

// Bank is the project of bankFile on an engine of its own.
type Bank struct {
	*Engine
	dir        string   // of its compose file
	copies     []string // volumes with the ledger: in the order in which rows get there
	containers []string
}

// NewBank starts an engine and the bank on it.
func NewBank(t testing.TB) *Bank {
	t.Helper()
	b := &Bank{Engine: NewEngine(t)}
	b.dir = b.Project("bank", bankFile)
	bound := filepath.Join(b.dir, "data/bound")
	b.copies = []string{"bank_files", "bank_common", bound}
	b.containers = []string{"bank-db-1", "bank-clerk-1", "bank-clients-1", "bank-keeper-1"}
	for dir, mode := range map[string]os.FileMode{"data/bound": 0o755, "run/socket": 0o777, "run/program": 0o755} {
		must(t, os.MkdirAll(filepath.Join(b.dir, dir), mode))
		must(t, os.Chmod(filepath.Join(b.dir, dir), mode))
	}
	for name, program := range map[string]string{"clerk": clerk, "clients": clients} {
		must(t, os.WriteFile(filepath.Join(b.dir, "run/program", name), []byte(program), 0o755))
	}
	b.CLI("install", "--allow-path", filepath.Dir(bound)).OK(t)
	b.Compose(b.dir, "up", "--detach", "db").OK(t)
	WaitFor(t, "the database answers", 3*time.Minute, func() string {
		return unless(b.Docker("exec", "bank-db-1", "pg_isready", "-q").Code == 0, "it does not")
	})
	b.SQL("create table ledger (n bigint primary key, token uuid not null)")
	b.Docker("exec", "bank-db-1", "pgbench", "-i", "-q").OK(t)
	b.Compose(b.dir, "up", "--detach", "--wait").OK(t)
	b.WaitRows(20)
	return b
}

// SQL runs one statement and gives its value.
func (b *Bank) SQL(statement string) string {
	b.t.Helper()
	return b.SQLIn("bank-db-1", statement)
}

// Ledger is a copy of the ledger: its whole rows, in order.
func (b *Bank) Ledger(volume string) []string {
	b.t.Helper()
	return ledgerAt(b.t, b.VolumePath(volume))
}

func ledgerAt(t testing.TB, tree string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, "ledger"))
	if os.IsNotExist(err) {
		return nil
	}
	must(t, err)
	whole := data[:strings.LastIndex(string(data), "\n")+1]
	return strings.FieldsFunc(string(whole), func(r rune) bool { return r == '\n' })
}

// WaitRows waits until the clerk has entered so many more rows everywhere.
func (b *Bank) WaitRows(more int) {
	b.t.Helper()
	last := b.copies[len(b.copies)-1]
	was, polls := len(b.Ledger(last)), 0
	WaitFor(b.t, "the clerk goes on writing", 2*time.Minute, func() string {
		if polls++; polls%100 == 0 {
			b.CheckClerk()
		}
		now := len(b.Ledger(last))
		return unless(now >= was+more, "%d rows came to %d", now-was, was)
	})
}

// CheckClerk fails the test if the clerk ever found data that does not belong
// together.
func (b *Bank) CheckClerk() {
	b.t.Helper()
	if log := b.Docker("logs", "bank-clerk-1").OK(b.t).Stdout; strings.Contains(log, "MIXED") {
		b.t.Fatalf("the clerk, at its starts:\n%s", log)
	}
}

// CheckLedger fails the test unless the database and every copy have the same
// rows, but for those that came while they were read, and gives them.
func (b *Bank) CheckLedger() []string {
	b.t.Helper()
	// What is read earlier has not more rows than what gets them earlier.
	var before [][]string
	for _, volume := range slices.Backward(b.copies) {
		before = append(before, b.Ledger(volume))
	}
	rows := strings.FieldsFunc(b.SQL("select n || ' ' || token from ledger order by n"), func(r rune) bool { return r == '\n' })
	for i, volume := range slices.Backward(b.copies) {
		had := before[len(b.copies)-1-i]
		if !begins(rows, had) {
			b.t.Fatalf("%s has %d rows that are not the first of the database's %d", volume, len(had), len(rows))
		}
	}
	for i, row := range rows {
		if !strings.HasPrefix(row, fmt.Sprint(i+1, " ")) {
			b.t.Fatalf("row %d of the database is %q", i+1, row)
		}
	}
	WaitFor(b.t, "what the database has acknowledged is in every copy", time.Minute, func() string {
		for _, volume := range b.copies {
			now := b.Ledger(volume)
			if len(now) < len(rows) {
				return fmt.Sprintf("%s has %d rows of %d", volume, len(now), len(rows))
			}
			if !begins(now, rows) {
				b.t.Fatalf("the %d rows of the database are not the first of those of %s", len(rows), volume)
			}
		}
		return ""
	})
	return rows
}

// begins reports whether all begins with first.
func begins(all, first []string) bool {
	return len(first) <= len(all) && slices.Equal(all[:len(first)], first)
}

// Policies are the restart policies of the bank's containers.
func (b *Bank) Policies() string {
	b.t.Helper()
	return b.Docker(append([]string{"inspect", "--format",
		"{{.Name}} {{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}"}, b.containers...)...).OK(b.t).Line()
}
