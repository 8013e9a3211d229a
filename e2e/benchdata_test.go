//go:build e2e && bench && linux

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// dataset is a tree that is measured with.
type dataset struct {
	name, what string
	fill       func(t testing.TB, root string, scale float64)
}

// datasets are made from a fixed seed: like a database's, small files, and
// a mixture. The figures are those of scale 1.
var datasets = []dataset{
	{"A", "like a database: 65 files, 1.1 GB, one of them sparse", fillDatabase},
	{"B", "small files: 100,000 of 0.5 to 8 KiB in 1,000 folders, 430 MB", fillSmall},
	{"C", "a mixture: 59,000 files, 0.8 GB", fillMixed},
}

// noise gives bytes of which about a third can be compressed away, as in the
// pages of a database.
type noise struct{ r *rand.Rand }

func newNoise(seed uint64) noise { return noise{rand.New(rand.NewPCG(seed, 1))} }

func (n noise) bytes(size int) []byte {
	out := make([]byte, size)
	for at := 0; at < size; at += 64 {
		// Of each 64 bytes some are random, the rest repeats a word.
		random := 40 + n.r.IntN(8)
		for i := at; i < min(size, at+64); i++ {
			if i-at < random {
				out[i] = byte(n.r.Uint32())
			} else {
				out[i] = "snaprestore-bench-"[i%18]
			}
		}
	}
	return out
}

func fillDatabase(t testing.TB, root string, scale float64) {
	n := newNoise(1)
	files := 64
	size := int(17.5 * float64(1<<20) * scale)
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("base/%d", i/16))
		must(t, os.MkdirAll(dir, 0o700))
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(16384+i)), n.bytes(size), 0o600))
	}
	f, err := os.Create(filepath.Join(root, "sparse"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(float64(1<<30)*scale)))
	for i := range 8 {
		_, err := f.WriteAt(n.bytes(int(float64(1<<20)*scale)+1), int64(float64(i)*float64(128<<20)*scale))
		must(t, err)
	}
}

func fillSmall(t testing.TB, root string, scale float64) {
	n := newNoise(2)
	folders := max(1, int(1000*scale))
	for d := range folders {
		dir := filepath.Join(root, fmt.Sprintf("d%03d", d))
		must(t, os.Mkdir(dir, 0o755))
		for i := range 100 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i)), n.bytes(512+n.r.IntN(8<<10-512)), 0o644))
		}
	}
}

func fillMixed(t testing.TB, root string, scale float64) {
	n := newNoise(3)
	folders := max(1, int(590*scale))
	for d := range folders {
		dir := filepath.Join(root, fmt.Sprintf("p%d/d%03d", d%7, d))
		must(t, os.MkdirAll(dir, 0o755))
		for i := range 100 {
			size := 256 + n.r.IntN(16<<10)
			if i == 0 {
				size = 512<<10 + n.r.IntN(1<<20)
			}
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", i)), n.bytes(size), 0o644))
		}
	}
}

// changedTables is of how many tables of a database one changes.
const changedTables = 5

// change rewrites about one file in a hundred, or a hundredth of a database's
// pages.
func change(t testing.TB, root string, round int) {
	n := newNoise(uint64(100 + round))
	var files []string
	must(t, filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	if len(files) > 1000 {
		for i := n.r.IntN(100); i < len(files); i += 100 {
			must(t, os.WriteFile(files[i], n.bytes(512+n.r.IntN(7<<10)), 0o644))
		}
		return
	}
	for i, path := range files {
		if i%changedTables != 0 {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		// One run of pages, as in a table that is vacuumed or appended to.
		if part := info.Size() * changedTables / 100; info.Size() < 512<<20 {
			_, err = f.WriteAt(n.bytes(int(part)), n.r.Int64N(max(1, info.Size()-part)))
			must(t, err)
		}
		must(t, f.Close())
	}
}
