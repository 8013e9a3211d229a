package tree

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// fetchable makes files of all kinds of sizes and gives their nodes, kept.
func fetchable(t *testing.T, dir string) (nodes []*Node, content map[string][]byte) {
	t.Helper()
	content = map[string][]byte{}
	for i, size := range []int{1, 511, 512, 4095, 4096, 4097, slotSize - 1, slotSize, slotSize + 1, 100_000} {
		for j := range 20 {
			seed := sha256.Sum256([]byte{byte(i), byte(j)})
			name := fmt.Sprintf("%02d-%02d", i, j)
			for len(content[name]) < size {
				content[name] = append(content[name], seed[:min(len(seed), size-len(content[name]))]...)
				seed = sha256.Sum256(seed[:])
			}
			assert.NilError(t, os.WriteFile(filepath.Join(dir, name), content[name], 0o600))
			if j%4 != 0 { // the others stay in memory, and have not reached the disk
				forget(t, filepath.Join(dir, name))
			}
		}
	}
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	defer root.Close()
	assert.NilError(t, Walk(context.Background(), root, func(string, string) {}, func(n *Node) error {
		if n.Type == File {
			n.Keep()
			nodes = append(nodes, n)
			t.Cleanup(n.Close)
		}
		return nil
	}))
	assert.Equal(t, len(nodes), len(content))
	return nodes, content
}

// forget has the kernel take a file out of memory, where that is not its only
// place.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	defer f.Close()
	assert.NilError(t, f.Sync())
	assert.NilError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}

func TestFetchedFilesAreWhatTheyAre(t *testing.T) {
	older := NewFetcher(1000)
	if older != nil {
		older.blind = true
	}
	for name, f := range map[string]*Fetcher{
		"some at a time": NewFetcher(16), "all": NewFetcher(1000), "without cachestat": older, "none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			defer f.Close()
			nodes, content := fetchable(t, t.TempDir())
			var waiting []*Node
			fetched := 0
			end := func() {
				n := waiting[0]
				waiting = waiting[1:]
				p := make([]byte, n.Size)
				assert.NilError(t, f.Fetched(n, p))
				assert.Equal(t, sha256.Sum256(p), sha256.Sum256(content[n.Path]), n.Path)
			}
			for _, n := range nodes {
				if f.Fetch(n) {
					fetched++
				}
				if waiting = append(waiting, n); len(waiting) > 20 {
					end()
				}
			}
			for len(waiting) > 0 {
				end()
			}
			t.Logf("%d of %d were fetched", fetched, len(nodes))
		})
	}
}

func TestAFetchedFileThatShrankEndsInZeros(t *testing.T) {
	f := NewFetcher(1000)
	defer f.Close()
	dir := t.TempDir()
	nodes, content := fetchable(t, dir)
	for _, n := range nodes {
		assert.NilError(t, unix.Truncate(filepath.Join(dir, n.Path), n.Size/2))
		f.Fetch(n)
	}
	for _, n := range nodes {
		p := make([]byte, n.Size)
		p[len(p)-1] = 'x'
		assert.NilError(t, f.Fetched(n, p))
		want := make([]byte, n.Size)
		copy(want, content[n.Path][:n.Size/2])
		assert.Equal(t, sha256.Sum256(p), sha256.Sum256(want), n.Path)
	}
}

func TestAFetcherThatIsClosedEarlyWaitsForTheKernel(t *testing.T) {
	nodes, _ := fetchable(t, t.TempDir())
	f := NewFetcher(1000)
	for _, n := range nodes {
		f.Fetch(n)
		n.Close()
	}
	f.Close() // what is under way writes to its memory
	g := NewFetcher(1000)
	defer g.Close()
	assert.Assert(t, f == nil || g != nil, "what a fetcher had is free again")
}
