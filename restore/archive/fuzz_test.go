package archive

import (
	"bytes"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Whatever the input, a Reader ends, names damage as such, and what it does
// accept is written and read again as the same.
func FuzzReader(f *testing.F) {
	for _, it := range nasty() {
		if it.Type == HardLink || len(it.Path) > 300 || len(it.Content) > 5000 || len(it.Xattrs) > 0 {
			continue
		}
		var buf bytes.Buffer
		write(f, &buf, []item{it})
		f.Add(buf.Bytes())
		for _, form := range []Form{Zstd, Gzip} {
			var small bytes.Buffer
			z := Compress(&small, form)
			_, err := z.Write(buf.Bytes())
			assert.NilError(f, err)
			assert.NilError(f, z.Close())
			f.Add(small.Bytes())
		}
	}
	for _, c := range hostile(f) {
		f.Add(c.tar)
	}
	limits := Limits{Entries: 1000, Bytes: 1 << 20, Size: 1 << 41, Header: 1 << 16, Depth: 100}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		heal(data)
		items, err := read(bytes.NewReader(data), limits)
		if err != nil {
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			return
		}
		var buf bytes.Buffer
		write(t, &buf, items)
		again, err := read(&buf, Limits{})
		assert.NilError(t, err)
		assert.DeepEqual(t, describe(items), describe(again))
	})
}

// heal makes the checksum of every header right, since no chance would.
func heal(data []byte) {
	for ; len(data) >= block; data = data[block:] {
		h := (*header)(data)
		if string(h.bytes(fMagic)[:5]) == magicPOSIX[:5] {
			sum, _ := h.sums()
			h.octal(field{fSum.at, fSum.n - 1}, sum)
		}
	}
}
