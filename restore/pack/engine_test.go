//go:build linux

package pack

import (
	"testing"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/tree"
)

func TestMain(m *testing.M) { conformance.Main(m) }

func TestEngine(t *testing.T) { conformance.Run(t, New(), nil) }

// Where no file is in memory all are announced first, and wait.
func TestEngineWithAColdDisk(t *testing.T) {
	conformance.Run(t, engine{func(*tree.Node, []byte) bool { return false }}, nil)
}

func TestEngineOnOtherFileSystems(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			conformance.Run(t, New(), conformance.Below(conformance.FileSystem(t, kind)))
		})
	}
}
