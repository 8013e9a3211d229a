package tree

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// A file that is known is visited in its place, with what is known of it, and
// without being opened; it can be opened in its visit, if it is still the same.
func TestWhatIsKnownIsNotOpened(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d"} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
	}
	assert.NilError(t, os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "e")))
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	defer root.Close()
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		assert.NilError(t, err)
		return len(all)
	}

	var seen []string
	var kept *Node
	before := open()
	err = WalkKnown(t.Context(), root, nil, func(n *Node) bool {
		if n.Path == "c" {
			return false
		}
		n.Xattrs = []Xattr{{"user.known", "yes"}}
		return true
	}, func(n *Node) error {
		switch n.Path {
		case ".":
			return nil
		case "c":
			assert.Check(t, n.FD >= 0 && n.Xattrs == nil)
		case "e":
			assert.Check(t, n.Type == HardLink && n.Link == "b")
		default:
			assert.Check(t, n.FD < 0 && len(n.Xattrs) == 1 && n.Size == 1 && n.Mode == 0o640, n.Path)
		}
		switch n.Path {
		case "a":
			assert.NilError(t, n.Open())
			n.Keep()
			kept = n
		case "b":
			assert.NilError(t, n.Open())
			got := make([]byte, 1)
			assert.NilError(t, n.ReadAt(got, 0))
			assert.Equal(t, string(got), "b")
		case "d":
			assert.NilError(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600))
			assert.NilError(t, os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "d")))
			assert.Check(t, errors.Is(n.Open(), errReplaced))
		}
		seen = append(seen, n.Path)
		return nil
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, seen, []string{"a", "b", "c", "d", "e"})
	assert.Equal(t, open(), before+1, "only what was kept is open")
	got := make([]byte, 1)
	assert.NilError(t, kept.ReadAt(got, 0))
	assert.Equal(t, string(got), "a")
	kept.Close()
	assert.Equal(t, open(), before)
}
