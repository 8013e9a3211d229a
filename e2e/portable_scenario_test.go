//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

// pairFile is a project whose volumes have targets of their own, by which an
// archive of the older layout tells them apart.
const pairFile = `name: pair
x-half: &half
  image: snaprestore-demo/busybox
  pull_policy: never
  command: ["sh", "-c", "trap exit TERM; sleep 100000 & wait"]
services:
  one:
    <<: *half
    volumes: ["one:/one"]
  two:
    <<: *half
    volumes: ["two:/two"]
    depends_on: [one]
volumes:
  one:
  two:
`

// A snapshot is taken while the workload stands still, is found as the latest,
// comes back without a start, and goes through an archive of the older layout.
func TestAStoppedWorkloadALatestSnapshotAndAnOlderArchive(t *testing.T) {
	f := &Fleet{
		Engine:     NewEngine(t),
		volumes:    []string{"pair_one", "pair_two"},
		containers: []string{"pair-one-1", "pair-two-1"},
	}
	f.dir = f.Project("pair", pairFile)
	f.Up()
	sums := map[string]string{}
	f.Fill("first")
	f.Sums(sums, "first")
	identity, policies := f.Identity(f.containers...), f.Policies()
	f.CLI("create", "-p", "pair", "--consistency", "stop", "--stop-timeout", "20", "--name", "before").OK(t)
	f.CheckWhole(identity, policies)

	f.Fill("second")
	f.Sums(sums, "second")
	r := f.CLI("restore", "--force", "--no-start", "-p", "pair", "latest").OK(t)
	if got := f.Generation(sums); got != "first" {
		t.Errorf("the volumes have generation %s", got)
	}
	if up := f.Docker("ps", "--quiet", "--filter", "label=com.docker.compose.project=pair").OK(t).Line(); up != "" {
		t.Errorf("%s runs, after\n%s", up, r.Stderr)
	}
	f.Up()
	f.CheckWhole(identity, policies)

	archive := filepath.Join(f.Dir, "before.tar.gz")
	f.CLI("export", "--gzip", "--output", archive, "before").OK(t)
	f.CLI("rm", "before").OK(t)
	f.CLI("import", "--name", "back", archive).OK(t)
	f.Fill("third")
	f.CLI("restore", "--force", "-p", "pair", "back").OK(t)
	f.CheckWhole(identity, policies)
	for _, name := range f.volumes {
		root := f.VolumePath(name)
		generation, err := os.ReadFile(filepath.Join(root, "generation"))
		must(t, err)
		bytes, err := os.ReadFile(filepath.Join(root, string(generation), "bulk"))
		must(t, err)
		if _, err := os.Stat(filepath.Join(root, "third")); string(generation) != "first" || len(bytes) != bulk || !os.IsNotExist(err) {
			t.Errorf("volume %s has generation %s, %d bytes, and of the last: %v", name, generation, len(bytes), err)
		}
	}
}
