//go:build linux

package tree_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// check holds the tree to against from.
func check(t *testing.T, from, to *os.Root) error {
	t.Helper()
	c, err := tree.NewChecker(to)
	assert.NilError(t, err)
	defer c.Close()
	ignore := func(string, string) {}
	err = tree.Walk(t.Context(), from, ignore, func(n *tree.Node) error {
		return c.Check(&n.Entry, n.Content(), func(int64) error { return nil })
	})
	if err != nil {
		return err
	}
	return c.Finish(t.Context())
}

func TestACopyIsFoundToBeOne(t *testing.T) {
	source, from, _, to := roots(t)
	conformance.Nasty(t, source)
	assert.NilError(t, tree.Copy(t.Context(), from, to, func(string, string) {}, func(int64, int64) {}))
	assert.NilError(t, check(t, from, to))
}

// Whatever differs between two trees is found, and nothing else is called a
// difference.
func TestEveryDifferenceIsFound(t *testing.T) {
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	now := time.Unix(1700000000, 123456789)
	for _, c := range []struct {
		name   string
		change func(dir string) error
	}{
		{"a byte", func(dir string) error { return patch(at(dir, "file"), 70_000, "X") }},
		{"the last byte", func(dir string) error { return patch(at(dir, "file"), 99_999, "X") }},
		{"data in a hole", func(dir string) error { return patch(at(dir, "holes"), 1<<20, "X") }},
		{"a size", func(dir string) error { return os.Truncate(at(dir, "file"), 99_999) }},
		{"a file more", func(dir string) error { return os.WriteFile(at(dir, "dir/more"), nil, 0o600) }},
		{"a directory more", func(dir string) error { return os.Mkdir(at(dir, "dir/more"), 0o700) }},
		{"a file less", func(dir string) error { return os.Remove(at(dir, "dir/inner")) }},
		{"a directory less", func(dir string) error { return os.Remove(at(dir, "empty")) }},
		{"a mode", func(dir string) error { return os.Chmod(at(dir, "file"), 0o600) }},
		{"the root's mode", func(dir string) error { return os.Chmod(dir, 0o701) }},
		{"an owner", func(dir string) error { return os.Lchown(at(dir, "link"), 7, 0) }},
		{"a group", func(dir string) error { return os.Chown(at(dir, "dir"), 0, 7) }},
		{"a type", func(dir string) error {
			return errors.Join(os.Remove(at(dir, "dir/inner")), os.Symlink("x", at(dir, "dir/inner")))
		}},
		{"a link's end", func(dir string) error {
			return errors.Join(os.Remove(at(dir, "link")), os.Symlink("other", at(dir, "link")))
		}},
		{"an attribute less", func(dir string) error { return unix.Removexattr(at(dir, "file"), "user.a") }},
		{"an attribute more", func(dir string) error { return unix.Setxattr(at(dir, "file"), "user.b", nil, 0) }},
		{"an attribute's value", func(dir string) error { return unix.Setxattr(at(dir, "file"), "user.a", []byte("2"), 0) }},
		{"a hard link that is a copy", func(dir string) error {
			return errors.Join(os.Remove(at(dir, "second")), os.WriteFile(at(dir, "second"), []byte("one"), 0o600))
		}},
		{"a copy that is a hard link", func(dir string) error {
			return errors.Join(os.Remove(at(dir, "twin")), os.Link(at(dir, "second"), at(dir, "twin")))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, from, target, to := roots(t)
			fill(t, source, now)
			assert.NilError(t, tree.Copy(t.Context(), from, to, func(string, string) {}, func(int64, int64) {}))
			assert.NilError(t, check(t, from, to))
			assert.NilError(t, c.change(target))
			for _, name := range []string{"dir", "file", "holes", "second", "twin", "."} {
				assert.NilError(t, os.Chtimes(at(target, name), now, now))
			}
			var difference *tree.Difference
			err := check(t, from, to)
			assert.Assert(t, errors.As(err, &difference), "%v", err)
			t.Log(difference)
		})
	}
	t.Run("a time", func(t *testing.T) {
		source, from, target, to := roots(t)
		fill(t, source, now)
		assert.NilError(t, tree.Copy(t.Context(), from, to, func(string, string) {}, func(int64, int64) {}))
		assert.NilError(t, os.Chtimes(at(target, "dir"), now, now.Add(1)))
		var difference *tree.Difference
		assert.Assert(t, errors.As(check(t, from, to), &difference))
	})
}

// patch writes into a file.
func patch(path string, offset int64, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), offset)
	return errors.Join(err, f.Close())
}

// fill makes a tree with something of each that can differ.
func fill(t *testing.T, dir string, when time.Time) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"dir", "empty"} {
		assert.NilError(t, os.Mkdir(at(name), 0o755))
	}
	for name, data := range map[string][]byte{"file": make([]byte, 100_000), "dir/inner": []byte("x"), "first": []byte("one"), "twin": []byte("one"), "holes": nil} {
		assert.NilError(t, os.WriteFile(at(name), data, 0o600))
	}
	assert.NilError(t, os.Chmod(at("file"), 0o640))
	assert.NilError(t, os.Truncate(at("holes"), 4<<20))
	assert.NilError(t, os.Link(at("first"), at("second")))
	assert.NilError(t, os.Symlink("file", at("link")))
	assert.NilError(t, unix.Setxattr(at("file"), "user.a", []byte("1"), 0))
	for _, name := range []string{"dir", "file", "holes", "second", "twin", "."} {
		assert.NilError(t, os.Chtimes(at(name), when, when))
	}
}
