//go:build e2e && linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Paths are allowed by install, several at once and one after the other; the
// list is kept, and doctor shows it. What can hold no workload's data is
// refused with its reason, and the list stays as it is.
func TestPathsAreAllowedOneByOneAndKept(t *testing.T) {
	e := NewEngine(t)
	list := filepath.Join(e.Data, "snaprestore/allow.json")
	allowed := func() string {
		t.Helper()
		data, err := os.ReadFile(list)
		must(t, err)
		return string(data)
	}
	one, two, three := e.Dir+"/one", e.Dir+"/two", e.Dir+"/three"
	e.CLI("install", "--allow-path", two, "--allow-path", one).OK(t)
	e.CLI("install", "--allow-path", three, "--allow-path", one).OK(t)
	e.CLI("install").OK(t)
	if got, want := allowed(), fmt.Sprintf(`{"prefixes":[%q,%q,%q]}`+"\n", one, three, two); got != want {
		t.Errorf("%s is allowed, want %s", got, want)
	}
	if shown := e.CLI("doctor", "--format", "{{.Name}}={{.Detail}}").Stdout; !strings.Contains(shown, "allowed paths="+strings.Join([]string{one, three, two}, ", ")) {
		t.Errorf("doctor shows %s", shown)
	}
	before := allowed()
	for _, bad := range []struct{ path, reason string }{
		{"/", "the engine's own directory"},
		{"/etc", "is a directory of the system"},
		{"/usr/local/share/data", "is a directory of the system"},
		{"/var/lib", "is a directory of the system"},
		{e.Data, "the engine's own directory"},
		{filepath.Join(e.Data, "volumes"), "the engine's own directory"},
		{e.Dir, "the engine's own directory"},
		{"data", "not an absolute path"},
		{one + "/../../etc", "not in its shortest form"},
		{"", "not an absolute path"},
	} {
		r := e.CLI("install", "--allow-path", e.Dir+"/four", "--allow-path", bad.path).Exits(t, 1)
		for _, want := range []string{bad.reason, "nothing was changed", "hint:"} {
			if !strings.Contains(r.Stderr, want) {
				t.Errorf("the refusal of %q does not say %q\n%s", bad.path, want, r)
			}
		}
		if got := allowed(); got != before {
			t.Errorf("a refusal of %q changed the list to %s", bad.path, got)
		}
	}
}

// A bind mount below an allowed path takes part in create, restore and undo
// like a volume. Every other one is left alone, and create and the plan of a
// restore say why.
func TestBindMountsTakePartWhereTheyAreAllowed(t *testing.T) {
	e := NewEngine(t)
	srv, out := filepath.Join(e.Dir, "srv"), filepath.Join(e.Dir, "out")
	for _, dir := range []string{srv + "/good", srv + "/also", srv + "/mounted", out + "/data", e.Data + "/tmp/inside"} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.WriteFile(srv+"/file", []byte("a file"), 0o644))
	must(t, os.Symlink(out+"/data", srv+"/link"))
	must(t, os.Symlink(out, srv+"/way"))
	fix(t, "mount", "-t", "tmpfs", "tmpfs", srv+"/mounted")
	skipped := map[string]string{
		srv:                    "an allowed prefix itself",
		srv + "/file":          "not a directory",
		srv + "/link":          "a symbolic link",
		srv + "/way/data":      "a symbolic link on the way",
		srv + "/mounted":       "a mount point",
		out + "/data":          "outside every allowed path",
		"/etc/alternatives":    "outside every allowed path",
		e.Data + "/tmp/inside": "outside every allowed path",
	}
	file := `name: bound
services:
  app:
    image: snaprestore-demo/busybox
    pull_policy: never
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
    volumes: ["named:/named", "` + srv + `/good:/good", "` + srv + `/also:/also"`
	sources := make([]string, 0, len(skipped))
	for source := range skipped {
		sources = append(sources, source)
	}
	slices.Sort(sources)
	for i, source := range sources {
		file += fmt.Sprintf(`, "%s:/skipped%d:ro"`, source, i)
	}
	dir := e.Project("bound", file+"]\nvolumes: {named: {}}\n")
	e.Compose(dir, "up", "--detach").OK(t)

	// Without the list every bind mount is left alone.
	e.CLI("create", "--project", "bound").OK(t)
	for _, s := range e.Snapshots()[0].Skipped {
		if !strings.Contains(s.Reason, "outside every allowed path") {
			t.Errorf("skipped %s: %s", s.What, s.Reason)
		}
	}
	e.CLI("install", "--allow-path", srv).OK(t)

	taken := []string{srv + "/also", srv + "/good", "bound_named"}
	sums := func() (all string) {
		for _, name := range taken {
			all += e.Sum(name) + "\n"
		}
		return all
	}
	fill := func(generation string) string {
		for _, name := range taken {
			e.FillVolume(name, generation)
		}
		must(t, os.WriteFile(out+"/data/kept", []byte(generation), 0o644))
		return sums()
	}
	one := fill("one")
	id := e.CLI("create", "--project", "bound").OK(t).Line()
	snap := e.Snapshots()[0]
	var names []string
	for _, v := range snap.Volumes {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, taken) {
		t.Errorf("the snapshot has %v, want %v", names, taken)
	}
	plan := e.CLI("restore", "--dry-run", id).OK(t)
	for source, reason := range skipped {
		said := ""
		for _, s := range snap.Skipped {
			if strings.HasPrefix(s.What, "bind mount "+source+" at ") {
				said = s.Reason
			}
		}
		if !strings.Contains(said, reason) {
			t.Errorf("%s is skipped by create because %q, want %q", source, said, reason)
		}
		shown := false
		for _, line := range strings.Split(plan.String(), "\n") {
			shown = shown || strings.Contains(line, "bind mount "+source+" at ") && strings.Contains(line, reason)
		}
		if !shown {
			t.Errorf("the plan does not say that %s is skipped because it is %s\n%s", source, reason, plan)
		}
	}
	if len(snap.Skipped) != len(skipped) {
		t.Errorf("skipped: %v", snap.Skipped)
	}
	two := fill("two")
	e.CLI("restore", "--force", id).OK(t)
	if sums() != one {
		t.Error("the data is not that of the snapshot")
	}
	if data, err := os.ReadFile(out + "/data/kept"); err != nil || string(data) != "two" {
		t.Errorf("what is not allowed has %q (%v), want two", data, err)
	}
	if seen := e.Docker("exec", "bound-app-1", "cat", "/good/generation", "/also/generation", "/named/generation").OK(t).Line(); seen != "oneoneone" {
		t.Errorf("the container sees %s", seen)
	}
	e.CLI("undo", "--force").OK(t)
	if sums() != two {
		t.Error("the data is not that of before")
	}
	for _, source := range sources {
		e.CLI("create", source).Exits(t, 1)
	}
	if sums() != two {
		t.Error("a refusal changed something")
	}
	e.CheckTidy(taken...)
	e.Docker("rm", "--force", "bound-app-1").OK(t)
	must(t, unix.Unmount(srv+"/mounted", 0))
}
