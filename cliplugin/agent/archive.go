package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// An archive travels in chunks, each a length of 4 bytes, big endian, and so
// many bytes; a length of 0 ends it. So the end of a connection is never
// taken for the end of an archive, whatever its format.

// maxChunk is the longest chunk that is written or accepted, in bytes.
const maxChunk = 1 << 20

// errCut says that the stream ended before the archive did.
var errCut = errors.New("the archive was cut off")

// archiveWriter writes an archive in chunks to w.
type archiveWriter struct {
	w   io.Writer
	buf []byte
}

// Write sends p.
func (a *archiveWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		chunk := p[:min(len(p), maxChunk)]
		a.buf = binary.BigEndian.AppendUint32(a.buf[:0], uint32(len(chunk)))
		if _, err := a.w.Write(append(a.buf, chunk...)); err != nil {
			return n, err
		}
		n += len(chunk)
		p = p[len(chunk):]
	}
	return n, nil
}

// End says that the archive is complete.
func (a *archiveWriter) End() error {
	_, err := a.w.Write(make([]byte, 4))
	return err
}

// archiveReader reads an archive that comes in chunks from r.
type archiveReader struct {
	r     io.Reader
	left  uint32
	ended bool
}

// Read gives io.EOF after the archive's end only.
func (a *archiveReader) Read(p []byte) (int, error) {
	if a.ended {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if a.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(a.r, head[:]); err != nil {
			return 0, cut(err)
		}
		switch a.left = binary.BigEndian.Uint32(head[:]); {
		case a.left == 0:
			a.ended = true
			return 0, io.EOF
		case a.left > maxChunk:
			return 0, fmt.Errorf("read archive: a chunk of %d bytes", a.left)
		}
	}
	n, err := a.r.Read(p[:min(len(p), int(a.left))])
	a.left -= uint32(n)
	if err != nil && n > 0 {
		err = nil // comes again with the next chunk
	}
	return n, cut(err)
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read archive: %w", errCut)
	}
	return err
}

// archiveSink takes the chunks of an archive as they arrive and passes their
// content on to w.
type archiveSink struct {
	w     io.Writer
	head  []byte
	left  uint32
	ended bool
	err   error
}

// Write never fails before the end of a container's output, which must be
// read on; the first error is kept for Close.
func (a *archiveSink) Write(p []byte) (int, error) {
	whole := len(p)
	for len(p) > 0 && a.err == nil && !a.ended {
		if a.left == 0 {
			n := min(4-len(a.head), len(p))
			a.head = append(a.head, p[:n]...)
			p = p[n:]
			if len(a.head) < 4 {
				continue
			}
			a.left = binary.BigEndian.Uint32(a.head)
			a.head = a.head[:0]
			a.ended = a.left == 0
			continue
		}
		n := min(len(p), int(a.left))
		if a.w != nil {
			_, a.err = a.w.Write(p[:n])
		}
		a.left -= uint32(n)
		p = p[n:]
	}
	return whole, nil
}

// Close reports the first error of w, or that the end never came.
func (a *archiveSink) Close() error {
	if a.err == nil && !a.ended {
		return errCut
	}
	return a.err
}
