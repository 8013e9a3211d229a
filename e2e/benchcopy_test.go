//go:build e2e && bench && linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The peers, by the names that they have in the table.
const (
	peerTar    = "tar | zstd -1 -T0"
	peerSynced = "tar | zstd -1 -T0, sync"
	peerRestic = "restic"
	peerDocker = "docker run tar czf"
)

// peers are the ways of others to copy one volume.
type peers struct{ b *bench }

func (p peers) tarball() string    { return filepath.Join(p.b.side, "t.tar.zst") }
func (p peers) repository() string { return filepath.Join(p.b.side, "restic") }
func (p peers) back() string       { return filepath.Join(p.b.side, "back") }
func (p peers) restic() string {
	return "RESTIC_PASSWORD=x restic -q -r " + p.repository() + " --no-cache "
}

// fresh makes an empty directory to restore to.
func (p peers) fresh() {
	must(p.b.t, os.RemoveAll(p.back()))
	must(p.b.t, os.Mkdir(p.back(), 0o700))
	p.b.settle()
}

// measure goes through everything with one data set.
func (b *bench) measure(d dataset) {
	b.t.Helper()
	volume := "bench_" + d.name
	b.Docker("volume", "create", volume).OK(b.t)
	root := b.VolumePath(volume)
	d.fill(b.t, root, b.scale)
	unix.Sync()
	p := peers{b}
	for round := range b.rounds {
		b.first(d, p, volume, root, round)
		b.again(d, p, volume, root, round)
		b.restored(d, p, volume, round)
		b.forget()
	}
	b.downtime(d, p, volume)
	b.Docker("volume", "rm", volume).OK(b.t)
}

// first takes snapshots without an earlier one, warm and cold. The product's
// are on the disk when it ends, as its last warm one stays.
func (b *bench) first(d dataset, p peers, volume, root string, round int) {
	b.t.Helper()
	for _, heat := range []string{"cold", "warm"} {
		before := func() {
			if heat == "cold" {
				b.cold()
			} else {
				b.warm(root)
			}
		}
		metric := fmt.Sprintf("snapshot %s, %s", d.name, heat)
		b.forget()
		turns(round, func() {
			before()
			tar, _ := b.took("tar cf - -C " + root + " . | zstd -q -1 -T0 -f -o " + p.tarball())
			sync, _ := b.took("sync -f " + p.tarball())
			b.rows.note(metric, "s", peerTar, tar)
			b.rows.note(metric, "s", peerSynced, tar+sync)
		}, func() {
			before()
			ours, r := b.timed("create", "--consistency", "live", volume)
			b.last = r.Line()
			b.rows.note(metric, "s", "", ours)
		}, func() {
			if heat == "cold" {
				return
			}
			must(b.t, os.RemoveAll(p.repository()))
			b.took(p.restic() + "init")
			before()
			first, _ := b.took(p.restic() + "backup " + root)
			b.rows.note(metric, "s", peerRestic, first)
		})
		if heat == "warm" && round == 0 && d.name != "C" {
			before()
			slow, _ := b.took(fmt.Sprintf("docker run --rm --network none -v %s:/data:ro -v %s:/out snaprestore-demo/busybox tar czf /out/d.tgz -C /data .", volume, b.side))
			b.rows.note(metric, "s", peerDocker, slow)
		}
	}
}

// again takes another snapshot, where nothing changed and where a hundredth
// did.
func (b *bench) again(d dataset, p peers, volume, root string, round int) {
	b.t.Helper()
	store := filepath.Join(b.Data, "snaprestore/snapshots")
	for _, what := range []string{"nothing changed", "1 % changed"} {
		if what != "nothing changed" {
			change(b.t, root, round)
		}
		b.settle()
		wait := time.Now().Add(3 * time.Second)
		for time.Now().Before(wait) {
			time.Sleep(100 * time.Millisecond) // what was written just now is read again
		}
		metric, growth := fmt.Sprintf("snapshot %s, %s", d.name, what), fmt.Sprintf("growth %s, %s", d.name, what)
		turns(round, func() {
			had := b.size(p.repository())
			theirs, _ := b.took(p.restic() + "backup " + root)
			b.rows.note(metric, "s", peerRestic, theirs)
			b.rows.note(growth, "MB", peerRestic, b.size(p.repository())-had)
		}, func() {
			had := b.size(store)
			ours, r := b.timed("create", "--consistency", "live", volume)
			b.last = r.Line()
			b.rows.note(metric, "s", "", ours)
			b.rows.note(growth, "MB", "", b.size(store)-had)
		})
	}
}

// restored measures what a restore does before anything is stopped: everything
// staged, checked and synced.
func (b *bench) restored(d dataset, p peers, volume string, round int) {
	b.t.Helper()
	metric := "restore " + d.name + ", staged and synced"
	turns(round, func() {
		p.fresh()
		tar, _ := b.took("zstd -q -dc " + p.tarball() + " | tar xpf - -C " + p.back() + " && sync -f " + p.back())
		b.rows.note(metric, "s", "zstd | tar, sync", tar)
	}, func() {
		p.fresh()
		theirs, _ := b.took(p.restic() + "restore latest --target " + p.back() + " && sync -f " + p.back())
		b.rows.note(metric, "s", "restic, sync", theirs)
	}, func() {
		p.fresh()
		r := b.CLI("restore", "--force", "--progress", "json", b.last).OK(b.t)
		b.rows.note(metric, "s", "", between(b.t, r.Stderr, "stage", "stop"))
	})
	must(b.t, os.RemoveAll(p.back()))
	unix.Sync()
}
