//go:build linux

package pack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func BenchmarkEngine(b *testing.B) { conformance.Benchmark(b, New()) }

// BenchmarkPause is what a workload has to stand still for when 6,000 random
// pages of a file of 1 GiB have changed since it was copied ahead: to capture
// it, beside to store it whole.
func BenchmarkPause(b *testing.B) {
	dir := b.TempDir()
	source := filepath.Join(dir, "source")
	assert.NilError(b, os.Mkdir(source, 0o700))
	f, err := os.Create(filepath.Join(source, "table"))
	assert.NilError(b, err)
	defer f.Close()
	const pageSize, pages = 8 << 10, 1 << 17
	page, rng := make([]byte, pageSize), rand.NewChaCha8([32]byte{})
	fill := func(at int64) {
		rng.Read(page[:pageSize/4])
		copy(page[pageSize/2:], page[:pageSize/8])
		_, err := f.WriteAt(page, at*pageSize)
		assert.NilError(b, err)
	}
	for i := range int64(pages) {
		fill(i)
	}
	engine, none := New().(copyengine.Incremental), func(string, string) {}
	tree, ctx := openDir(b, source), context.Background()
	count := 0
	store := func() *os.Root {
		path := filepath.Join(dir, fmt.Sprint("store", count))
		count++
		assert.NilError(b, os.Mkdir(path, 0o700))
		b.Cleanup(func() { os.RemoveAll(path) })
		return openDir(b, path)
	}
	base := &copyengine.Base{Store: store()}
	base.Content, err = engine.Ahead(ctx, nil, ever, tree, base.Store, 0, none, nobody)
	assert.NilError(b, err)
	change := rand.New(rand.NewPCG(1, 2))
	for range 6000 {
		fill(change.Int64N(pages))
	}
	b.Run("store", func(b *testing.B) {
		for b.Loop() {
			_, err := engine.SaveSince(ctx, base, ever, tree, store(), 0, none, nobody)
			assert.NilError(b, err)
		}
		b.SetBytes(pages * pageSize)
	})
	var all []copyengine.Captured
	b.Run("capture", func(b *testing.B) {
		for b.Loop() {
			c, err := engine.Capture(ctx, base, ever, tree, store(), 0, none, nobody)
			assert.NilError(b, err)
			all = append(all, c)
		}
		b.SetBytes(pages * pageSize)
	})
	for _, c := range all {
		c.Close()
	}
}
