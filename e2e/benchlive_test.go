//go:build e2e && bench && linux

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// made takes a snapshot and gives its description.
func (b *bench) made(args ...string) (made snapshot.Snapshot) {
	b.t.Helper()
	id := b.CLI(append([]string{"create"}, args...)...).OK(b.t).Line()
	for _, s := range b.Snapshots() {
		if s.ID == id {
			made = s
		}
	}
	return made
}

// downtime measures how long a container is away, and how long it is paused.
func (b *bench) downtime(d dataset, p peers, volume string) {
	b.t.Helper()
	b.Docker("run", "--detach", "--init", "--name", "user", "--network", "none", "--volume", volume+":/data",
		"snaprestore-demo/busybox", "sh", "-c", "while :; do date >/data/tick; sleep 0.1; done").OK(b.t)
	down := "downtime of a restore, " + d.name
	for round := range b.rounds {
		turns(round, func() {
			stop, _ := b.took("docker stop user >/dev/null && docker start user >/dev/null")
			b.rows.note(down, "s", "docker stop and start", stop)
		}, func() {
			made := b.made("--container", "user")
			b.rows.note("pause of a snapshot, "+d.name, "s", "", made.Pause.Seconds())
			var back plan.Restored
			r := b.CLI("restore", "--force", "--format", "json", made.ID).OK(b.t)
			must(b.t, json.Unmarshal([]byte(r.Stdout), &back))
			b.rows.note(down, "s", "", back.Downtime.Seconds())
		}, func() {
			b.rows.note("pause of a snapshot, "+d.name, "s", "pause, tar | zstd, unpause", b.pausedTar("user", b.VolumePath(volume)))
		})
		b.forget()
	}
	if d.name != "C" {
		b.took(fmt.Sprintf("docker run --rm --network none -v %s:/data:ro -v %s:/out snaprestore-demo/busybox tar czf /out/d.tgz -C /data .", volume, b.side))
		away, _ := b.took(fmt.Sprintf(`docker stop user >/dev/null
			docker run --rm --network none -v %s:/data -v %s:/out snaprestore-demo/busybox sh -c 'rm -rf /data/*; tar xzf /out/d.tgz -C /data'
			docker start user >/dev/null`, volume, b.side))
		b.rows.note(down, "s", "stop, docker run tar xzf, start", away)
	}
	b.Docker("rm", "--force", "--volumes", "user").OK(b.t)
}

func (b *bench) pausedTar(container, root string) float64 {
	b.t.Helper()
	paused, _ := b.took("docker pause " + container + " >/dev/null; tar cf - -C " + root + " . | zstd -q -1 -T0 -f -o " + b.side +
		"/p.zst; docker unpause " + container + " >/dev/null")
	return paused
}

// database measures how long a database under load is paused for a snapshot.
func (b *bench) database() {
	b.t.Helper()
	b.Docker("run", "--detach", "--name", "db", "--network", "none", "--shm-size", "256m", "--volume", "bench_db:/var/lib/postgresql/data",
		"snaprestore-demo/postgres").OK(b.t)
	WaitFor(b.t, "the database answers", time.Minute, func() string {
		return unless(b.Docker("exec", "db", "pg_isready").Code == 0, "it does not")
	})
	b.Docker("exec", "db", "pgbench", "-i", "-q", "-s", fmt.Sprint(max(1, int(70*b.scale)))).OK(b.t)
	load := b.Begin("docker", "exec", "db", "pgbench", "--client=2", "--time=3600")
	WaitFor(b.t, "there is load", time.Minute, func() string {
		return unless(b.SQLIn("db", "select count(*) > 500 from pgbench_history") == "t", "there is little history")
	})
	root := b.VolumePath("bench_db")
	metric := fmt.Sprintf("pause of a database under load (pgbench, %.1f GB)", b.size(root)/1000)
	for round := range b.rounds {
		b.settle()
		turns(round, func() {
			b.rows.note(metric, "s", "", b.made("--container", "db").Pause.Seconds())
		}, func() {
			b.rows.note(metric, "s", "pause, tar | zstd, unpause", b.pausedTar("db", root))
		})
		b.forget()
	}
	b.CheckDatabaseIn("db")
	b.Docker("rm", "--force", "db").OK(b.t)
	if r := load.Wait(); strings.Contains(r.Stderr, "PANIC") {
		b.t.Errorf("the load ended with %s", r.Stderr)
	}
}
