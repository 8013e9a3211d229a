//go:build e2e && bench && linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// peak runs a command and gives its result, its seconds, and the most memory
// that its agent had, in MB: all of it, and without the pages of its program,
// which are those of the file.
func (b *bench) peak(args ...string) (r Result, seconds, all, own float64) {
	b.t.Helper()
	field := func(line, name string) float64 {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			return 0
		}
		n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		return n / 1024
	}
	began := time.Now()
	p := b.BeginCLI(args...)
	var pids []int // found once: to look for them costs as much as some work
	for !p.Ended() {
		if len(pids) == 0 {
			pids = b.Agents()
		}
		for _, pid := range pids {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				pids = nil
			}
			for line := range strings.Lines(string(status)) {
				all = max(all, field(line, "VmHWM"))
				own = max(own, field(line, "RssAnon"))
			}
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	return p.Wait().OK(b.t), time.Since(began).Seconds(), all, own
}

// memory measures the most that an agent has while it stores many files.
func (b *bench) memory() {
	b.t.Helper()
	b.Docker("volume", "create", "bench_m").OK(b.t)
	root := b.VolumePath("bench_m")
	fillSmall(b.t, root, b.scale)
	_, _, all, own := b.peak("create", "--consistency", "live", "bench_m")
	b.rows.note("peak memory, B", "MB", "", all)
	b.rows.note("peak memory, B, without the pages of the program", "MB", "", own)
	repository := filepath.Join(b.side, "memory")
	b.took("RESTIC_PASSWORD=x restic -q -r " + repository + " --no-cache init")
	_, theirs := b.took("exec env RESTIC_PASSWORD=x restic -q -r " + repository + " --no-cache backup " + root)
	b.rows.note("peak memory, B", "MB", peerRestic, theirs)
	b.rows.note("peak memory, B, without the pages of the program", "MB", peerRestic, theirs)
}

// list measures ls with many snapshots.
func (b *bench) list() {
	b.t.Helper()
	b.Docker("volume", "create", "bench_l").OK(b.t)
	must(b.t, os.WriteFile(filepath.Join(b.VolumePath("bench_l"), "f"), []byte("x"), 0o644))
	id := b.CLI("create", "--consistency", "live", "bench_l").OK(b.t).Line()
	number := int(1000 * b.scale)
	b.copies(filepath.Join(b.Data, "snaprestore/snapshots"), id, number)
	metric := fmt.Sprintf("ls of %d snapshots", number)
	for round := range b.rounds {
		turns(round, func() {
			ours, _ := b.timed("ls", "-q")
			b.rows.note(metric, "s", "", ours)
		}, func() {
			ours, _ := b.took("unshare --mount sh -c 'mount -t tmpfs none " + b.Data + " && docker snaprestore ls -q' >/dev/null")
			b.rows.note(metric+", through the agent", "s", "", ours)
		}, func() {
			theirs, _ := b.took("docker volume ls -q >/dev/null")
			b.rows.note(metric, "s", "docker volume ls", theirs)
			b.rows.note(metric+", through the agent", "s", "docker volume ls", theirs)
		}, func() {
			theirs, _ := b.took("docker run --rm --network none snaprestore-demo/busybox true")
			b.rows.note(metric, "s", "docker run true", theirs)
		})
	}
}

// copies makes more snapshots out of one, with ids of their own.
func (b *bench) copies(store, id string, many int) {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(store, id, snapshot.File))
	must(b.t, err)
	snap, err := snapshot.Decode(data)
	must(b.t, err)
	for i := 1; i < many; i++ {
		snap.ID = fmt.Sprintf("%012x", i)
		snap.Operation = snap.ID
		data, err := snapshot.Encode(snap)
		must(b.t, err)
		dir := filepath.Join(store, snap.ID)
		must(b.t, os.Mkdir(dir, 0o700))
		must(b.t, os.WriteFile(filepath.Join(dir, snapshot.File), data, 0o600))
		for _, v := range snap.Volumes {
			must(b.t, os.Link(filepath.Join(store, id, v.File), filepath.Join(dir, v.File)))
		}
	}
}

// many measures ten times as many files as usual: what takes more than ten
// times as long, or memory that grows with them.
func (b *bench) many() {
	b.t.Helper()
	for _, volume := range []struct {
		name  string
		files int
	}{{"bench_some", 100_000}, {"bench_many", 1_000_000}} {
		b.Docker("volume", "create", volume.name).OK(b.t)
		fillTiny(b.t, b.VolumePath(volume.name), int(float64(volume.files)*b.scale))
		b.settle()
		note := func(metric, unit string, value float64) {
			peer := "" // the larger
			if volume.name == "bench_some" {
				peer = "100,000 files"
			}
			b.rows.note("1,000,000 files: "+metric, unit, peer, value)
		}
		r, took, all, _ := b.peak("create", "--consistency", "live", volume.name)
		note("snapshot", "s", took)
		note("peak memory of a snapshot", "MB", all)
		began := time.Now()
		b.CLI("restore", "--dry-run", r.Line()).OK(b.t)
		note("plan of a restore", "s", time.Since(began).Seconds())
		b.settle()
		_, took, all, _ = b.peak("restore", "--force", r.Line())
		note("restore", "s", took)
		note("peak memory of a restore", "MB", all)
		took, _ = b.timed("ls")
		note("ls", "s", took)
		b.forget()
		p := peers{b} // whether others grow by as much
		b.settle()
		b.took("tar cf - -C " + b.VolumePath(volume.name) + " . | zstd -q -1 -T0 -f -o " + p.tarball())
		p.fresh()
		took, _ = b.took("zstd -q -dc " + p.tarball() + " | tar xpf - -C " + p.back() + " && sync -f " + p.back())
		note("zstd | tar, sync", "s", took)
		must(b.t, os.RemoveAll(p.back()))
		unix.Sync()
	}
}

// fillTiny makes files of 0 to 511 bytes, 100 in a folder.
func fillTiny(t testing.TB, root string, files int) {
	n := newNoise(4)
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("d%03d/e%03d", i/100_000, i/100%1000))
		if i%100 == 0 {
			must(t, os.MkdirAll(dir, 0o755))
		}
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i%100)), n.bytes(n.r.IntN(512)), 0o644))
	}
}

// whole measures volumes that are taken as a whole, by btrfs.
func (b *bench) whole() {
	b.t.Helper()
	b.CLI("install").OK(b.t)
	b.Docker("volume", "create", "--driver", "snaprestore", "bench_w").OK(b.t)
	root := b.VolumePath("bench_w")
	fillDatabase(b.t, root, b.scale)
	b.Docker("volume", "create", "bench_w2").OK(b.t)
	files := b.VolumePath("bench_w2")
	fillDatabase(b.t, files, b.scale)
	for round := range b.rounds {
		copied := filepath.Join(b.side, fmt.Sprint("snapshot", round))
		turns(round, func() {
			b.change(root)
			raw, _ := b.took("btrfs subvolume snapshot -r " + root + " " + copied + " >/dev/null && sync -f " + root)
			b.rows.note("btrfs: snapshot of A, volume of the driver", "s", "btrfs subvolume snapshot, sync", raw)
		}, func() {
			b.change(root)
			r := b.CLI("create", "--consistency", "live", "--progress", "json", "bench_w").OK(b.t)
			b.last = r.Line()
			b.rows.note("btrfs: snapshot of A, volume of the driver", "s", "", between(b.t, r.Stderr, "copy", ""))
		})
		b.change(root)
		r := b.CLI("restore", "--force", "--progress", "json", "--format", "json", b.last).OK(b.t)
		var back plan.Restored
		must(b.t, json.Unmarshal([]byte(r.Stdout), &back))
		b.rows.note("btrfs: restore of A, volume of the driver, stage and swap", "s", "", between(b.t, r.Stderr, "stage", "done"))
		raw, _ := b.took(fmt.Sprintf("btrfs subvolume snapshot %s %s-w >/dev/null && sync -f %[2]s-w && mv %[2]s-w %[2]s-x && sync -f %[2]s-x", copied, copied))
		b.rows.note("btrfs: restore of A, volume of the driver, stage and swap", "s", "btrfs subvolume snapshot, mv, syncs", raw)
		turns(round, func() {
			unix.Sync()
			r := b.CLI("create", "--consistency", "live", "--progress", "json", "bench_w2").OK(b.t)
			b.rows.note("btrfs: snapshot of A, local volume", "s", "", between(b.t, r.Stderr, "copy", ""))
		}, func() {
			unix.Sync()
			raw, _ := b.took("cp -a --reflink=always " + files + " " + copied + "-r && sync -f " + files)
			b.rows.note("btrfs: snapshot of A, local volume", "s", "cp -a --reflink, sync", raw)
		})
		b.forget()
	}
}

// change writes a little, so that a snapshot has something to write out.
func (b *bench) change(root string) {
	b.t.Helper()
	unix.Sync()
	must(b.t, os.WriteFile(filepath.Join(root, "changed"), []byte(time.Now().String()), 0o600))
}

// reflinks measures volumes whose files are cloned, on XFS.
func (b *bench) reflinks() {
	b.t.Helper()
	for _, d := range datasets {
		if d.name == "C" {
			continue
		}
		volume := "bench_" + d.name
		b.Docker("volume", "create", volume).OK(b.t)
		root := b.VolumePath(volume)
		d.fill(b.t, root, b.scale)
		for round := range b.rounds {
			copied := filepath.Join(b.side, fmt.Sprint(d.name, round))
			turns(round, func() {
				unix.Sync()
				raw, _ := b.took("cp -a --reflink=always " + root + " " + copied + " && sync -f " + root)
				b.rows.note("XFS: snapshot of "+d.name, "s", "cp -a --reflink, sync", raw)
			}, func() {
				unix.Sync()
				r := b.CLI("create", "--consistency", "live", "--progress", "json", volume).OK(b.t)
				b.rows.note("XFS: snapshot of "+d.name, "s", "", between(b.t, r.Stderr, "copy", ""))
			})
			must(b.t, os.RemoveAll(copied))
			b.forget()
		}
	}
}
