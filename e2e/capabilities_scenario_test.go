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

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// driverCapabilities are what the driver keeps.
var driverCapabilities = []string{"sys_admin", "sys_ptrace", "sys_chroot", "dac_override", "fowner"}

// limited is the installed driver as a plugin that can be made with fewer
// capabilities: a folder as `docker plugin create` takes it.
type limited struct {
	*Engine
	dir    string
	config map[string]any
}

// NewLimited installs the driver and copies what the engine made of it, with
// setpriv in front: an engine gives every plugin the capabilities of a
// container, whatever its configuration says.
func NewLimited(t testing.TB) *limited {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("setpriv is not here")
	}
	l := &limited{Engine: NewEngine(t)}
	if version := l.Docker("version", "--format", "{{.Server.Version}}").OK(t).Line(); strings.HasPrefix(version, "20.10.") {
		t.Skip("the driver's capabilities are taken away on the newest engine only")
	}
	// Where the data root is shared, what the driver mounts reaches the engine
	// by way of that too, and nobody has to enter its namespace.
	fix(t, "mount", "--make-private", l.Data)
	l.CLI("install").OK(t)
	l.dir = filepath.Join(l.Dir, "limited")
	must(t, os.Mkdir(l.dir, 0o755))
	must(t, json.Unmarshal([]byte(l.Docker("plugin", "inspect", "--format", "{{json .Config}}", volume.Driver).OK(t).Stdout), &l.config))
	folders, err := filepath.Glob(filepath.Join(l.Data, "plugins/*/rootfs"))
	must(t, err)
	if len(folders) != 1 {
		t.Fatalf("want the folder of one plugin: %v", folders)
	}
	fix(t, "cp", "-a", folders[0], filepath.Join(l.dir, "rootfs"))
	// The libraries are the words with a path in the lines of ldd.
	fix(t, "sh", "-euc", `cp --parents --dereference "$0" $(ldd "$0" | grep -o '/[^ ]*') "$1"`, setpriv, filepath.Join(l.dir, "rootfs"))
	entrypoint, ok := l.config["Entrypoint"].([]any)
	if !ok || len(entrypoint) == 0 {
		t.Fatalf("the plugin has no entrypoint: %v", l.config)
	}
	l.config["Entrypoint"] = append([]any{setpriv, "--inh-caps", "-all", "--bounding-set", ""}, entrypoint...)
	return l
}

// With puts a driver with these capabilities in the place of the present one,
// and gives the result of its enabling.
func (l *limited) With(capabilities []string) Result {
	l.t.Helper()
	bounds := "-all"
	for _, name := range capabilities {
		bounds += ",+" + name
	}
	l.config["Entrypoint"].([]any)[4] = bounds
	data, err := json.Marshal(l.config)
	must(l.t, err)
	must(l.t, os.WriteFile(filepath.Join(l.dir, "config.json"), data, 0o600))
	l.Docker("plugin", "rm", "--force", volume.Driver).OK(l.t)
	l.Docker("plugin", "create", volume.Driver, l.dir).OK(l.t)
	return l.Docker("plugin", "enable", volume.Driver)
}

// LosePaths takes the driver's mount paths away from the engine, as one that
// is killed and started again may do itself.
func (l *limited) LosePaths() {
	l.t.Helper()
	folders, err := filepath.Glob(filepath.Join(l.Data, "plugins/*/propagated-mount"))
	must(l.t, err)
	if len(folders) != 1 || unix.Unmount(folders[0], unix.MNT_DETACH) != nil {
		l.t.Fatalf("nothing is mounted for the plugin: %v", folders)
	}
	for unix.Unmount(folders[0], unix.MNT_DETACH) == nil {
	}
}

// Foreign makes a volume with something of another user in it: a directory
// that only its owner may enter, or a name that only its owner may remove.
func (l *limited) Foreign(name string, mode os.FileMode) {
	l.t.Helper()
	l.Docker("volume", "create", "--driver", volume.Driver, name).OK(l.t)
	inner := filepath.Join(l.VolumePath(name), "inner")
	must(l.t, os.Mkdir(inner, 0o700))
	must(l.t, os.WriteFile(filepath.Join(inner, "file"), nil, 0o600))
	for _, path := range []string{inner, filepath.Join(inner, "file")} {
		must(l.t, os.Chown(path, 1001, 1001))
	}
	must(l.t, os.Chmod(inner, mode))
}

// The driver that an engine runs as a plugin has the capabilities that it
// needs, and each of them: without one of them one of its duties is not done.
func TestTheInstalledDriverNeedsItsCapabilities(t *testing.T) {
	l := NewLimited(t)
	l.Docker("volume", "create", "--driver", volume.Driver, "data").OK(t)
	must(t, os.WriteFile(filepath.Join(l.VolumePath("data"), "f"), []byte("kept"), 0o600))

	l.With(driverCapabilities).OK(t)
	for _, needed := range driverCapabilities {
		l.duty(needed, "all", true)
	}
	for _, without := range driverCapabilities {
		t.Run("without "+without, func(t *testing.T) {
			l.In(t)
			rest := slices.DeleteFunc(slices.Clone(driverCapabilities), func(name string) bool { return name == without })
			refusals := func() int { return l.Logged("permitted") + l.Logged("permission denied") }
			before := refusals()
			enabled := l.With(rest)
			if without == "sys_admin" { // it cannot mount what it serves
				if enabled.Code == 0 {
					t.Errorf("the driver starts\n%s", enabled)
				}
			} else {
				enabled.OK(t)
				l.duty(without, "not-"+without, false)
			}
			WaitFor(t, "the driver says what it may not do", time.Minute, func() string {
				return unless(refusals() > before, "nothing was denied to it")
			})
		})
	}
}

// duty has the driver do what needs a capability, and fails the test unless it
// is done, or not done. Its volumes are named with a word of the caller's.
func (l *limited) duty(needs, word string, done bool) {
	l.t.Helper()
	switch needs {
	case "sys_admin": // mount
		if got := l.Sees("data", "f").OK(l.t).Line(); got != "kept" {
			l.t.Errorf("a container sees %q", got)
		}
	case "sys_ptrace", "sys_chroot": // give the engine back the mount paths that it lost
		drivers := l.Drivers()
		l.LosePaths()
		if !done { // it ends, and the engine starts another one with new paths
			WaitFor(l.t, "another driver runs", time.Minute, func() string {
				now := l.Drivers()
				return unless(len(now) == 1 && now[0] != drivers[0], "was %v, is %v", drivers, now)
			})
			return
		}
		if got := l.Sees("data", "f").OK(l.t).Line(); got != "kept" {
			l.t.Errorf("a container sees %q", got)
		}
		if now := l.Drivers(); !slices.Equal(now, drivers) {
			l.t.Errorf("the driver was started again: was %v, is %v", drivers, now)
		}
	case "dac_override", "fowner": // remove what others own
		mode := map[string]os.FileMode{"dac_override": 0o700, "fowner": 0o777 | os.ModeSticky}[needs]
		name := needs + "-" + word
		l.Foreign(name, mode)
		if r := l.Docker("volume", "rm", name); (r.Code == 0) != done {
			l.t.Errorf("want that it is done: %v\n%s", done, r)
		}
	}
}
