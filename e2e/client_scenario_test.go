//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// The client needs nothing of the engine but its API: one that reaches it over
// TCP, in a mount namespace where the engine's directories are empty, does all
// that a local one does, archives and the installation of the driver included.
func TestAClientThatCannotSeeTheEnginesFiles(t *testing.T) {
	WithEachDriver(t, testAClientThatCannotSeeTheEnginesFiles)
}

func testAClientThatCannotSeeTheEnginesFiles(t *testing.T, driver string) {
	const address = "tcp://127.0.0.1:2375" // in the engine's own network namespace
	e := NewEngine(t, "--host", address, "--tls=false")
	away := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(away, "config/cli-plugins"), 0o755))
	fix(t, "cp", host.plugin, filepath.Join(away, "config/cli-plugins/docker-snaprestore"))
	isolated := func(command string) Result {
		return e.Run("nsenter", "--net=/run/netns/"+e.name, "unshare", "--mount", "--propagation", "private",
			"env", "DOCKER_HOST="+address, "DOCKER_CONFIG="+away+"/config",
			// The engine's socket on the engine host is not where others have it.
			"SNAPRESTORE_ENGINE_SOCKET="+e.socket(),
			"sh", "-euc", `mount -t tmpfs none "$0"; test -z "$(ls -A "$0")"; cd "$1"; `+command, host.dir, away)
	}
	if driver == volume.Driver {
		isolated("docker snaprestore install").OK(t)
	}
	f := e.Fleet(fleetFile, driver)
	sums := map[string]string{}
	f.Fill("one")
	f.Sums(sums, "one")
	identity, policies := f.Identity(f.containers...), f.Policies()

	id := isolated("docker snaprestore create --project fleet").OK(t).Line()
	f.Fill("two")
	f.Sums(sums, "two")
	isolated("docker snaprestore restore --force " + id).OK(t)
	if got := f.Generation(sums); got != "one" {
		t.Errorf("generation %q is in place after the restore, want one", got)
	}
	isolated("docker snaprestore undo --force").OK(t)
	if got := f.Generation(sums); got != "two" {
		t.Errorf("generation %q is in place after the undo, want two", got)
	}
	isolated("docker snaprestore export " + id + " --output archive; docker snaprestore rm " + id).OK(t)
	back := isolated("docker snaprestore import archive --name back").OK(t).Line()
	isolated("docker snaprestore restore --force --confirm " + back + " back").OK(t)
	if got := f.Generation(sums); got != "one" {
		t.Errorf("generation %q is in place after the restore of an import, want one", got)
	}
	f.CheckWhole(identity, policies)
}
