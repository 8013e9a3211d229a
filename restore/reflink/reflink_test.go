//go:build linux

package reflink

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func TestMain(m *testing.M) { conformance.Main(m) }

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func TestEngine(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			at := conformance.FileSystem(t, kind)
			conformance.Run(t, New(), conformance.Below(at))
		})
	}
}

// A file system that cannot share blocks is refused with the reason, and the
// probe leaves nothing behind.
func TestProbeRefusesOtherFileSystems(t *testing.T) {
	for kind, can := range map[string]bool{"ext4": false, "xfs": true, "btrfs": true} {
		t.Run(kind, func(t *testing.T) {
			at := conformance.FileSystem(t, kind)
			root, err := os.OpenRoot(at)
			assert.NilError(t, err)
			defer root.Close()
			before, err := os.ReadDir(at)
			assert.NilError(t, err)
			err = New().Able(root, root)
			if can {
				assert.NilError(t, err)
			} else {
				assert.ErrorContains(t, err, "cannot share blocks")
			}
			after, err := os.ReadDir(at)
			assert.NilError(t, err)
			assert.Equal(t, len(before), len(after))
		})
	}
}

// A snapshot takes no space for the contents: it is larger than what is free.
func TestSnapshotSharesBlocks(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			at := conformance.FileSystem(t, kind)
			for _, name := range []string{"source", "store"} {
				assert.NilError(t, os.Mkdir(filepath.Join(at, name), 0o700))
			}
			assert.NilError(t, os.WriteFile(filepath.Join(at, "source/large"), make([]byte, 64<<20), 0o600))
			source, store := openRoot(t, filepath.Join(at, "source")), openRoot(t, filepath.Join(at, "store"))
			engine := New()
			assert.NilError(t, engine.Able(source, store))
			for i := range 20 {
				c, err := engine.Save(context.Background(), source, store, i, func(string, string) {}, func(int64, int64) {})
				assert.NilError(t, err, fmt.Sprint(i))
				assert.Equal(t, c.Bytes, int64(64<<20))
			}
			source.Close()
			store.Close()
		})
	}
}
