//go:build e2e && linux

package e2e

import (
	"strings"
	"testing"
)

// project is one of several that share a directory by scope.
func project(name, options string) string {
	return `name: ` + name + `
services:
  app:
    image: snaprestore-demo/busybox
    pull_policy: never
    restart: unless-stopped
    command: ["sh", "-c", "trap exit TERM; sleep 100000 & wait"]
    volumes: ["files:/files"]
volumes:
  files: {driver: snaprestore, driver_opts: {` + options + `}}
`
}

// Projects whose volumes have one stage share its directory: a restore of one
// project stops and starts the containers of all, and says so before. Another
// stage of the same project has its own directory, and runs on.
func TestProjectsThatShareAStage(t *testing.T) {
	e := NewEngine(t)
	e.CLI("install").OK(t)
	for name, options := range map[string]string{
		"front": "scope: stage, project: shop, stage: live", "back": "scope: stage, project: shop, stage: live",
		"trial": "scope: stage, project: shop, stage: test",
	} {
		e.Compose(e.Project(name, project(name, options)), "up", "--detach", "--wait").OK(t)
	}
	write := func(container, word string) {
		t.Helper()
		e.Docker("exec", container, "sh", "-c", "echo "+word+" >/files/f").OK(t)
	}
	see := func(want map[string]string) {
		t.Helper()
		for container, word := range want {
			e.WaitHealthy(container)
			if got := e.Docker("exec", container, "cat", "/files/f").OK(t).Line(); got != word {
				t.Errorf("%s finds %q, want %q", container, got, word)
			}
		}
	}
	started := func(container string) string {
		t.Helper()
		return e.Docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", container).OK(t).Line()
	}
	write("front-app-1", "one")
	write("trial-app-1", "trial")
	id := e.CLI("create", "--project", "front").OK(t).Line()
	write("back-app-1", "two")
	see(map[string]string{"front-app-1": "two", "back-app-1": "two", "trial-app-1": "trial"})

	if plan := e.CLI("restore", "--dry-run", id).OK(t); !strings.Contains(plan.Stdout, "back-app-1") || strings.Contains(plan.Stdout, "trial-app-1") {
		t.Errorf("the plan has not the containers that it concerns\n%s", plan)
	}
	back, trial := started("back-app-1"), started("trial-app-1")
	e.CLI("restore", "--force", id).OK(t)
	see(map[string]string{"front-app-1": "one", "back-app-1": "one", "trial-app-1": "trial"})
	now := started("back-app-1")
	if now == back || strings.Fields(now)[0] != strings.Fields(back)[0] {
		t.Errorf("the other project's container was not started again: was %s, is %s", back, now)
	}
	if started("trial-app-1") != trial {
		t.Error("the other stage's container was started again")
	}
	e.CLI("undo", "--force").OK(t)
	see(map[string]string{"front-app-1": "two", "back-app-1": "two", "trial-app-1": "trial"})
}
