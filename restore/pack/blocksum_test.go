package pack

import (
	"math/rand/v2"
	"testing"

	"gotest.tools/v3/assert"
)

// Whichever way blocks are summed, a sum is the same for the same bytes, of any
// length, and another for any others; and it is of this process alone.
func TestABlockIsKnownByItsSum(t *testing.T) {
	for name, gcm := range map[string]bool{"gcm": true, "two hashes": false} {
		t.Run(name, func(t *testing.T) {
			sum, other := chooseSum(gcm), chooseSum(gcm)
			block := make([]byte, blockSize)
			rand.NewChaCha8([32]byte{1}).Read(block)
			seen := map[blockSum]bool{}
			for n := range 200 {
				var a, b, elsewhere blockSum
				sum(block[:blockSize-n], &a)
				sum(append([]byte(nil), block[:blockSize-n]...), &b)
				assert.Equal(t, a, b)
				other(block[:blockSize-n], &elsewhere)
				assert.Assert(t, a != elsewhere)
				assert.Assert(t, !seen[a], "length %d", blockSize-n)
				seen[a] = true
			}
			for at := 0; at < 8*blockSize; at += 37 { // a bit
				block[at/8] ^= 1 << (at % 8)
				var a blockSum
				sum(block, &a)
				assert.Assert(t, !seen[a], "bit %d", at)
				seen[a] = true
			}
		})
	}
}

func BenchmarkBlockSum(b *testing.B) {
	for name, gcm := range map[string]bool{"gcm": true, "two hashes": false} {
		b.Run(name, func(b *testing.B) {
			sum, block := chooseSum(gcm), make([]byte, blockSize)
			var s blockSum
			b.SetBytes(blockSize)
			b.ReportAllocs()
			for b.Loop() {
				sum(block, &s)
			}
		})
	}
}
