//go:build linux

package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// walked walks a tree and gives the paths in their order.
func walked(t *testing.T, dir string, visit func(*Node) error) (paths []string, err error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	defer root.Close()
	err = Walk(context.Background(), root, func(path, reason string) { t.Errorf("skipped %s: %s", path, reason) }, func(n *Node) error {
		paths = append(paths, n.Path)
		return visit(n)
	})
	return paths, err
}

func plant(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		full := filepath.Join(dir, path)
		assert.NilError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		assert.NilError(t, os.WriteFile(full, nil, 0o644))
	}
}

func TestWalkGoesInOrderAndDirectoriesFirst(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, "b", "a/z", "a/b/c", "a-", "\xff")
	paths, err := walked(t, dir, func(*Node) error { return nil })
	assert.NilError(t, err)
	assert.DeepEqual(t, paths, []string{".", "a", "a/b", "a/b/c", "a/z", "a-", "b", "\xff"})
}

func TestWalkLeavesOutWhatVanishes(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, "a/b/c", "a/d", "e/f", "g")
	paths, err := walked(t, dir, func(n *Node) error {
		switch n.Path {
		case "a/b": // open, but not listed yet
			return os.RemoveAll(filepath.Join(dir, "a/b"))
		case "a/d":
			return os.RemoveAll(filepath.Join(dir, "e"))
		}
		return nil
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, paths, []string{".", "a", "a/b", "a/d", "g"})
}

func TestWalkEndsWithTheVisitorsError(t *testing.T) {
	dir := t.TempDir()
	plant(t, dir, "a", "b")
	boom := errors.New("boom")
	paths, err := walked(t, dir, func(n *Node) error {
		if n.Path == "a" {
			return boom
		}
		return nil
	})
	assert.Equal(t, err, boom)
	assert.DeepEqual(t, paths, []string{".", "a"})
}

// deepTree is a path of more directories than are kept open, with a file
// behind each of the first.
func deepTree(t *testing.T, dir string) string {
	path := strings.TrimSuffix(strings.Repeat("d/", keep+50), "/")
	plant(t, dir, path+"/file", "z", "d/z", "d/d/z", "d/d/d/z")
	return path
}

func TestWalkOfADeepTreeComesBackUp(t *testing.T) {
	dir := t.TempDir()
	path := deepTree(t, dir)
	paths, err := walked(t, dir, func(*Node) error { return nil })
	assert.NilError(t, err)
	assert.Equal(t, len(paths), 1+keep+50+5)
	assert.DeepEqual(t, paths[len(paths)-5:], []string{path + "/file", "d/d/d/z", "d/d/z", "d/z", "z"})
}

// A directory that was closed for the depth below it is never mistaken for
// another one.
func TestWalkNoticesThatTheWayBackIsAnother(t *testing.T) {
	dir := t.TempDir()
	path := deepTree(t, dir)
	elsewhere := filepath.Join(dir, "elsewhere")
	assert.NilError(t, os.Mkdir(elsewhere, 0o755))
	_, err := walked(t, dir, func(n *Node) error {
		if n.Path == path {
			return os.Rename(filepath.Join(dir, path), filepath.Join(elsewhere, "d"))
		}
		return nil
	})
	assert.ErrorContains(t, err, "moved away")
}

// The maker of a deep tree, too, keeps few directories open.
func TestMakerOfADeepTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("restores owners, which only root may")
	}
	source, target := t.TempDir(), t.TempDir()
	deepTree(t, source)
	root, err := os.OpenRoot(target)
	assert.NilError(t, err)
	defer root.Close()
	m, err := NewMaker(root)
	assert.NilError(t, err)
	defer m.Close()
	want, err := walked(t, source, func(n *Node) error {
		return m.Make(&n.Entry, strings.NewReader(""), func(int64) error { return nil })
	})
	assert.NilError(t, err)
	assert.NilError(t, m.Finish())
	open := slices.IndexFunc(m.dirs.stack, func(s step) bool { return s.h != nil })
	assert.Equal(t, open, 0, "the top is open again at the end")
	got, err := walked(t, target, func(*Node) error { return nil })
	assert.NilError(t, err)
	assert.DeepEqual(t, want, got)
}

// An error of a file that is made in the background is not lost.
func TestMakerReportsWhatFailsInTheBackground(t *testing.T) {
	target := t.TempDir()
	plant(t, target, "dir/exists")
	root, err := os.OpenRoot(target)
	assert.NilError(t, err)
	defer root.Close()
	for name, last := range map[string]func(*Maker) error{
		"finish": (*Maker).Finish,
		"a hard link": func(m *Maker) error {
			return m.Make(&Entry{Path: "link", Type: HardLink, Link: "dir/exists"}, nil, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := NewMaker(root)
			assert.NilError(t, err)
			defer m.Close()
			e := &Entry{Path: "dir/exists", Type: File}
			assert.NilError(t, m.Make(e, strings.NewReader(""), nil))
			err = last(m)
			assert.ErrorIs(t, err, os.ErrExist)
			assert.ErrorContains(t, err, "dir/exists")
		})
	}
}
