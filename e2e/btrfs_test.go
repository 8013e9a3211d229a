//go:build e2e && linux

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/reflink"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// NewEngineOnBtrfs is NewEngine with a fresh btrfs for its data root.
func NewEngineOnBtrfs(t testing.TB) *Engine {
	t.Helper()
	for _, program := range []string{"mkfs.btrfs", "btrfs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s", program)
		}
	}
	e := newEngine(t)
	disk := filepath.Join(e.Dir, "disk.btrfs")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, diskSize))
	fix(t, "mkfs.btrfs", "-q", disk)
	if out, err := exec.Command("mount", "-o", "loop", disk, e.Data).CombinedOutput(); err != nil {
		t.Skipf("cannot mount btrfs: %s", out)
	}
	e.Start()
	e.Run(filepath.Join(host.repository, "scripts/images"), "import", e.Host).OK(t)
	return e
}

// subvolumes are the paths, below the data root, of those that are of volumes
// and snapshots. The engine may have more for its images.
func (e *Engine) subvolumes() (paths []string) {
	e.t.Helper()
	for line := range strings.Lines(e.Run("btrfs", "subvolume", "list", e.Data).OK(e.t).Stdout) {
		_, path, _ := strings.Cut(strings.TrimSpace(line), " path ")
		if strings.HasPrefix(path, "snaprestore/") || strings.HasPrefix(path, "volumes/") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Where the data root is a btrfs, volumes of the driver are taken and brought
// back as a whole, local ones beside them by sharing blocks, and a database
// under load goes through a restore, undos and drills all the same. With the
// snapshots everything goes that was made of subvolumes.
func TestAProjectOnBtrfs(t *testing.T) {
	if host.suite == "bookworm" {
		t.Skip("it passes on 20.10 too, and takes minutes: what differs is the file system, not the engine")
	}
	e := NewEngineOnBtrfs(t)
	s := e.OpenShop(volume.Driver, "dbdata", "cachedata")
	s.CheckDriver(local, "shop_files")
	live := s.subvolumes()
	if len(live) != 2 {
		t.Fatalf("want a subvolume for each volume of the driver: %v", live)
	}
	state := func() string {
		t.Helper()
		files := s.Docker("exec", "shop-web-1", "cat", "/srv/files/state").OK(t).Line()
		return s.SQL("select v from state") + " " + s.Redis("get", "state") + " " + files
	}
	become := func(word string) {
		t.Helper()
		s.SQL("update state set v = '" + word + "'")
		s.Redis("set", "state", word)
		s.Docker("exec", "shop-web-1", "sh", "-c", "echo "+word+" >/srv/files/state").OK(t)
	}
	s.SQL("create table state (v text); insert into state values ('')")
	become("snapshot")
	load := s.Begin("docker", "exec", "shop-db-1", "pgbench", "--client=4", "--time=120")
	WaitFor(t, "clients write", 3*time.Minute, func() string {
		return unless(s.SQL("select count(*) > 500 from pgbench_history") == "t", "there is little history")
	})
	id := s.CLI("create", "--project", "shop").OK(t).Line()
	if load.Ended() {
		t.Fatalf("the snapshot ended the clients' load\n%s", load.Wait())
	}
	s.checkEngines(id)
	become("later")
	s.SQL("drop table pgbench_branches cascade") // ends the load
	load.Wait()
	s.Docker("exec", "shop-web-1", "sh", "-c", "rm -rf /srv/files/visits").OK(t)

	s.CLI("restore", "--project", "shop", "--force", id).OK(t)
	s.CheckDatabase()
	s.Docker("exec", "shop-web-1", "test", "-s", "/srv/files/visits").OK(t)
	safety := func() string {
		t.Helper()
		for _, made := range s.Snapshots() { // the newest first
			if made.Kind == snapshot.Safety {
				return made.ID
			}
		}
		t.Fatal("there is no safety snapshot")
		return ""
	}
	check := func(want string) {
		t.Helper()
		s.WaitHealthy(shopContainers...)
		if got := state(); got != want+" "+want+" "+want {
			t.Fatalf("there is %q, want %q in each volume", got, want)
		}
	}
	check("snapshot")
	for _, want := range []string{"later", "snapshot"} {
		s.CLI("undo", "--force").OK(t)
		check(want)
	}
	s.CLI("restore", "--force", safety()).OK(t)
	check("later")

	s.CLI("verify").OK(t)
	before := s.lives()
	s.CLI("drill", id).OK(t)
	s.CLI("drill", "--start", id).OK(t)
	if left := s.trials(); len(left) > 0 {
		t.Errorf("left of the drills: %v", left)
	}
	if after := s.lives(); after != before {
		t.Errorf("the workload was touched:\n%s\nwas\n%s", after, before)
	}

	s.CLI(append([]string{"rm"}, s.CLI("ls", "--quiet").OK(t).Lines()...)...).OK(t)
	s.CheckTidy()
	if left := s.subvolumes(); !slices.Equal(left, live) {
		t.Errorf("subvolumes are\n%v\nat first there were\n%v", left, live)
	}
}

// checkEngines fails the test unless inspect and the plan of a restore name the
// copy engines that volumes have on btrfs.
func (s *Shop) checkEngines(id string) {
	s.t.Helper()
	want := map[string]string{"shop_dbdata": btrfs.Name, "shop_cachedata": btrfs.Name, "shop_files": reflink.Name}
	var found []plan.Inspected
	must(s.t, json.Unmarshal([]byte(s.CLI("inspect", "--format", "json", id).OK(s.t).Stdout), &found))
	var planned plan.Plan
	must(s.t, json.Unmarshal([]byte(s.CLI("restore", "--dry-run", "--format", "json", id).OK(s.t).Stdout), &planned))
	if len(found) != 1 || len(found[0].Volumes) != len(want) || len(planned.Volumes) != len(want) {
		s.t.Fatalf("inspect says %+v, the plan is %+v", found, planned)
	}
	for i, v := range found[0].Volumes {
		if v.Engine != want[v.Name] {
			s.t.Errorf("%s was stored by %s (%s), want %s", v.Name, v.Engine, v.Reason, want[v.Name])
		}
		if p := planned.Volumes[i]; p.Engine != want[p.From] {
			s.t.Errorf("%s is staged by %s, want %s", p.Name, p.Engine, want[p.From])
		}
	}
}
