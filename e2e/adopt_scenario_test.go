//go:build e2e && linux

package e2e

import (
	"strings"
	"testing"
)

// movingFile is a project whose volumes have this line of the compose file
// each.
func movingFile(driver string) string {
	return strings.ReplaceAll(`name: moving
services:
  one:
    image: snaprestore-demo/busybox
    pull_policy: never
    restart: unless-stopped
    command: ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
    volumes: ["left:/left", "right:/right"]
volumes:
  left: {labels: {owner: somebody}DRIVER}
  right: {labels: {owner: somebody}DRIVER}
`, "DRIVER", driver)
}

// Local volumes of a Compose project become the driver's and local ones again,
// each with its data and labels. Compose goes on with them, with the compose
// file changed as adopt says, and makes nothing anew.
func TestAdoptMovesAProjectsVolumesInAndBack(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	const local, served = "", ", driver: snaprestore"
	volumes := []string{"moving_left", "moving_right"}
	dir := e.Project("moving", movingFile(local))
	up := func() { e.Compose(dir, "up", "--detach", "--wait").OK(t) }
	sums := func() string { return e.Sum(volumes[0]) + e.Sum(volumes[1]) }
	described := func() string {
		return e.Docker(append([]string{"volume", "inspect", "--format",
			`{{.Driver}} {{index .Labels "com.docker.compose.project"}} {{index .Labels "com.docker.compose.volume"}} {{.Labels.owner}}`}, volumes...)...).OK(t).Line()
	}
	// check looks at everything after a change of the driver.
	check := func(what, driver, data string) {
		t.Helper()
		if want := driver + " moving left somebody\n" + driver + " moving right somebody"; described() != want {
			t.Errorf("%s: the volumes are\n%s\nwant\n%s", what, described(), want)
		}
		if sums() != data {
			t.Errorf("%s: the data is another", what)
		}
	}
	up()
	for _, name := range volumes {
		e.FillVolume(name, "one")
	}
	one := sums()
	check("at first", "local", one)

	r := e.CLI(append([]string{"adopt"}, volumes...)...).Exits(t, 1)
	if !strings.Contains(r.Stderr, "compose -p moving down") {
		t.Errorf("the refusal does not say how to go on\n%s", r)
	}
	check("refused while a container exists", "local", one)

	for _, step := range []struct {
		what, driver, line string
		args               []string
	}{
		{"adopted", "snaprestore:latest", served, []string{"adopt"}},
		{"adopted back", "local", local, []string{"adopt", "--back"}},
		{"adopted again", "snaprestore:latest", served, []string{"adopt"}},
	} {
		e.Compose(dir, "down").OK(t)
		r := e.CLI(append(step.args, volumes...)...).OK(t)
		check(step.what, step.driver, one)
		for _, want := range []string{"left:", "right:", "driver: " + strings.TrimSuffix(step.driver, ":latest")} {
			if !strings.Contains(r.Stderr, want) {
				t.Errorf("%s: it does not say to change %q in the compose file\n%s", step.what, want, r)
			}
		}
		// With the compose file as it was nothing is lost either.
		up()
		check(step.what+", and up with the old file", step.driver, one)
		e.Project("moving", movingFile(step.line))
		up()
		check(step.what+", and up", step.driver, one)
		identity := e.Identity("moving-one-1")
		up()
		if now := e.Identity("moving-one-1"); now != identity {
			t.Errorf("%s: compose up made the container anew: %s, was %s", step.what, now, identity)
		}
		if seen := e.Docker("exec", "moving-one-1", "cat", "/left/generation", "/right/generation").OK(t).Line(); seen != "oneone" {
			t.Errorf("%s: the container sees %q", step.what, seen)
		}
		// It is not undone under a container, either.
		undo := e.CLI("undo", "--force", e.WaitClosed().ID).Exits(t, 1)
		if !strings.Contains(undo.Stderr, "compose -p moving down") {
			t.Errorf("%s: undo does not say what is in the way\n%s", step.what, undo)
		}
		check(step.what+", and undo refused", step.driver, one)
	}

	// Undone by its number, an adoption gives the volume back what it had in
	// the engine; that is undone too.
	e.Compose(dir, "down").OK(t)
	last := e.WaitClosed()
	right := last.Volumes[0].Name
	for _, want := range []string{"local", "snaprestore:latest"} {
		e.CLI("undo", "--force", last.ID).OK(t)
		if now := e.Docker("volume", "inspect", "--format", "{{.Driver}} {{.Labels.owner}}", right).OK(t).Line(); now != want+" somebody" {
			t.Errorf("undone: volume %s is %q, want driver %s", right, now, want)
		}
		if sums() != one {
			t.Error("undone: the data is another")
		}
		last = e.WaitClosed()
	}
	up()

	// They are restored like any others.
	id := e.CLI("create", "--project", "moving").OK(t).Line()
	for _, name := range volumes {
		e.FillVolume(name, "two")
	}
	two := sums()
	e.CLI("restore", "--force", id).OK(t)
	check("restored", "snaprestore:latest", one)
	e.CLI("undo", "--force").OK(t)
	check("undone", "snaprestore:latest", two)
	// What the undo replaced would be lost with the volume.
	e.Compose(dir, "down").OK(t)
	e.CLI(append([]string{"adopt", "--back"}, volumes...)...).Exits(t, 1)
	check("refused for the safety snapshot", "snaprestore:latest", two)
	e.CheckTidy()
}
