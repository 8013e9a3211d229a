package pack

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestOnlyWhatIsSpreadEvenlyPassesForRandom(t *testing.T) {
	noise := make([]byte, frameSize)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	half := bytes.Clone(noise)
	for i := range half {
		if i/4096%2 == 0 {
			half[i] = 0
		}
	}
	text := []byte(strings.Repeat("insert into orders values (1, 'two', 3.0);\n", frameSize/43))
	for name, c := range map[string]struct {
		content []byte
		want    bool
	}{
		"noise":                             {noise, true},
		"a little more than a sample of it": {noise[:sampleSize+1], true},
		"less than a sample":                {noise[:sampleSize-1], false},
		"every second page empty":           {half, false},
		"text":                              {text, false},
		"one byte":                          {make([]byte, frameSize), false},
		"nothing":                           {nil, false},
	} {
		assert.Check(t, random(c.content) == c.want, name)
		// Either way it is a frame that is read as any other.
		packed, f := encode(c.content, nil)
		assert.Check(t, f.raw == int64(len(c.content)) && f.stored <= most(f.raw), name)
		back, err := decoder().DecodeAll(packed, make([]byte, 0, len(c.content)))
		assert.NilError(t, err)
		assert.Check(t, bytes.Equal(back, c.content), name)
	}
}

func BenchmarkEncodeNoise(b *testing.B) {
	noise := make([]byte, frameSize)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
		if i%64 > 44 {
			noise[i] = "of the same word again"[i%64-44]
		}
	}
	for name, enc := range map[string]func([]byte, []byte) []byte{
		"with entropy coding": encoder().EncodeAll, "without": plainEncoder().EncodeAll,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(frameSize)
			var out []byte
			for b.Loop() {
				out = enc(noise, out[:0])
			}
			b.ReportMetric(float64(len(out))/frameSize, "of-size")
		})
	}
}
