//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Stray runs a process in the place of a container's, of which the engine knows
// nothing: as one leaves it that is killed while it starts the container.
func (e *Engine) Stray(id string) {
	e.t.Helper()
	root := filepath.Join(e.Dir, "stray-"+id[:12])
	must(e.t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	fix(e.t, "cp", "/bin/busybox", filepath.Join(root, "bin/sleep"))
	fix(e.t, "env", "PATH="+host.path, "ctr", "--address", filepath.Join(e.Dir, "containerd.sock"), "--namespace", "moby",
		"run", "--detach", "--cgroup", "/"+e.name+"/"+id, "--rootfs", root, id, "/bin/sleep", "10000")
}

// A container of which a process runs that the engine does not know of, since it
// was killed while it started it: the engine takes the end of that process for
// the end of the next, ends that too, and so on for ever, once it starts the
// container over it. A recovery ends the process first.
func TestARecoveryEndsWhatAnEngineHasForgotten(t *testing.T) {
	f := NewFleet(t)
	f.Fill("one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	identity, policies := f.Identity(f.containers...), f.Policies()
	client := f.Hold(func() {}, "restore", "--force", id)
	f.Docker(append([]string{"stop"}, f.containers...)...).OK(t)
	f.Kill9()
	f.SignalAgents(unix.SIGKILL)
	client.Kill()
	client.Wait()
	for i, line := range strings.Split(identity, "\n") {
		// What its policy is to start the engine starts itself, before a recovery.
		if strings.Split(policies, "\n")[i] != "always:0" {
			f.Stray(strings.Fields(line)[1])
		}
	}
	f.Start()
	f.WaitClosed()
	f.CheckWhole(identity, policies)
	lives := func() string {
		return f.Docker(append([]string{"inspect", "--format", "{{.Name}} {{.State.Status}} {{.State.StartedAt}}"}, f.containers...)...).OK(t).Line()
	}
	first := lives()
	for since := time.Now(); time.Since(since) < 5*time.Second; {
		if now := lives(); now != first {
			t.Fatalf("the containers do not stay up: they were\n%s\nand are\n%s", first, now)
		}
	}
}
