package pack

import (
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frame is the place of one zstd frame and what it holds.
type frame struct {
	file   int // 0 is the file of the index itself, others are in its trailer
	offset int64
	stored int64             // bytes in the file
	raw    int64             // bytes of content
	crc    uint32            // CRC-32C of the bytes in the file
	sum    [sha256.Size]byte // of the content
}

// most is the most bytes that a frame of n bytes of content has in the file:
// zstd keeps what it cannot compress as it is, with 3 bytes for each block of
// 128 KiB and a header.
func most(n int64) int64 { return n + n>>10 + 64 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// workers is how many frames are worked on at a time. More than two are not
// faster on the machines that this was measured on, and cost memory.
func workers() int { return min(4, max(2, runtime.GOMAXPROCS(0))) }

// The encoders and the decoder are shared: they may be used by many goroutines,
// and their state is costly to make. The checksums are our own.
var (
	encoder      = sync.OnceValue(func() *zstd.Encoder { return newEncoder() })
	plainEncoder = sync.OnceValue(func() *zstd.Encoder { return newEncoder(zstd.WithNoEntropyCompression(true)) })
)

func newEncoder(more ...zstd.EOption) *zstd.Encoder {
	enc, err := zstd.NewWriter(nil, append([]zstd.EOption{
		zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithWindowSize(frameSize),
		zstd.WithEncoderConcurrency(workers()), zstd.WithLowerEncoderMem(true),
	}, more...)...)
	if err != nil {
		panic(err) // the options are constants
	}
	return enc
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers()), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(frameSize), zstd.WithDecoderMaxWindow(frameSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return dec
})

// encode compresses content into out and describes the frame, but for its
// offset.
func encode(content, out []byte) ([]byte, frame) {
	return encodeSummed(content, sha256.Sum256(content), out)
}

// encodeSummed is encode for content whose sum is known.
func encodeSummed(content []byte, sum [sha256.Size]byte, out []byte) ([]byte, frame) {
	enc := encoder()
	if random(content) {
		enc = plainEncoder()
	}
	out = enc.EncodeAll(content, out[:0])
	return out, frame{
		stored: int64(len(out)), raw: int64(len(content)),
		crc: checksum(out), sum: sum,
	}
}

// buffers are what a worker decodes with.
type buffers struct{ in, out []byte }

// read reads a frame and checks it. The content is valid until the next call.
func (b *buffers) read(f *os.File, at frame) ([]byte, error) {
	if int64(cap(b.in)) < at.stored {
		b.in = make([]byte, most(frameSize))
	}
	if int64(cap(b.out)) < at.raw {
		b.out = make([]byte, 0, frameSize)
	}
	in := b.in[:at.stored]
	if _, err := f.ReadAt(in, at.offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, corrupt("%s ends inside the frame at %d", filepath.Base(f.Name()), at.offset)
		}
		return nil, err
	}
	if checksum(in) != at.crc {
		return nil, corrupt("%s: the frame at %d has another checksum than was stored", filepath.Base(f.Name()), at.offset)
	}
	out, err := decoder().DecodeAll(in, b.out[:0:at.raw])
	if err != nil {
		return nil, corrupt("%s: the frame at %d: %w", filepath.Base(f.Name()), at.offset, err)
	}
	if int64(len(out)) != at.raw || sha256.Sum256(out) != at.sum {
		return nil, corrupt("%s: the frame at %d has another content than was stored", filepath.Base(f.Name()), at.offset)
	}
	return out, nil
}
