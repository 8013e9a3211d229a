package pack

import "math"

const (
	// sampleSize is the size of a sample, and samples their number.
	sampleSize = 4 << 10
	samples    = 8
	// randomBits is the entropy of a byte, in bits, from which content passes
	// for random. The coding of literals, which costs zstd more than a third
	// of its time, gains at most a tenth there: measured on contents of 7.3
	// bits, 1.75 times the speed and the same size to three digits; programs
	// (6.1 bits) and sources (5.2) it makes smaller by an eighth.
	randomBits = 7.2
)

// random tells whether the bytes of content are spread so evenly that coding
// them by their frequency is not worth the time. It looks at samples in places
// that depend on the length alone: the same content is always stored the same.
func random(content []byte) bool {
	var counts [256]int32
	n := 0
	step := max(sampleSize, len(content)/samples)
	for at := 0; at < len(content); at += step {
		part := content[at:min(len(content), at+sampleSize)]
		for _, b := range part {
			counts[b]++
		}
		n += len(part)
	}
	if n < sampleSize {
		return false // too little to tell
	}
	bits := 0.0
	for _, c := range counts {
		if c > 0 {
			share := float64(c) / float64(n)
			bits -= share * math.Log2(share)
		}
	}
	return bits >= randomBits
}
