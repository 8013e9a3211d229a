package conformance

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// corruptible saves a small tree and returns the stored file's bytes. Engines
// that store trees have no such file: what they clone is checked by the file
// system.
func (s suite) corruptible(t *testing.T) (*place, copyengine.Content, []byte) {
	p := s.at(t)
	b := builder{p, p.source}
	for _, name := range []string{"a", "b", "c"} {
		b.mkdir(name)
		b.file(name+"/random", random(4000))
		b.file(name+"/text", []byte(strings.Repeat("text ", 1000)))
		b.ok(os.Symlink("text", b.path(name+"/link")))
		b.ok(os.Link(b.path(name+"/text"), b.path(name+"/too")))
		b.xattr(b.path(name+"/text"), "user.attribute", "value")
	}
	c, err := p.save(context.Background())
	assert.NilError(t, err)
	st, err := os.Stat(filepath.Join(p.stored, c.File))
	assert.NilError(t, err)
	if st.IsDir() {
		t.Skip("the engine stores no file")
	}
	whole, err := os.ReadFile(filepath.Join(p.stored, c.File))
	assert.NilError(t, err)
	assert.Equal(t, int64(len(whole)), c.Stored)
	return p, c, whole
}

// refused stores damaged bytes and expects Verify and Load to say so, and
// Load to touch nothing outside its target.
func (p *place) refused(c copyengine.Content, damaged []byte, format string, args ...any) {
	p.Helper()
	at := append([]any{format}, args...)
	assert.NilError(p, os.WriteFile(filepath.Join(p.stored, c.File), damaged, 0o600))
	err := p.verify(context.Background(), c)
	assert.Assert(p, fault.Is(err, fault.Corrupt), append([]any{"verify: %v; " + format, err}, args...)...)
	err = p.engine.Entries(context.Background(), p.store, c, func(*tree.Entry, io.Reader) error { return nil })
	assert.Assert(p, fault.Is(err, fault.Corrupt), append([]any{"entries: %v; " + format, err}, args...)...)
	assert.NilError(p, os.RemoveAll(p.loaded))
	assert.NilError(p, os.Mkdir(p.loaded, 0o700))
	target, err := os.OpenRoot(p.loaded)
	assert.NilError(p, err)
	defer target.Close()
	err = p.engine.Load(context.Background(), p.store, c, target, p.progress)
	assert.Assert(p, fault.Is(err, fault.Corrupt), append([]any{"load: %v; " + format, err}, args...)...)
	entries, err := os.ReadDir(filepath.Dir(p.loaded))
	assert.NilError(p, err, at...)
	assert.Equal(p, len(entries), 3, at...)
}

func (s suite) findsTruncation(t *testing.T) {
	p, c, whole := s.corruptible(t)
	for n := 0; n < len(whole); n += 512 {
		p.refused(c, whole[:n], "cut after %d of %d bytes", n, len(whole))
		// The description may be forged or wrong along with it.
		forged := c
		forged.Stored = int64(n)
		p.refused(forged, whole[:n], "cut after %d of %d bytes", n, len(whole))
	}
	p.refused(c, whole[:len(whole)-1], "last byte missing")
	p.refused(c, append(whole[:len(whole):len(whole)], 0), "one byte more")
	assert.NilError(t, os.Remove(filepath.Join(p.stored, c.File)))
	err := p.verify(context.Background(), c)
	assert.Assert(t, fault.Is(err, fault.Corrupt), "missing: %v", err)
}

func (s suite) findsFlippedBits(t *testing.T) {
	p, c, whole := s.corruptible(t)
	for i := 0; i < len(whole); i += 1 + i/16 {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 1 << (i % 8)
		p.refused(c, damaged, "bit %d of byte %d of %d flipped", i%8, i, len(whole))
	}
}

func (s suite) findsWrongDescription(t *testing.T) {
	p, c, whole := s.corruptible(t)
	for name, change := range map[string]func(*copyengine.Content){
		"bytes": func(c *copyengine.Content) { c.Bytes++ },
		"files": func(c *copyengine.Content) { c.Files-- },
		"sum":   func(c *copyengine.Content) { c.SHA256 = strings.Repeat("0", 64) },
		"size":  func(c *copyengine.Content) { c.Stored++ },
	} {
		wrong := c
		change(&wrong)
		p.refused(wrong, whole, "wrong %s", name)
	}
}

// findsDamagedTree is for engines that store a tree: whatever is changed in
// it, apart from the bytes of a file, which are the file system's to check, is
// noticed.
func (s suite) findsDamagedTree(t *testing.T) {
	probe := s.at(t)
	c, err := probe.save(context.Background())
	assert.NilError(t, err)
	if st, err := os.Stat(filepath.Join(probe.stored, c.File)); err == nil && !st.IsDir() {
		t.Skip("the engine stores a file")
	}
	for name, damage := range map[string]func(b builder){
		"file missing":       func(b builder) { b.ok(os.Remove(b.path("dir 1/file"))) },
		"file more":          func(b builder) { b.file("dir 1/more", nil) },
		"file cut":           func(b builder) { b.ok(os.Truncate(b.path("large"), 5)) },
		"file longer":        func(b builder) { b.ok(os.Truncate(b.path("large"), 1<<30)) },
		"mode":               func(b builder) { b.ok(os.Chmod(b.path("large"), 0o777)) },
		"mode of the top":    func(b builder) { b.ok(os.Chmod(b.dir, 0o777)) },
		"owner":              func(b builder) { b.ok(os.Chown(b.path("dir 2"), 1, 1)) },
		"time":               func(b builder) { b.when(b.path("dir 2"), 1, 1) },
		"attribute":          func(b builder) { b.xattr(b.path("dir 2"), "user.a", "b") },
		"link for a file":    func(b builder) { b.ok(os.Remove(b.path("large"))); b.ok(os.Symlink("/etc/passwd", b.path("large"))) },
		"socket":             func(b builder) { b.ok(unix.Mknod(b.path("socket"), unix.S_IFSOCK|0o600, 0)) },
		"everything missing": func(b builder) { b.ok(os.RemoveAll(b.dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := s.at(t)
			p.plain()
			c, err := p.save(context.Background())
			assert.NilError(t, err)
			at := filepath.Join(p.stored, c.File)
			p.unlock(at)
			damage(builder{t, at})
			err = p.verify(context.Background(), c)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "verify: %v", err)
			err = p.load(context.Background(), c)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "load: %v", err)
		})
	}
}

// unlock makes a stored tree writable, where it is one that is not.
func (p *place) unlock(path string) {
	f, err := os.Open(path)
	assert.NilError(p, err)
	defer f.Close()
	is, err := subvolume.Is(int(f.Fd()))
	assert.NilError(p, err)
	if is {
		assert.NilError(p, subvolume.SetReadOnly(int(f.Fd()), false))
	}
}
