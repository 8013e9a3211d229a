//go:build e2e && linux

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fleetFile is a project that only keeps data, one service for each restart
// policy that there is. It is slow to stop, so that every phase of a restore
// lasts long enough to be struck in. It has no health check: an engine that is
// killed while it runs one may lose track of that container for good (28.5
// with containerd 2.1), whatever else happens.
const fleetFile = `name: fleet
x-ship: &ship
  image: snaprestore-demo/busybox
  pull_policy: never
  command: ["sh", "-c", "trap 'sleep 0.3; exit 0' TERM; sleep 100000 & wait"]
services:
  alpha:
    <<: *ship
    restart: unless-stopped
    volumes: ["alpha:/data"]
  beta:
    <<: *ship
    restart: always
    volumes: ["beta:/data"]
    depends_on: [alpha]
  gamma:
    <<: *ship
    restart: on-failure:3
    volumes: ["gamma:/data", "alpha:/data-of-alpha:ro"]
    depends_on: [beta]
  delta:
    <<: *ship
    volumes: ["delta:/data"]
volumes:
  alpha:
  beta:
  gamma:
  delta:
`

// Fleet is a running project whose data the test writes.
type Fleet struct {
	*Engine
	dir        string
	volumes    []string // their names, for a bind mount its source
	containers []string
}

// checkedFleetFile is the same with a health check, which fails where there
// is a file "poison".
var checkedFleetFile = strings.Replace(fleetFile, `    volumes: ["alpha:/data"]
`, `    volumes: ["alpha:/data"]
    healthcheck:
      test: ["CMD", "test", "!", "-e", "/data/poison"]
      interval: 1s
      timeout: 5s
      retries: 4
`, 1)

// NewFleet starts an engine and the fleet on it.
func NewFleet(t testing.TB, flags ...string) *Fleet {
	t.Helper()
	return NewEngine(t, flags...).Fleet(fleetFile, local)
}

// NewFleetOf is NewFleet with all volumes of a driver.
func NewFleetOf(t testing.TB, driver string, flags ...string) *Fleet {
	t.Helper()
	return NewEngine(t, flags...).Serve(driver).Fleet(fleetFile, driver)
}

// Fleet starts the fleet of a compose file, with all volumes of a driver that
// the engine has.
func (e *Engine) Fleet(file, driver string) *Fleet {
	e.t.Helper()
	f := &Fleet{
		Engine:     e,
		volumes:    []string{"fleet_alpha", "fleet_beta", "fleet_gamma", "fleet_delta"},
		containers: []string{"fleet-alpha-1", "fleet-beta-1", "fleet-gamma-1", "fleet-delta-1"},
	}
	f.dir = f.Project("fleet", file)
	f.Choose(f.dir, driver, "alpha", "beta", "gamma", "delta")
	f.Up()
	f.CheckDriver(driver, f.volumes...)
	return f
}

// Up brings the fleet up and waits until it runs.
func (f *Fleet) Up() {
	f.t.Helper()
	f.Compose(f.dir, "up", "--detach", "--wait").OK(f.t)
}

// Project writes a compose file into a directory of its own.
func (e *Engine) Project(name, file string) (dir string) {
	e.t.Helper()
	dir = filepath.Join(e.Dir, name)
	must(e.t, os.MkdirAll(dir, 0o755))
	must(e.t, os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(file), 0o600))
	return dir
}

// bulk is how much data each generation of a volume has, in bytes: enough for
// a stage that takes its time.
const bulk = 8 << 20

// Fill puts a generation of data into every volume of the fleet.
func (f *Fleet) Fill(generation string) {
	f.t.Helper()
	for _, name := range f.volumes {
		f.FillVolume(name, generation)
	}
}

// FillVolume replaces what is in a volume by a generation of data: files of
// random content, among them one that names the generation.
func (e *Engine) FillVolume(name, generation string) {
	e.t.Helper()
	e.fillVolume(name, generation, bulk)
}

// fillVolume does it with files of up to size bytes.
func (e *Engine) fillVolume(name, generation string, size int) {
	e.t.Helper()
	root := e.VolumePath(name)
	entries, err := os.ReadDir(root)
	must(e.t, err)
	for _, entry := range entries {
		must(e.t, os.RemoveAll(filepath.Join(root, entry.Name())))
	}
	random := rand.NewChaCha8(sha256.Sum256([]byte(name + generation)))
	data := make([]byte, size)
	_, _ = random.Read(data)
	must(e.t, os.Mkdir(filepath.Join(root, generation), 0o750))
	must(e.t, os.WriteFile(filepath.Join(root, generation, "bulk"), data, 0o640))
	for i := range 20 {
		must(e.t, os.WriteFile(filepath.Join(root, generation, fmt.Sprint(i)), data[:min(i*100, size)], 0o604))
	}
	must(e.t, os.WriteFile(filepath.Join(root, "generation"), []byte(generation), 0o644))
}

// Generation is the one generation that all volumes of the fleet have. It
// fails the test when they are mixed, or are not whole.
func (f *Fleet) Generation(sums map[string]string) string {
	f.t.Helper()
	var found []string
	for _, name := range f.volumes {
		found = append(found, f.VolumeGeneration(name, sums))
	}
	if slices.Compact(slices.Clone(found))[0] == "" || len(slices.Compact(slices.Clone(found))) != 1 {
		f.t.Fatalf("the volumes have mixed data: %v", found)
	}
	return found[0]
}

// VolumeGeneration is a volume's generation, "" when it is none of sums whole.
func (e *Engine) VolumeGeneration(name string, sums map[string]string) string {
	e.t.Helper()
	generation, err := os.ReadFile(filepath.Join(e.VolumePath(name), "generation"))
	if err != nil {
		return ""
	}
	if sum := e.Sum(name); sums[name+" "+string(generation)] != sum {
		e.t.Errorf("volume %s says generation %s but does not have its data", name, generation)
		return ""
	}
	return string(generation)
}

// Sums remembers what a generation looks like that is in the volumes now.
func (f *Fleet) Sums(sums map[string]string, generation string) {
	f.t.Helper()
	for _, name := range f.volumes {
		sums[name+" "+generation] = f.Sum(name)
	}
}

// VolumePath is where a volume's data is on the engine host: a bind mount's
// source, or a folder of the volume driver, where it serves the volume, or the
// engine's own.
func (e *Engine) VolumePath(name string) string {
	e.t.Helper()
	if filepath.IsAbs(name) {
		return name
	}
	records, err := filepath.Glob(filepath.Join(e.Data, "snaprestore/volumes/*/volume.json"))
	must(e.t, err)
	for _, record := range records {
		data, err := os.ReadFile(record)
		must(e.t, err)
		if strings.Contains(string(data), fmt.Sprintf(`"name":%q`, name)) {
			return filepath.Join(filepath.Dir(record), "_data")
		}
	}
	return filepath.Join(e.Data, "volumes", name, "_data")
}

// Sum is a digest of a volume's tree: names, kinds, modes, owners, times to
// the nanosecond, and contents.
func (e *Engine) Sum(name string) string {
	e.t.Helper()
	digest := sha256.New()
	root := e.VolumePath(name)
	must(e.t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fmt.Fprintln(digest, relative, info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintln(digest, len(data))
			digest.Write(data)
		}
		return nil
	}))
	return hex.EncodeToString(digest.Sum(nil)[:8])
}

// Policies are the restart policies of the fleet's containers.
func (f *Fleet) Policies() string {
	f.t.Helper()
	return f.Docker(append([]string{"inspect", "--format",
		"{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}"}, f.containers...)...).OK(f.t).Line()
}

// CheckWhole fails the test unless the fleet's containers are the same as
// before, run with their own restart policies, and nothing of a restore is
// left open or lying about.
func (f *Fleet) CheckWhole(identity, policies string) {
	f.t.Helper()
	f.WaitHealthy(f.containers...)
	if got := f.Identity(f.containers...); got != identity {
		f.t.Errorf("the containers are other ones:\n%s\nwere\n%s", got, identity)
	}
	if got := f.Policies(); got != policies {
		f.t.Errorf("the restart policies are\n%s\nwere\n%s", got, policies)
	}
	for _, op := range f.Operations() {
		if op.State != "closed" {
			f.t.Errorf("%s %s is still %s", op.Kind, op.ID, op.State)
		}
	}
	f.CheckTidy(f.volumes...)
}

// CheckTidy fails the test when something lies beside a volume, or one of
// these bind mounts, that no snapshot owns, or an agent is still there after a
// while.
func (e *Engine) CheckTidy(volumes ...string) {
	e.t.Helper()
	WaitFor(e.t, "agents end", 3*time.Minute, func() string {
		left := e.Docker("ps", "--quiet", "--filter", "label=com.snaprestore.agent").OK(e.t).Line()
		return unless(left == "", "there is still %s", left)
	})
	owned := map[string]bool{}
	for _, s := range e.Snapshots() {
		for _, v := range s.Volumes {
			owned[v.Tree] = true
		}
	}
	dirs := []string{filepath.Join(e.Data, "volumes/*"), filepath.Join(e.Data, "snaprestore/volumes/*")}
	for _, name := range volumes {
		if filepath.IsAbs(name) {
			dirs = append(dirs, filepath.Dir(name))
		}
	}
	for _, dir := range dirs {
		beside, err := filepath.Glob(filepath.Join(dir, ".snaprestore-*"))
		must(e.t, err)
		for _, path := range beside {
			if !owned[path] {
				e.t.Errorf("%s was left behind", strings.TrimPrefix(path, e.Dir))
			}
		}
	}
}
