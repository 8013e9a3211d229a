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
)

// bench is one run: an engine on a fresh file system on a real disk, and what
// was measured.
type bench struct {
	*Engine
	scale  float64
	rounds int
	kind   string // of the file system
	last   string // the id of the newest snapshot
	side   string // directory for what the peers write, on the same file system
	rows   *rows
	filled int64 // up to where settle has read its file
}

// rows are what was measured, in the order in which it was first.
type rows struct {
	all   map[string]*row
	order []string
}

// row is one metric: the product's figures, and those of each peer.
type row struct {
	Metric, Unit string
	Product      []float64
	Peers        map[string][]float64
	peers        []string
}

// TestBench measures and asserts nothing but that everything runs. scripts/bench
// calls it.
func TestBench(t *testing.T) {
	all := &rows{all: map[string]*row{}}
	parts := []struct {
		name string
		do   func(*testing.T)
	}{
		{"copies", func(t *testing.T) {
			b := newBench(t, all, environment("SNAPRESTORE_BENCH_FS", "ext4"))
			b.hold()
			for _, d := range datasets {
				if only := environment("SNAPRESTORE_BENCH_DATA", "ABC"); strings.Contains(only, d.name) {
					b.measure(d)
				}
			}
		}},
		{"database", func(t *testing.T) {
			b := newBench(t, all, environment("SNAPRESTORE_BENCH_FS", "ext4"))
			b.hold()
			b.database()
		}},
		{"memory", func(t *testing.T) { newBench(t, all, environment("SNAPRESTORE_BENCH_FS", "ext4")).memory() }},
		{"list", func(t *testing.T) { newBench(t, all, environment("SNAPRESTORE_BENCH_FS", "ext4")).list() }},
		{"many", func(t *testing.T) { newBench(t, all, environment("SNAPRESTORE_BENCH_FS", "ext4")).many() }},
		{"whole", func(t *testing.T) { newBench(t, all, "btrfs").whole() }},
		{"reflink", func(t *testing.T) { newBench(t, all, "xfs").reflinks() }},
	}
	for _, p := range parts {
		t.Run(p.name, p.do)
	}
	all.print(t)
}

// benchTiny is a volume with next to nothing in it.
const benchTiny = "bench_tiny"

// benchDisk is the size of the disk, in bytes, at full scale.
const benchDisk = 16 << 30

func newBench(t *testing.T, all *rows, kind string) *bench {
	t.Helper()
	b := &bench{Engine: newEngine(t), kind: kind, rows: all}
	var err error
	b.scale, err = strconv.ParseFloat(environment("SNAPRESTORE_BENCH_SCALE", "1"), 64)
	must(t, err)
	b.rounds, err = strconv.Atoi(environment("SNAPRESTORE_BENCH_ROUNDS", "3"))
	must(t, err)
	b.lay(t)
	b.side = filepath.Join(b.Data, "peers")
	must(t, os.Mkdir(b.side, 0o700))
	b.Start()
	b.Run(filepath.Join(host.repository, "scripts/images"), "import", b.Host).OK(t)
	b.CLI("ls").OK(t) // brings the agent's image
	b.Docker("volume", "create", benchTiny).OK(t)
	must(t, os.WriteFile(filepath.Join(b.VolumePath(benchTiny), "f"), []byte("x"), 0o644))
	return b
}

// lay mounts a fresh file system at the data root. It is not in memory, where
// nothing is ever cold; its blocks were all written before, so that nobody pays
// for the first write of one; and the kernel does not hold it twice.
func (b *bench) lay(t *testing.T) {
	t.Helper()
	disk := host.dir + "." + b.kind
	t.Cleanup(func() { os.Remove(disk) })
	blocks := int((benchDisk*b.scale + 3<<29) / (4 << 20)) // images take a part of it
	fix(t, "dd", "if=/dev/zero", "of="+disk, "bs=4M", fmt.Sprint("count=", blocks), "oflag=direct", "status=none")
	options := map[string][]string{
		"ext4": {"-q", "-N", fmt.Sprint(int(4e6*b.scale + 1e5))}, // inodes for a million files, and their copies
		"xfs":  {"-q", "-m", "reflink=1"}, "btrfs": {"-q"},
	}[b.kind]
	fix(t, append(append([]string{"mkfs." + b.kind}, options...), disk)...)
	out, err := exec.Command("losetup", "--direct-io=on", "--show", "--find", disk).Output()
	must(t, err)
	device := strings.TrimSpace(string(out))
	fix(t, "mount", device, b.Data)
	fix(t, "losetup", "--detach", device) // when it is unmounted
}

// note adds a figure of the product, "", or of a peer.
func (r *rows) note(metric, unit, peer string, value float64) {
	m := r.all[metric]
	if m == nil {
		m = &row{Metric: metric, Unit: unit, Peers: map[string][]float64{}}
		r.all[metric] = m
		r.order = append(r.order, metric)
	}
	if peer == "" {
		m.Product = append(m.Product, value)
		return
	}
	if m.Peers[peer] == nil {
		m.peers = append(m.peers, peer)
	}
	m.Peers[peer] = append(m.Peers[peer], value)
}

// turns does things in their order, or in the other one every second round, so
// that nobody is always the first.
func turns(round int, all ...func()) {
	if round%2 == 1 {
		slices.Reverse(all)
	}
	for _, do := range all {
		do()
	}
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

// cold empties the kernel's caches, and has every program run once: what is
// measured is data that is not in memory, on a host whose engine is in use.
func (b *bench) cold() {
	b.t.Helper()
	unix.Sync()
	must(b.t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	b.settle()
	root := b.VolumePath(benchTiny)
	b.took("tar cf - -C " + root + " . | zstd -q -1 -T0 -f -o " + filepath.Join(b.side, "tiny.tar.zst"))
	id := b.CLI("create", "--consistency", "live", benchTiny).OK(b.t).Line()
	b.CLI("rm", id).OK(b.t)
	unix.Sync()
}

// warm reads everything once, and has nobody write out what another left.
func (b *bench) warm(root string) {
	b.t.Helper()
	b.settle()
	b.took("tar cf - -C " + root + " . | cat >/dev/null")
}

// timed runs the product's command and gives its seconds, of which the start of
// the agent's container is a part.
func (b *bench) timed(args ...string) (float64, Result) {
	b.t.Helper()
	began := time.Now()
	r := b.CLI(args...).OK(b.t)
	return time.Since(began).Seconds(), r
}

func (b *bench) size(path string) float64 {
	b.t.Helper()
	out, err := exec.Command("du", "-sm", path).Output()
	must(b.t, err)
	n, err := strconv.ParseFloat(strings.Fields(string(out))[0], 64)
	must(b.t, err)
	return n
}

// forget removes all snapshots.
func (b *bench) forget() {
	b.t.Helper()
	var ids []string
	for _, s := range b.Snapshots() {
		ids = append(ids, s.ID)
	}
	if len(ids) > 0 {
		b.CLI(append([]string{"rm"}, ids...)...).OK(b.t)
	}
}

// between is the time from one phase to the next named, in seconds; "" for the
// last event.
func between(t testing.TB, events, from, to string) float64 {
	t.Helper()
	var began, ended time.Time
	lines := bufio.NewScanner(strings.NewReader(events))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		switch {
		case to == "":
			ended = e.Time
		case e.Type == event.Phase && e.Phase == to:
			ended = e.Time
		}
		if e.Type == event.Phase && e.Phase == from {
			began = e.Time
		}
	}
	if began.IsZero() || ended.IsZero() {
		t.Fatalf("no phases %s and %s in\n%s", from, to, events)
	}
	return ended.Sub(began).Seconds()
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// print writes the table and, where one is asked for, the JSON.
func (r *rows) print(t *testing.T) {
	fmt.Printf("\n| metric | product | peer | | times |\n|---|---|---|---|---|\n")
	var out []*row
	for _, key := range r.order {
		m := r.all[key]
		out = append(out, m)
		ours := median(m.Product)
		for _, peer := range m.peers {
			theirs := median(m.Peers[peer])
			fmt.Printf("| %s | %.3g %s | %.3g %s | %s | %.2f |\n", m.Metric, ours, m.Unit, theirs, m.Unit, strings.ReplaceAll(peer, "|", `\|`), theirs/max(ours, 1e-9))
		}
	}
	if path := os.Getenv("SNAPRESTORE_BENCH_JSON"); path != "" {
		data, err := json.MarshalIndent(out, "", "  ")
		must(t, err)
		must(t, os.WriteFile(path, append(data, '\n'), 0o600))
	}
}
