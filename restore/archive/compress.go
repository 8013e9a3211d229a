package archive

import (
	"bufio"
	"bytes"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The first bytes of the compressed forms (RFC 1952, RFC 8878). A zstd file
// may also begin with a skippable frame, 0x184D2A50 to 0x184D2A5F.
var (
	magicGzip = []byte{0x1f, 0x8b}
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicSkip = []byte{0x2a, 0x4d, 0x18}
)

// window is the most memory that a zstd stream may ask for: what the zstd
// program accepts without being told, 128 MiB.
const window = 128 << 20

// decompress tells the compression from the first bytes and undoes it.
func decompress(r io.Reader) (*bufio.Reader, func(), error) {
	in := bufio.NewReaderSize(r, 256<<10)
	first, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(first, magicGzip):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(z, 128<<10), func() { z.Close() }, nil
	case bytes.Equal(first, magicZstd), len(first) == 4 && first[0]&0xf0 == 0x50 && bytes.Equal(first[1:], magicSkip):
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(min(4, runtime.GOMAXPROCS(0))),
			zstd.WithDecoderMaxWindow(window), zstd.WithDecoderMaxMemory(1<<62))
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(z, 128<<10), z.Close, nil
	}
	return in, func() {}, nil
}

// Form is how an archive is compressed.
type Form int

// The forms that are written.
const (
	Zstd Form = iota
	Gzip
)

// Compress returns a writer that compresses what is written to it into w.
// Close ends the stream; it does not close w, and must be called also after
// an error, to stop what works in the background.
func Compress(w io.Writer, form Form) io.WriteCloser {
	if form == Gzip {
		return gzip.NewWriter(w)
	}
	return newFrames(w)
}
