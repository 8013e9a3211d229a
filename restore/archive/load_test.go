//go:build linux

package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// needsRoot skips a test that gives files away.
func needsRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("restores owners, which only root may")
	}
}

// newDir makes one in dir and opens it.
func newDir(t testing.TB, dir, name string) (string, *os.Root) {
	t.Helper()
	path := filepath.Join(dir, name)
	assert.NilError(t, os.Mkdir(path, 0o700))
	root, err := os.OpenRoot(path)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	return path, root
}

// store puts a tar stream into a store as it would lie there.
func store(t testing.TB, dir string, stream []byte) copyengine.Content {
	t.Helper()
	var buf bytes.Buffer
	z := Compress(&buf, Zstd)
	_, err := z.Write(stream)
	assert.NilError(t, err)
	assert.NilError(t, z.Close())
	assert.NilError(t, os.WriteFile(filepath.Join(dir, FileName(0)), buf.Bytes(), 0o600))
	sum := sha256.Sum256(buf.Bytes())
	return copyengine.Content{File: FileName(0), SHA256: hex.EncodeToString(sum[:]), Stored: int64(buf.Len()), Files: 100, Bytes: 100}
}

// Even with the right checksum, as its maker would give it, a hostile archive
// neither passes Verify nor gets Load to touch anything outside its target.
func TestHostileArchivesTouchNothingOutside(t *testing.T) {
	needsRoot(t)
	for name, c := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			outside, _ := newDir(t, dir, "outside")
			assert.NilError(t, os.WriteFile(filepath.Join(outside, "passwd"), []byte("root"), 0o644))
			stored, from := newDir(t, dir, "stored")
			_, into := newDir(t, dir, "into")
			content := store(t, stored, c.tar)
			before, err := conformance.Describe(outside)
			assert.NilError(t, err)
			none := func(int64, int64) {}
			err = New().Verify(context.Background(), from, content, none)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			assert.ErrorContains(t, err, c.says)
			err = New().Load(context.Background(), from, content, into, none)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			assert.ErrorContains(t, err, c.says)
			after, err := conformance.Describe(outside)
			assert.NilError(t, err)
			assert.DeepEqual(t, before, after)
			entries, err := os.ReadDir(dir)
			assert.NilError(t, err)
			assert.Equal(t, len(entries), 3)
		})
	}
}

// The maker does not rely on the reader's rules: entries that lead through a
// link fail by themselves.
func TestMakerFollowsNoLink(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	outside, _ := newDir(t, dir, "outside")
	assert.NilError(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o644))
	path, root := newDir(t, dir, "into")
	assert.NilError(t, os.Symlink(outside, filepath.Join(path, "link")))
	assert.NilError(t, os.Symlink(filepath.Join(outside, "new"), filepath.Join(path, "dangling")))
	before, err := conformance.Describe(outside)
	assert.NilError(t, err)
	for name, e := range map[string]Entry{
		"file":      {Path: "link/x", Type: File},
		"directory": {Path: "link/x", Type: Directory},
		"existing":  {Path: "link/file", Type: File},
		"node":      {Path: "link/x", Type: Fifo},
		"hard link": {Path: "x", Type: HardLink, Link: "link/file"},
		"over":      {Path: "dangling", Type: File},
		"make over": {Path: "dangling", Type: Fifo},
		"as parent": {Path: "link/a/b/c", Type: File},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := tree.NewMaker(root)
			assert.NilError(t, err)
			defer m.Close()
			err = m.Make(&e, strings.NewReader(""), func(int64) error { return nil })
			if err == nil {
				err = m.Finish()
			}
			assert.Assert(t, err != nil)
		})
	}
	after, err := conformance.Describe(outside)
	assert.NilError(t, err)
	assert.DeepEqual(t, before, after)
}

// A tree that was loaded and saved again gives the same bytes.
func TestSaveIsDeterministic(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	source, from := newDir(t, dir, "source")
	conformance.Nasty(t, source)
	_, to := newDir(t, dir, "to")
	_, again := newDir(t, dir, "again")
	_, loaded := newDir(t, dir, "loaded")
	none := func(int64, int64) {}
	skipped := func(path, reason string) { t.Errorf("%s: %s", path, reason) }
	first, err := New().Save(context.Background(), from, to, 0, skipped, none)
	assert.NilError(t, err)
	assert.NilError(t, New().Load(context.Background(), to, first, loaded, none))
	second, err := New().Save(context.Background(), loaded, again, 0, skipped, none)
	assert.NilError(t, err)
	assert.Equal(t, first, second)
}
