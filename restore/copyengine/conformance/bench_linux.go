package conformance

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
)

// Benchmark measures save, verify and load of an engine, each with the syncfs
// that makes it durable, on made data: the same in every run. It reports the
// rate, what is stored, and the most memory that the process had meanwhile.
func Benchmark(b *testing.B, engine copyengine.Engine) {
	BenchmarkFrom(b, engine, func(t testing.TB) string { return t.TempDir() }, func(path string) error { return os.Mkdir(path, 0o700) })
}

// BenchmarkFrom is Benchmark in directories that dir makes, of trees whose top
// source makes.
func BenchmarkFrom(b *testing.B, engine copyengine.Engine, dir func(testing.TB) string, source func(path string) error) {
	for _, data := range []struct {
		name string
		fill func(testing.TB, string)
	}{{"20000 small files", manyFiles}, {"4 large files", largeFiles}} {
		path := filepath.Join(dir(b), "source")
		assert.NilError(b, source(path))
		data.fill(b, path)
		b.Run(data.name, func(b *testing.B) { benchmark(b, engine, path, dir(b)) })
	}
}

func benchmark(b *testing.B, engine copyengine.Engine, source, dir string) {
	from := openDir(b, source)
	none := func(int64, int64) {}
	var c copyengine.Content
	var stored *os.Root
	run := func(name string, prepare func(b *testing.B) *os.Root, do func(*os.Root) error) {
		b.Run(name, func(b *testing.B) {
			forgetPeak(b)
			for b.Loop() {
				b.StopTimer()
				root := prepare(b)
				b.StartTimer()
				assert.NilError(b, do(root))
				syncFS(b, root)
			}
			b.SetBytes(c.Bytes)
			b.ReportMetric(peak(b), "peak-MB")
			b.ReportMetric(float64(c.Stored)/1e6, "stored-MB")
		})
	}
	store := filepath.Join(dir, "store")
	run("save", func(b *testing.B) *os.Root {
		stored = emptyDir(b, store)
		return stored
	}, func(root *os.Root) (err error) {
		c, err = engine.Save(context.Background(), from, root, 0, func(string, string) {}, none)
		return err
	})
	if stored == nil {
		b.Skip("nothing was saved to read")
	}
	stored = openDir(b, store)
	run("verify", func(*testing.B) *os.Root { return stored }, func(root *os.Root) error {
		return engine.Verify(context.Background(), root, c, none)
	})
	target := filepath.Join(dir, "target")
	run("load", func(b *testing.B) *os.Root { return emptyDir(b, target) }, func(root *os.Root) error {
		return engine.Load(context.Background(), stored, c, root, none)
	})
	if whole, ok := engine.(copyengine.Whole); ok {
		run("load as a whole", func(b *testing.B) *os.Root { return emptyDir(b, target) }, func(root *os.Root) error {
			return whole.LoadAs(context.Background(), stored, c, root, "tree")
		})
	}
}

func openDir(b *testing.B, dir string) *os.Root {
	root, err := os.OpenRoot(dir)
	assert.NilError(b, err)
	b.Cleanup(func() { root.Close() })
	return root
}

func emptyDir(b *testing.B, dir string) *os.Root {
	Remove(b, dir)
	assert.NilError(b, os.Mkdir(dir, 0o700))
	return openDir(b, dir)
}

func syncFS(b *testing.B, root *os.Root) {
	f, err := root.Open(".")
	assert.NilError(b, err)
	defer f.Close()
	assert.NilError(b, unix.Syncfs(int(f.Fd())))
}

// forgetPeak makes the kernel measure the peak anew (proc(5), clear_refs).
func forgetPeak(b *testing.B) {
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("the peak is that of all before, too: %v", err)
	}
}

// peak is the most memory that the process had, in MB.
func peak(b *testing.B) float64 {
	status, err := os.ReadFile("/proc/self/status")
	assert.NilError(b, err)
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	fields := bytes.Fields(rest)
	assert.Assert(b, len(fields) > 0, "%s", status)
	n, err := strconv.ParseFloat(string(fields[0]), 64)
	assert.NilError(b, err)
	return n * 1024 / 1e6
}

// manyFiles makes 20,000 files of up to 8 KiB in 200 directories.
func manyFiles(t testing.TB, dir string) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{"select ", "insert ", "0000", "value=", "\n", "container", "snapshot", "\x00\x00\x01"}
	for d := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("d%03d", d))
		assert.NilError(t, os.Mkdir(sub, 0o755))
		for f := range 100 {
			var content []byte
			for size := rng.IntN(8 << 10); len(content) < size; {
				content = append(content, words[rng.IntN(len(words))]...)
			}
			assert.NilError(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%03d", f)), content, 0o644))
		}
	}
}

// largeFiles makes 4 files of 64 MiB like a database's: pages, half of them
// compressible.
func largeFiles(t testing.TB, dir string) {
	rng := rand.NewChaCha8([32]byte{})
	page := make([]byte, 8<<10)
	for i := range 4 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("large", i)))
		assert.NilError(t, err)
		for range (64 << 20) / len(page) {
			_, err := rng.Read(page[:len(page)/4])
			assert.NilError(t, err)
			copy(page[len(page)/2:], page[:len(page)/8])
			_, err = f.Write(page)
			assert.NilError(t, err)
		}
		assert.NilError(t, f.Close())
	}
}
