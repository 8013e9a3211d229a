// Package conformance is the test suite that every copy engine passes.
//
// Algorithm: make a tree of everything that is hard to copy, have the engine
// save, verify and load it, and compare the two by code of its own. Then
// interrupt it, damage what it stored, change the tree under it and fill the
// disk, and see that it says so and does no harm.
//
// It leaves nothing behind but the directories of the test.
package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// suite is one run.
type suite struct {
	engine copyengine.Engine
	dir    func(testing.TB) string
	// source makes the directory of a tree to be saved.
	source func(path string) error
}

// Run runs the suite. Dir makes an empty directory on the file system that the
// engine is to be tested on, for the duration of a test; nil means the
// directory for temporary files. Without root the suite is skipped.
func Run(t *testing.T, engine copyengine.Engine, dir func(testing.TB) string) {
	RunFrom(t, engine, dir, func(path string) error { return os.Mkdir(path, 0o700) })
}

// RunFrom is Run for an engine that saves trees of a kind only: source makes
// the top of one.
func RunFrom(t *testing.T, engine copyengine.Engine, dir func(testing.TB) string, source func(path string) error) {
	if os.Geteuid() != 0 {
		t.Skip("the trees have owners and devices, which only root can make")
	}
	if dir == nil {
		dir = func(t testing.TB) string { return t.TempDir() }
	}
	s := suite{engine, dir, source}
	t.Run("keeps everything", s.keepsEverything)
	t.Run("keeps an empty tree", s.keepsEmpty)
	t.Run("overrides what the target passes on", s.overridesTarget)
	t.Run("names what it skips", s.namesSkipped)
	t.Run("stays on its mount", s.staysOnMount)
	t.Run("survives changes while it saves", s.survivesChanges)
	t.Run("ends with its context", s.endsWithContext)
	t.Run("keeps to a limit", s.keepsToLimit)
	t.Run("finds every truncation", s.findsTruncation)
	t.Run("finds flipped bits", s.findsFlippedBits)
	t.Run("finds a damaged tree", s.findsDamagedTree)
	t.Run("finds a wrong description", s.findsWrongDescription)
	t.Run("names the file on a full disk", s.namesFileOnFullDisk)
}

func (s suite) keepsEverything(t *testing.T) {
	p := s.at(t)
	Nasty(t, p.source)
	c := p.roundTrip()
	p.same(p.source, p.loaded)
	assert.Equal(t, len(p.skipped), 0)
	assert.Assert(t, c.Bytes < 64<<20, "holes are not content: %d", c.Bytes)
	assert.Assert(t, c.Uncounted || c.Stored > 5<<20, "%d", c.Stored)
}

func (s suite) keepsEmpty(t *testing.T) {
	p := s.at(t)
	builder{t, p.source}.when(p.source, -5, 5)
	c := p.roundTrip()
	p.same(p.source, p.loaded)
	assert.Equal(t, c.Files, int64(0))
	assert.Equal(t, c.Bytes, int64(0))
}

// The directory that a tree is loaded into may pass a group and an ACL on to
// what is made in it.
func (s suite) overridesTarget(t *testing.T) {
	p := s.at(t)
	b := builder{t, p.source}
	b.file("file", []byte("x"))
	b.mkdir("dir")
	b.file("dir/file", []byte("x"))
	target := builder{t, p.loaded}
	target.ok(os.Chown(p.loaded, 5, 6))
	target.ok(unix.Chmod(p.loaded, 0o2777))
	target.xattr(p.loaded, "system.posix_acl_default", acl(7, 7, 7))
	target.xattr(p.loaded, "system.posix_acl_access", acl(7, 7, 7))
	target.xattr(p.loaded, "user.of.target", "x")
	p.roundTrip()
	p.same(p.source, p.loaded)
}

func (s suite) namesSkipped(t *testing.T) {
	p := s.at(t)
	b := builder{t, p.source}
	b.mkdir("dir")
	b.file("dir/file", nil)
	b.ok(unix.Mknod(b.path("dir/socket"), unix.S_IFSOCK|0o600, 0))
	p.roundTrip()
	if !p.takesWhole() {
		assert.Equal(t, len(p.skipped), 1)
		assert.Assert(t, strings.HasPrefix(p.skipped[0], "dir/socket: "), p.skipped[0])
	}
	b.ok(os.Remove(b.path("dir/socket")))
	_, err := os.Lstat(filepath.Join(p.loaded, "dir/socket"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func (s suite) staysOnMount(t *testing.T) {
	p := s.at(t)
	b := builder{t, p.source}
	mount(t, b.mkdir("mounted"), "1m")
	b.file("mounted/inside", []byte("x"))
	b.file("zz behind it", []byte("x"))
	if p.takesWhole() {
		assert.ErrorContains(t, p.engine.Able(p.tree, p.store), "mounted")
		_, err := p.save(context.Background())
		assert.ErrorContains(t, err, "mounted")
		return
	}
	c, err := p.save(context.Background())
	assert.NilError(t, err)
	assert.Equal(t, len(p.skipped), 1)
	assert.Assert(t, strings.HasPrefix(p.skipped[0], "mounted: "), p.skipped[0])
	assert.NilError(t, p.load(context.Background(), c))
	left, err := os.ReadDir(filepath.Join(p.loaded, "mounted"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	_, err = os.Stat(filepath.Join(p.loaded, "zz behind it"))
	assert.NilError(t, err)
}

// Each change happens from within the engine's own progress, so at a moment
// when it has begun: no timing is involved.
func (s suite) survivesChanges(t *testing.T) {
	if s.takesWhole() {
		t.Skip("nothing can change while a tree is taken as a whole")
	}
	p := s.at(t)
	b := builder{t, p.source}
	outside := filepath.Join(s.dir(t), "outside")
	assert.NilError(t, os.Mkdir(outside, 0o700))
	assert.NilError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	b.file("a grows", random(1<<20))
	b.file("b shrinks", random(4<<20))
	for _, name := range []string{"c vanishes", "d becomes a directory", "e becomes a link", "f becomes a fifo", "g is replaced"} {
		b.file(name, []byte("old"))
	}
	for _, name := range []string{"h vanishes", "i becomes a link", "j becomes a file"} {
		b.mkdir(name)
		b.file(name+"/file", []byte("old"))
	}
	b.ok(os.Symlink(outside, b.path("k was a link")))
	changed := false
	p.onProgress = func() {
		if changed || p.bytes == 0 {
			return
		}
		changed = true
		b.ok(os.Truncate(b.path("b shrinks"), 100_000))
		f, err := os.OpenFile(b.path("a grows"), os.O_APPEND|os.O_WRONLY, 0)
		b.ok(err)
		_, err = f.Write(random(3 << 20))
		b.ok(err)
		b.ok(f.Close())
		entries, err := os.ReadDir(p.source)
		b.ok(err)
		for _, e := range entries[2:] {
			b.ok(os.RemoveAll(b.path(e.Name())))
		}
		b.mkdir("d becomes a directory")
		b.ok(os.Symlink(filepath.Join(outside, "secret"), b.path("e becomes a link")))
		b.ok(unix.Mkfifo(b.path("f becomes a fifo"), 0o600))
		b.file("g is replaced", []byte("new"))
		b.ok(os.Symlink(outside, b.path("i becomes a link")))
		b.file("j becomes a file", nil)
		b.mkdir("k was a link")
		b.file("k was a link/file", []byte("new"))
	}
	c, err := p.save(context.Background())
	assert.NilError(t, err)
	assert.Assert(t, changed)
	p.onProgress = nil
	p.counts(c, "save")
	assert.NilError(t, p.verify(context.Background(), c))
	assert.NilError(t, p.load(context.Background(), c))
	err = filepath.Walk(p.loaded, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			var content []byte
			content, err = os.ReadFile(path)
			assert.Assert(t, string(content) != "secret", path)
		}
		return err
	})
	assert.NilError(t, err)
	content, err := os.ReadFile(filepath.Join(p.loaded, "g is replaced"))
	assert.NilError(t, err)
	assert.Equal(t, string(content), "new")
}

// plain fills the source with a small tree of many files, and one larger.
func (p *place) plain() {
	b := builder{p, p.source}
	for i := range 40 {
		dir := fmt.Sprintf("dir %d", i)
		b.mkdir(dir)
		b.file(dir+"/file", random(50*i))
	}
	b.file("large", random(2<<20))
}

func (s suite) endsWithContext(t *testing.T) {
	p := s.at(t)
	p.plain()
	whole, err := p.save(context.Background())
	assert.NilError(t, err)
	for _, at := range []int{0, 1, 2, 10, 40} {
		for name, run := range map[string]func(context.Context) error{
			"save": func(ctx context.Context) error {
				other := s.at(t)
				other.tree, other.onProgress = p.tree, p.onProgress
				_, err := other.save(ctx)
				return err
			},
			"verify": func(ctx context.Context) error { return p.verify(ctx, whole) },
			"entries": func(ctx context.Context) error {
				return p.engine.Entries(ctx, p.store, whole, func(*tree.Entry, io.Reader) error {
					p.onProgress()
					return nil
				})
			},
			"load": func(ctx context.Context) error {
				other := s.at(t)
				other.store, other.onProgress = p.store, p.onProgress
				return other.load(ctx, whole)
			},
		} {
			ctx, cancel := context.WithCancel(context.Background())
			if at == 0 {
				cancel()
			}
			calls := 0
			p.onProgress = func() {
				if calls++; calls == at {
					cancel()
				}
			}
			err := run(ctx)
			if name == "save" && at > 0 && s.takesWhole() {
				assert.NilError(t, err)
				cancel()
				continue
			}
			assert.Assert(t, errors.Is(err, context.Canceled), "%s, ended at call %d: %v", name, at, err)
			cancel()
		}
	}
}

func (s suite) namesFileOnFullDisk(t *testing.T) {
	p := s.at(t)
	builder{t, p.source}.file("large", random(2<<20)) // alone: which of several fails first is not said
	c, err := p.save(context.Background())
	assert.NilError(t, err)
	small, err := os.MkdirTemp(s.dir(t), "small")
	assert.NilError(t, err)
	mount(t, small, "1m")
	full := s.at(t)
	full.tree = p.tree
	full.store, err = os.OpenRoot(small)
	assert.NilError(t, err)
	defer full.store.Close()
	_, err = full.save(context.Background())
	if s.takesWhole() { // and stores nothing on another file system
		assert.Assert(t, s.engine.Able(full.tree, full.store) != nil)
		assert.Assert(t, err != nil)
	} else {
		assert.Assert(t, errors.Is(err, syscall.ENOSPC), "%v", err)
	}
	assert.ErrorContains(t, err, c.File)
	entries, err := os.ReadDir(small)
	assert.NilError(t, err)
	for _, e := range entries {
		assert.NilError(t, os.RemoveAll(filepath.Join(small, e.Name())))
	}
	p.target = full.store
	err = p.load(context.Background(), c)
	assert.Assert(t, errors.Is(err, syscall.ENOSPC), "%v", err)
	assert.ErrorContains(t, err, "large")
	assert.Assert(t, !fault.Is(err, fault.Corrupt))
}
