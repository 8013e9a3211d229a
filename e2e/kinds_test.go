//go:build e2e && linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mixedFile is the fleet with volumes of every kind: two served by the volume
// driver, one of them of a project's scope, one local, and a bind mount. A
// further service has all of them, and tells the generations that it finds at
// each of its starts.
var mixedFile = strings.NewReplacer(
	`volumes: ["delta:/data"]
volumes:
  alpha:
  beta:
  gamma:
  delta:
`, `volumes: ["./data/delta:/data"]
  witness:
    <<: *ship
    restart: unless-stopped
    command: ["sh", "-c", "`+look+`; trap 'sleep 0.3; exit 0' TERM; sleep 100000 & wait"]
    volumes: ["alpha:/a:ro", "beta:/b:ro", "gamma:/c:ro", "./data/delta:/d:ro"]
volumes:
  alpha: {driver: snaprestore}
  beta:
  gamma: {driver: snaprestore, driver_opts: {scope: project, project: fleet}}
`).Replace(fleetFile)

// look prints the generations of the volumes at /a, /b, /c and /d, in a line.
const look = `echo saw $$(cat /[a-d]/generation)`

// NewMixedFleet is NewFleet with volumes of every kind.
func NewMixedFleet(t testing.TB, flags ...string) *Fleet {
	t.Helper()
	f := &Fleet{Engine: NewEngine(t, flags...)}
	f.dir = f.Project("fleet", mixedFile)
	delta := filepath.Join(f.dir, "data/delta")
	must(t, os.MkdirAll(delta, 0o755))
	f.volumes = []string{"fleet_alpha", "fleet_beta", "fleet_gamma", delta}
	f.containers = []string{"fleet-alpha-1", "fleet-beta-1", "fleet-gamma-1", "fleet-delta-1", "fleet-witness-1"}
	f.CLI("install", "--allow-path", filepath.Dir(delta)).OK(t)
	f.Up()
	return f
}

// CheckSeen fails the test where a container that looks at its volumes, of
// which there are so many, ever found data of several generations.
func (e *Engine) CheckSeen(container string, volumes int) {
	e.t.Helper()
	for _, line := range strings.Split(e.Docker("logs", container).OK(e.t).Stdout, "\n") {
		seen := strings.TrimSpace(strings.TrimPrefix(line, "saw"))
		if seen != strings.Repeat(seen[:len(seen)/volumes], volumes) {
			e.t.Errorf("%s saw %q", container, seen)
		}
	}
}

// Drivers are the process numbers of the engine's volume driver.
func (e *Engine) Drivers() (pids []int) {
	e.t.Helper()
	for _, pid := range processes(e.Dir, "/"+e.name+"/") {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(line), "/snaprestored\x00--") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// SignalDrivers sends the driver's processes a signal.
func (e *Engine) SignalDrivers(signal unix.Signal) {
	e.t.Helper()
	for _, pid := range e.Drivers() {
		_ = unix.Kill(pid, signal)
	}
}

// KillDriver kills the driver and waits until the engine has started it again.
// An engine gives a driver up that dies before it has recorded that it runs.
func (e *Engine) KillDriver() {
	e.t.Helper()
	was, recorded := e.Drivers(), e.driverRecorded()
	e.SignalDrivers(unix.SIGKILL)
	WaitFor(e.t, "the driver is started again", time.Minute, func() string {
		now := e.Drivers()
		return unless(len(was) > 0 && len(now) > 0 && now[0] != was[0] && e.driverRecorded().After(recorded), "was %v, is %v", was, now)
	})
}

// driverRecorded is when the engine last wrote down how its plugin stands.
func (e *Engine) driverRecorded() time.Time {
	e.t.Helper()
	records, err := filepath.Glob(filepath.Join(e.Data, "plugins/*/config.json"))
	must(e.t, err)
	if len(records) != 1 {
		e.t.Fatalf("want one plugin: %v", records)
	}
	info, err := os.Stat(records[0])
	must(e.t, err)
	return info.ModTime()
}

// Logged counts how often the engine's log, which has the driver's too, says
// something.
func (e *Engine) Logged(what string) int {
	e.t.Helper()
	data, err := os.ReadFile(e.log())
	must(e.t, err)
	return strings.Count(string(data), what)
}

// Sees is what a new container finds in a volume's file.
func (e *Engine) Sees(volume, file string) Result {
	e.t.Helper()
	return e.Docker("run", "--rm", "--network", "none", "--volume", volume+":/data", "snaprestore-demo/busybox", "cat", "/data/"+file)
}

// mounts are the options that give a container these volumes at /a, /b, /c …
func mounts(volumes ...string) (options []string) {
	for i, name := range volumes {
		options = append(options, "--volume", name+":/"+strconv.FormatInt(int64(10+i), 36))
	}
	return options
}
