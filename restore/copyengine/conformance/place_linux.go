package conformance

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// place is a set of directories for one test.
type place struct {
	*testing.T
	suite
	source, stored, loaded string
	tree, store, target    *os.Root
	skipped                []string
	bytes, files           int64
	onProgress             func()
}

// takesWhole tells whether the engine takes trees as a whole.
func (s suite) takesWhole() bool {
	_, whole := s.engine.(copyengine.Whole)
	return whole
}

func (s suite) at(t *testing.T) *place {
	p := &place{T: t, suite: s}
	dir := s.dir(t)
	make := func(name string) (string, *os.Root) {
		path := filepath.Join(dir, name)
		if name == "source" {
			assert.NilError(t, s.source(path))
		} else {
			assert.NilError(t, os.Mkdir(path, 0o700))
		}
		root, err := os.OpenRoot(path)
		assert.NilError(t, err)
		t.Cleanup(func() { root.Close() })
		return path, root
	}
	p.source, p.tree = make("source")
	p.stored, p.store = make("stored")
	p.loaded, p.target = make("loaded")
	return p
}

func (p *place) progress(bytes, files int64) {
	p.bytes += bytes
	p.files += files
	if p.onProgress != nil {
		p.onProgress()
	}
}

func (p *place) save(ctx context.Context) (copyengine.Content, error) {
	p.bytes, p.files = 0, 0
	return p.engine.Save(ctx, p.tree, p.store, 3, func(path, reason string) {
		p.skipped = append(p.skipped, path+": "+reason)
	}, p.progress)
}

func (p *place) verify(ctx context.Context, c copyengine.Content) error {
	p.bytes, p.files = 0, 0
	return p.engine.Verify(ctx, p.store, c, p.progress)
}

func (p *place) load(ctx context.Context, c copyengine.Content) error {
	p.bytes, p.files = 0, 0
	return p.engine.Load(ctx, p.store, c, p.target, p.progress)
}

// roundTrip saves, verifies, loads and compares.
func (p *place) roundTrip() copyengine.Content {
	p.Helper()
	ctx := context.Background()
	before, err := Describe(p.source)
	assert.NilError(p, err)
	c, err := p.save(ctx)
	assert.NilError(p, err)
	p.counts(c, "save")
	if c.Uncounted {
		assert.DeepEqual(p, []int64{c.Bytes, c.Files, c.Stored}, []int64{0, 0, 0})
	} else {
		assert.Equal(p, c.Files, int64(len(before)-1-len(p.skipped)))
	}
	assert.NilError(p, p.verify(ctx, c))
	p.counts(c, "verify")
	assert.NilError(p, p.load(ctx, c))
	p.counts(c, "load")
	if whole, ok := p.engine.(copyengine.Whole); ok {
		p.loadsWhole(whole, c)
	}
	p.same(p.loaded, p.remade(c))
	after, err := Describe(p.source)
	assert.NilError(p, err)
	assert.DeepEqual(p, before, after)
	return c
}

// loadsWhole loads once more, as a whole, and copies the tree as a whole, each
// into a directory that has not such an entry, and into one that has.
func (p *place) loadsWhole(engine copyengine.Whole, c copyengine.Content) {
	p.Helper()
	dir := p.suite.dir(p.T)
	into, err := os.OpenRoot(dir)
	assert.NilError(p, err)
	defer into.Close()
	for name, as := range map[string]func(name string) error{
		"loaded": func(name string) error { return engine.LoadAs(context.Background(), p.store, c, into, name) },
		"copied": func(name string) error { return engine.CopyAs(context.Background(), p.tree, into, name) },
	} {
		assert.NilError(p, as(name))
		p.same(p.source, filepath.Join(dir, name))
		assert.NilError(p, os.WriteFile(filepath.Join(dir, name, "more"), nil, 0o600), "it can be written to")
		assert.ErrorIs(p, as(name), os.ErrExist)
	}
	assert.NilError(p, p.verify(context.Background(), c), "what was loaded from it has changed")
}

// remade makes the tree once more, of the entries that the engine gives.
func (p *place) remade(c copyengine.Content) string {
	p.Helper()
	dir := filepath.Join(p.suite.dir(p.T), "remade")
	assert.NilError(p, os.Mkdir(dir, 0o700))
	root, err := os.OpenRoot(dir)
	assert.NilError(p, err)
	defer root.Close()
	m, err := tree.NewMaker(root)
	assert.NilError(p, err)
	defer m.Close()
	ignore := func(int64) error { return nil }
	err = p.engine.Entries(context.Background(), p.store, c, func(e *tree.Entry, content io.Reader) error {
		if err := m.Make(e, content, ignore); err != nil {
			return err
		}
		e.Path, e.Link = "not a path of the tree", "" // as a visit may
		return nil
	})
	assert.NilError(p, err)
	assert.NilError(p, m.Finish())
	return dir
}

// counts holds the progress that was told against the result.
func (p *place) counts(c copyengine.Content, what string) {
	p.Helper()
	if c.Uncounted && what != "save" {
		return
	}
	assert.Equal(p, p.bytes, c.Bytes, what)
	assert.Equal(p, p.files, c.Files, what)
}

func (p *place) same(want, got string) {
	p.Helper()
	differences, err := Differences(want, got)
	assert.NilError(p, err)
	assert.Equal(p, len(differences), 0, "%s", strings.Join(differences, "\n"))
}
