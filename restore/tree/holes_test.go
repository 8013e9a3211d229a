//go:build linux

package tree

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestHolesOfSmallFilesAreFound(t *testing.T) {
	const block = 4096
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		size int64
		data []Extent // what is written
		attr bool     // it has an attribute of several kilobytes, in a block of its own
		want []Extent // of a sparse file
	}{
		{name: "full", size: 4 * block, data: []Extent{{0, 4 * block}}},
		{name: "odd", size: 3*block + 7, data: []Extent{{0, 3*block + 7}}},
		{name: "a byte", size: 1, data: []Extent{{0, 1}}},
		{name: "only a hole", size: 2 * block, want: []Extent{}},
		{name: "less than a block", size: 100, want: []Extent{}},
		{name: "begins with one", size: 4 * block, data: []Extent{{block, 3 * block}}, want: []Extent{{block, 3 * block}}},
		{name: "ends with one", size: 4*block - 1, data: []Extent{{0, 3 * block}}, want: []Extent{{0, 3 * block}}},
		{name: "between", size: 3 * block, data: []Extent{{0, block}, {2 * block, block}}, want: []Extent{{0, block}, {2 * block, block}}},
		{name: "beside an attribute", size: 2 * block, data: []Extent{{0, block}}, attr: true, want: []Extent{{0, block}}},
		{name: "larger", size: 6 * block, data: []Extent{{0, 5 * block}}, want: []Extent{{0, 5 * block}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			f, err := os.Create(path)
			assert.NilError(t, err)
			defer f.Close()
			for _, x := range c.data {
				_, err := f.WriteAt(bytes.Repeat([]byte{'x'}, int(x.Length)), x.Offset)
				assert.NilError(t, err)
			}
			assert.NilError(t, f.Truncate(c.size))
			if c.attr {
				assert.NilError(t, unix.Setxattr(path, "user.much", make([]byte, 3000), 0))
			}
			assert.NilError(t, f.Sync()) // then all blocks are counted
			paths, err := walked(t, dir, func(n *Node) error {
				if n.Path == c.name {
					assert.Equal(t, n.Sparse, c.want != nil)
					if n.Sparse {
						assert.Equal(t, len(n.Data), len(c.want))
						for i := range c.want {
							assert.Equal(t, n.Data[i], c.want[i])
						}
					}
				}
				return nil
			})
			assert.NilError(t, err)
			assert.Assert(t, slices.Contains(paths, c.name))
		})
	}
}
