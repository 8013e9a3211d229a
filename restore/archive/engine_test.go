//go:build linux

package archive

import (
	"testing"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func TestMain(m *testing.M) { conformance.Main(m) }

func TestEngine(t *testing.T) { conformance.Run(t, New(), nil) }

func TestEngineOnOtherFileSystems(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			conformance.Run(t, New(), conformance.Below(conformance.FileSystem(t, kind)))
		})
	}
}
