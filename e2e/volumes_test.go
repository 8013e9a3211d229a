//go:build e2e && linux

package e2e

import (
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// local is the driver of volumes that need no set-up.
const local = "local"

// WithEachDriver runs a scenario once with all volumes of the engine's own
// driver, and once with all of the volume driver. Where SNAPRESTORE_E2E_DRIVERS
// is "one" it is one of both, always the same for a scenario.
func WithEachDriver(t *testing.T, scenario func(t *testing.T, driver string)) {
	drivers := []string{local, volume.Driver}
	chosen := drivers[crc32.ChecksumIEEE([]byte(t.Name()))%2]
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			if oneDriver() && driver != chosen {
				t.Skipf("on this engine with the driver %s only: SNAPRESTORE_E2E_DRIVERS is \"one\"", chosen)
			}
			scenario(t, driver)
		})
	}
}

// oneDriver reports whether scenarios are to run with the volumes of one driver
// only.
func oneDriver() bool { return environment("SNAPRESTORE_E2E_DRIVERS", "each") == "one" }

// Serve makes the engine able to have volumes of a driver.
func (e *Engine) Serve(driver string) *Engine {
	e.t.Helper()
	if driver == volume.Driver {
		e.CLI("install").OK(e.t)
	}
	return e
}

// Choose has a project's volumes, by their keys in the compose file in dir, be
// of a driver when Compose makes them.
func (e *Engine) Choose(dir, driver string, keys ...string) {
	e.t.Helper()
	if driver == local {
		return // as without a word
	}
	override := "volumes:\n"
	for _, key := range keys {
		override += fmt.Sprintf("  %s: {driver: %q}\n", key, driver)
	}
	must(e.t, os.WriteFile(filepath.Join(dir, "compose.override.yaml"), []byte(override), 0o600))
}

// CheckDriver fails the test unless volumes are of a driver, and lie where it
// keeps them.
func (e *Engine) CheckDriver(driver string, names ...string) {
	e.t.Helper()
	found := e.Docker(append([]string{"volume", "inspect", "--format", "{{.Driver}}"}, names...)...).OK(e.t).Lines()
	for i, name := range names {
		got, ours := found[i], driver == volume.Driver
		there := strings.HasPrefix(e.VolumePath(name), filepath.Join(e.Data, "snaprestore/volumes")+"/")
		if (got == local) == ours || volume.Served(got) != ours || there != ours {
			e.t.Fatalf("volume %s is of driver %q and lies at %s, want driver %q", name, got, e.VolumePath(name), driver)
		}
	}
}
