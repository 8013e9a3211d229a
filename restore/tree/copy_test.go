//go:build linux

package tree_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/tree"
)

func roots(t *testing.T) (source string, from *os.Root, target string, to *os.Root) {
	if os.Geteuid() != 0 {
		t.Skip("restores owners, which only root may")
	}
	open := func(dir string) *os.Root {
		root, err := os.OpenRoot(dir)
		assert.NilError(t, err)
		t.Cleanup(func() { root.Close() })
		return root
	}
	source, target = t.TempDir(), t.TempDir()
	return source, open(source), target, open(target)
}

func TestCopyKeepsEverything(t *testing.T) {
	source, from, target, to := roots(t)
	conformance.Nasty(t, source)
	var bytes, files int64
	err := tree.Copy(context.Background(), from, to, func(path, reason string) { t.Errorf("%s: %s", path, reason) },
		func(b, f int64) { bytes += b; files += f })
	assert.NilError(t, err)
	differences, err := conformance.Differences(source, target)
	assert.NilError(t, err)
	assert.Equal(t, len(differences), 0, "%s", strings.Join(differences, "\n"))
	all, err := conformance.Describe(source)
	assert.NilError(t, err)
	assert.Equal(t, files, int64(len(all)-1))
	assert.Assert(t, bytes > 10<<20 && bytes < 64<<20, "%d", bytes)
}

func TestCopyEndsWithItsContext(t *testing.T) {
	source, from, _, to := roots(t)
	conformance.Nasty(t, source)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	calls := 0
	err := tree.Copy(ctx, from, to, func(string, string) {}, func(int64, int64) {
		if calls++; calls == 20 {
			cancel()
		}
	})
	assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
}
