//go:build linux

package archive

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
)

// manyFiles makes 20,000 files of up to 8 KiB in 200 directories.
func manyFiles(b *testing.B, dir string) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{"select ", "insert ", "0000", "value=", "\n", "container", "snapshot", "\x00\x00\x01"}
	for d := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", d))
		assert.NilError(b, os.Mkdir(sub, 0o755))
		for f := range 100 {
			var content []byte
			for size := rng.IntN(8 << 10); len(content) < size; {
				content = append(content, words[rng.IntN(len(words))]...)
			}
			assert.NilError(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%03d", f)), content, 0o644))
		}
	}
}

// oneFile makes a file of 256 MiB like a database's: pages, half of them
// compressible.
func oneFile(b *testing.B, dir string) {
	f, err := os.Create(filepath.Join(dir, "large"))
	assert.NilError(b, err)
	rng := rand.NewChaCha8([32]byte{})
	page := make([]byte, 8<<10)
	for range (256 << 20) / len(page) {
		rng.Read(page[:len(page)/4])
		copy(page[len(page)/2:], page[:len(page)/8])
		_, err := f.Write(page)
		assert.NilError(b, err)
	}
	assert.NilError(b, f.Close())
}

func BenchmarkEngine(b *testing.B) {
	for name, fill := range map[string]func(*testing.B, string){"20000 files": manyFiles, "256 MiB": oneFile} {
		source, store := b.TempDir(), b.TempDir()
		fill(b, source)
		open := func(dir string) *os.Root {
			root, err := os.OpenRoot(dir)
			assert.NilError(b, err)
			b.Cleanup(func() { root.Close() })
			return root
		}
		from, to := open(source), open(store)
		none := func(int64, int64) {}
		var c copyengine.Content
		run := func(what string, do func() error) {
			b.Run(name+"/"+what, func(b *testing.B) {
				for b.Loop() {
					assert.NilError(b, do())
				}
				b.SetBytes(c.Bytes)
			})
		}
		run("save", func() (err error) {
			os.Remove(filepath.Join(store, FileName(0)))
			c, err = New().Save(context.Background(), from, to, 0, func(string, string) {}, none)
			return err
		})
		run("verify", func() error { return New().Verify(context.Background(), to, c, none) })
		target := filepath.Join(b.TempDir(), "target")
		b.Run(name+"/load", func(b *testing.B) {
			b.SetBytes(c.Bytes)
			for b.Loop() {
				b.StopTimer()
				assert.NilError(b, os.RemoveAll(target))
				assert.NilError(b, os.Mkdir(target, 0o700))
				into := open(target)
				b.StartTimer()
				assert.NilError(b, New().Load(context.Background(), to, c, into, none))
			}
		})
		b.Logf("%s: %d bytes stored as %d", name, c.Bytes, c.Stored)
	}
}
