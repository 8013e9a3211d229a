//go:build e2e && bench && linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// bench is one run: an engine on a fresh file system on a real disk, and what
// was measured.
type bench struct {
	*Engine
	scale  float64
	rounds int
	side   string // directory for what the peers write, on the same file system
	rows   map[string]*row
	order  []string
}

// row is one line of the table: what was measured of the product and of a
// peer, in turns.
type row struct {
	Metric, Unit string
	Peer         string
	Product      []float64
	Others       []float64
}

// TestBench measures and asserts nothing but that everything runs. scripts/bench
// calls it.
func TestBench(t *testing.T) {
	b := newBench(t)
	for _, d := range datasets {
		if only := environment("SNAPRESTORE_BENCH_DATA", "ABC"); strings.Contains(only, d.name) {
			b.measure(d)
		}
	}
	b.memory()
	b.list()
	b.print()
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{Engine: newEngine(t), rows: map[string]*row{}}
	var err error
	b.scale, err = strconv.ParseFloat(environment("SNAPRESTORE_BENCH_SCALE", "1"), 64)
	must(t, err)
	b.rounds, err = strconv.Atoi(environment("SNAPRESTORE_BENCH_ROUNDS", "3"))
	must(t, err)
	// Not in memory, where nothing is ever cold.
	disk := host.dir + ".disk"
	t.Cleanup(func() { os.Remove(disk) })
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, int64(4<<30+26*b.scale*float64(1<<30))))
	kind := environment("SNAPRESTORE_BENCH_FS", "ext4")
	fix(t, "mkfs."+kind, "-q", disk)
	fix(t, "mount", "-o", "loop", disk, b.Data)
	b.side = filepath.Join(b.Data, "peers")
	must(t, os.Mkdir(b.side, 0o700))
	b.Start()
	b.Run(filepath.Join(host.repository, "scripts/images"), "import", b.Host).OK(t)
	b.CLI("ls").OK(t) // brings the agent's image
	return b
}

// note adds a figure of the product, or of a peer to the row of that name.
func (b *bench) note(metric, unit, peer string, product, other float64) {
	key := metric + " " + peer
	r := b.rows[key]
	if r == nil {
		r = &row{Metric: metric, Unit: unit, Peer: peer}
		b.rows[key] = r
		b.order = append(b.order, key)
	}
	r.Product = append(r.Product, product)
	r.Others = append(r.Others, other)
}

// took runs a command of the machine and gives its seconds, and the most
// memory that it had, in MB.
func (b *bench) took(script string) (seconds, megabytes float64) {
	b.t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Env = b.env
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	seconds = time.Since(began).Seconds()
	return seconds, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024
}

// cold empties the kernel's caches.
func (b *bench) cold() {
	b.t.Helper()
	unix.Sync()
	must(b.t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

// warm reads everything once.
func (b *bench) warm(root string) {
	b.t.Helper()
	b.took("tar cf - -C " + root + " . | cat >/dev/null")
	unix.Sync() // nobody is to write out what another has left
}

func (b *bench) timed(args ...string) (float64, Result) {
	b.t.Helper()
	began := time.Now()
	r := b.CLI(args...).OK(b.t)
	took := time.Since(began).Seconds()
	if args[0] == "create" {
		f, _ := os.OpenFile("/tmp/trace.log", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		fmt.Fprintf(f, "== %v %s took %.2f\n%s\n", began, args, took, r.Stderr)
		f.Close()
	}
	return took, r
}

func (b *bench) size(path string) float64 {
	b.t.Helper()
	out, err := exec.Command("du", "-sm", path).Output()
	must(b.t, err)
	n, err := strconv.ParseFloat(strings.Fields(string(out))[0], 64)
	must(b.t, err)
	return n
}

// measure goes through everything with one data set.
func (b *bench) measure(d dataset) {
	b.t.Helper()
	volume := "bench_" + strings.ToLower(d.name)
	b.Docker("volume", "create", volume).OK(b.t)
	root := b.VolumePath(volume)
	d.fill(b.t, root, b.scale)
	unix.Sync()
	repository := filepath.Join(b.side, "restic")
	restic := "RESTIC_PASSWORD=x restic -q -r " + repository + " --no-cache "
	tarball := filepath.Join(b.side, "t.tar.zst")
	back := filepath.Join(b.side, "back")
	for round := range b.rounds {
		// Without an earlier one, warm and cold.
		for _, heat := range []string{"warm", "cold"} {
			before := func() {
				if heat == "cold" {
					b.cold()
				} else {
					b.warm(root)
				}
			}
			before()
			tar, _ := b.took("tar cf - -C " + root + " . | zstd -q -1 -T0 -f -o " + tarball)
			before()
			ours, r := b.timed("create", "--progress", "json", "--consistency", "live", volume)
			b.note("snapshot "+d.name+", "+heat, "s", "tar | zstd -1 -T0", ours, tar)
			if heat == "warm" {
				must(b.t, os.RemoveAll(repository))
				b.took(restic + "init")
				before()
				first, _ := b.took(restic + "backup " + root)
				b.note("snapshot "+d.name+", first", "s", "restic", ours, first)
				if round == 0 && d.name != "C" {
					slow, _ := b.took(fmt.Sprintf("docker run --rm --network none -v %s:/data:ro -v %s:/out snaprestore-demo/busybox tar czf /out/t.tgz -C /data .", volume, b.side))
					b.note("snapshot "+d.name, "s", "docker run tar czf", ours, slow)
				}
				b.again(d, volume, root, restic, round)
				b.restored(d, volume, root, r.Line(), restic, tarball, back)
			}
			b.CLI(append([]string{"rm"}, b.ids()...)...).OK(b.t)
		}
	}
	b.downtime(d, volume)
	b.Docker("volume", "rm", volume).OK(b.t)
}

func (b *bench) ids() []string {
	var ids []string
	for _, s := range b.Snapshots() {
		ids = append(ids, s.ID)
	}
	return ids
}

// again takes a second snapshot, where nothing changed and where a hundredth
// did.
func (b *bench) again(d dataset, volume, root, restic string, round int) {
	b.t.Helper()
	// A time stamp of now could hide a change.
	for _, what := range []string{"nothing changed", "1 % changed"} {
		if what != "nothing changed" {
			change(b.t, root, round)
		}
		unix.Sync()
		wait := time.Now().Add(3 * time.Second)
		for time.Now().Before(wait) {
			time.Sleep(100 * time.Millisecond) // what was written just now is read again
		}
		store := filepath.Join(b.Data, "snaprestore/snapshots")
		had, resticHad := b.size(store), b.size(filepath.Join(b.side, "restic"))
		ours, _ := b.timed("create", "--progress", "json", "--consistency", "live", volume)
		theirs, _ := b.took(restic + "backup " + root)
		b.note("snapshot "+d.name+", "+what, "s", "restic", ours, theirs)
		b.note("growth "+d.name+", "+what, "MB", "restic", b.size(store)-had, b.size(filepath.Join(b.side, "restic"))-resticHad)
	}
}

// restored measures what a restore does before anything is stopped: everything
// staged, checked and synced.
func (b *bench) restored(d dataset, volume, root, id, restic, tarball, back string) {
	b.t.Helper()
	fresh := func() {
		must(b.t, os.RemoveAll(back))
		must(b.t, os.Mkdir(back, 0o700))
		unix.Sync()
	}
	fresh()
	tar, _ := b.took("zstd -q -dc " + tarball + " | tar xpf - -C " + back + " && sync -f " + back)
	fresh()
	theirs, _ := b.took(restic + "restore latest --target " + back + " && sync -f " + back)
	must(b.t, os.RemoveAll(back))
	unix.Sync()
	r := b.CLI("restore", "--force", "--progress", "json", id).OK(b.t)
	staged := between(b.t, r.Stderr, "stage", "stop")
	b.note("restore "+d.name+", staged and synced", "s", "zstd | tar, sync", staged, tar)
	b.note("restore "+d.name+", staged and synced", "s", "restic, sync", staged, theirs)
}

// between is the time from one phase to the next named, in seconds.
func between(t testing.TB, events, from, to string) float64 {
	t.Helper()
	var began, ended time.Time
	lines := bufio.NewScanner(strings.NewReader(events))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Type != event.Phase {
			continue
		}
		switch e.Phase {
		case from:
			began = e.Time
		case to:
			ended = e.Time
		}
	}
	if began.IsZero() || ended.IsZero() {
		t.Fatalf("no phases %s and %s in\n%s", from, to, events)
	}
	return ended.Sub(began).Seconds()
}

// downtime measures how long a container is away, and how long it is paused.
func (b *bench) downtime(d dataset, volume string) {
	b.t.Helper()
	b.Docker("run", "--detach", "--init", "--name", "user", "--network", "none", "--volume", volume+":/data",
		"snaprestore-demo/busybox", "sh", "-c", "while :; do date >/data/tick; sleep 0.1; done").OK(b.t)
	for range b.rounds {
		stop, _ := b.took("docker stop user >/dev/null && docker start user >/dev/null")
		id := b.CLI("create", "--container", "user").OK(b.t).Line()
		var made snapshot.Snapshot
		for _, s := range b.Snapshots() {
			if s.ID == id {
				made = s
			}
		}
		var back plan.Restored
		r := b.CLI("restore", "--force", "--format", "json", made.ID).OK(b.t)
		must(b.t, json.Unmarshal([]byte(r.Stdout), &back))
		b.note("downtime of a restore, "+d.name, "s", "docker stop and start", back.Downtime.Seconds(), stop)
		paused, _ := b.took("docker pause user >/dev/null; tar cf - -C " + b.VolumePath(volume) + " . | zstd -q -1 -T0 -f -o " + b.side + "/p.zst; docker unpause user >/dev/null")
		b.note("pause of a snapshot, "+d.name, "s", "pause, tar | zstd, unpause", made.Pause.Seconds(), paused)
		b.CLI(append([]string{"rm"}, b.ids()...)...).OK(b.t)
	}
	if d.name == "A" {
		heritage, _ := b.took(fmt.Sprintf(`docker run --rm --network none -v %[1]s:/data:ro -v %[2]s:/out snaprestore-demo/busybox tar czf /out/d.tgz -C /data .`, volume, b.side))
		_ = heritage
		away, _ := b.took(fmt.Sprintf(`docker stop user >/dev/null
			docker run --rm --network none -v %[1]s:/data -v %[2]s:/out snaprestore-demo/busybox sh -c 'rm -rf /data/*; tar xzf /out/d.tgz -C /data'
			docker start user >/dev/null`, volume, b.side))
		ours := b.rows["downtime of a restore, A docker stop and start"].Product
		b.note("downtime of a restore, A", "s", "stop, docker run tar xzf, start", median(ours), away)
	}
	b.Docker("rm", "--force", "--volumes", "user").OK(b.t)
}

// memory measures the most that an agent has while it stores many files.
func (b *bench) memory() {
	b.t.Helper()
	b.Docker("volume", "create", "bench_m").OK(b.t)
	root := b.VolumePath("bench_m")
	fillSmall(b.t, root, b.scale)
	peak := 0.0
	p := b.BeginCLI("create", "--consistency", "live", "bench_m")
	for !p.Ended() {
		for _, pid := range b.Agents() {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for line := range strings.Lines(string(status)) {
				if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
					n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
					peak = max(peak, n/1024)
				}
			}
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
	p.Wait().OK(b.t)
	repository := filepath.Join(b.side, "memory")
	b.took("RESTIC_PASSWORD=x restic -q -r " + repository + " --no-cache init")
	_, theirs := b.took("exec env RESTIC_PASSWORD=x restic -q -r " + repository + " --no-cache backup " + root)
	b.note("peak memory, B", "MB", "restic", peak, theirs)
	b.CLI(append([]string{"rm"}, b.ids()...)...).OK(b.t)
	b.Docker("volume", "rm", "bench_m").OK(b.t)
}

// list measures ls with many snapshots.
func (b *bench) list() {
	b.t.Helper()
	b.Docker("volume", "create", "bench_l").OK(b.t)
	must(b.t, os.WriteFile(filepath.Join(b.VolumePath("bench_l"), "f"), []byte("x"), 0o644))
	id := b.CLI("create", "--consistency", "live", "bench_l").OK(b.t).Line()
	store := filepath.Join(b.Data, "snaprestore/snapshots")
	b.copies(store, id, int(1000*b.scale))
	for range b.rounds {
		ours, _ := b.timed("ls", "-q")
		theirs, _ := b.took("docker volume ls -q >/dev/null")
		b.note(fmt.Sprintf("ls of %d snapshots", int(1000*b.scale)), "s", "docker volume ls", ours, theirs)
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

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// print writes the table and, where one is asked for, the JSON.
func (b *bench) print() {
	fmt.Printf("\n| metric | product | peer | | times |\n|---|---|---|---|---|\n")
	var out []row
	for _, key := range b.order {
		r := b.rows[key]
		ours, theirs := median(r.Product), median(r.Others)
		fmt.Printf("| %s | %.2f %s | %.2f %s | %s | %.1f |\n", r.Metric, ours, r.Unit, theirs, r.Unit, strings.ReplaceAll(r.Peer, "|", `\|`), theirs/max(ours, 0.001))
		out = append(out, *r)
	}
	if path := os.Getenv("SNAPRESTORE_BENCH_JSON"); path != "" {
		data, err := json.MarshalIndent(out, "", "  ")
		must(b.t, err)
		must(b.t, os.WriteFile(path, append(data, '\n'), 0o600))
	}
}
