package pack

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// spoolChunk is how much of a spool waits in memory before it goes into its
// file, in bytes.
const spoolChunk = 256 << 10

// spool keeps what was captured and is not yet stored, in the order in which it
// came: in memory as long as it is little, else in a file of the draft that has
// no name any more. So it takes hardly any memory, and nothing of it is left
// when the process ends.
type spool struct {
	store *os.Root
	name  string
	f     *os.File // or nil
	buf   []byte   // what is not in the file
	sums  []uint32 // CRC-32C of each chunk of the file
}

// Write adds to the spool.
func (s *spool) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		part := p[:min(len(p), spoolChunk-len(s.buf))]
		s.buf = append(s.buf, part...)
		p = p[len(part):]
		if len(s.buf) == spoolChunk {
			if err := s.spill(); err != nil {
				return n - len(p), fmt.Errorf("keep what was captured: %w", err)
			}
		}
	}
	return n, nil
}

func (s *spool) spill() (err error) {
	if s.f == nil {
		if s.f, err = s.store.OpenFile(s.name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		if err := s.store.Remove(s.name); err != nil {
			return err
		}
	}
	if _, err := s.f.Write(s.buf); err != nil {
		return err
	}
	s.sums = append(s.sums, checksum(s.buf))
	s.buf = s.buf[:0]
	return nil
}

// close lets the spool go.
func (s *spool) close() {
	if s.f != nil {
		s.f.Close()
	}
	s.f, s.buf = nil, nil
}

// reader reads the spool from its beginning, when nothing more comes.
func (s *spool) reader() *spoolReader { return &spoolReader{s: s} }

// spoolReader checks each chunk before it gives anything of it.
type spoolReader struct {
	s    *spool
	next int // chunk
	buf  []byte
	left []byte
}

func (r *spoolReader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		switch {
		case r.next < len(r.s.sums):
			if r.buf == nil {
				r.buf = make([]byte, spoolChunk)
			}
			if _, err := r.s.f.ReadAt(r.buf, int64(r.next)*spoolChunk); err != nil {
				return 0, fmt.Errorf("read what was captured: %w", err)
			}
			if checksum(r.buf) != r.s.sums[r.next] {
				return 0, errors.New("read what was captured: it has another checksum than was written")
			}
			r.left = r.buf
		case r.next == len(r.s.sums):
			r.left = r.s.buf
		default:
			return 0, io.EOF
		}
		r.next++
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// keep adds a job to the spool: what it is that it has, the lengths of its
// parts, and the parts.
func (s *spool) keep(j *job) error {
	head := make([]byte, 0, 256)
	patched := byte(0)
	if j.patched {
		patched = 1
	}
	head = append(head, patched)
	for _, part := range [][]byte{j.records, j.content} {
		head = binary.AppendUvarint(head, uint64(len(part)))
	}
	if j.patched {
		head = appendString(appendFrame(head, j.same), string(j.blocks))
	}
	for _, part := range [][]byte{head, j.records, j.content} {
		if _, err := s.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// fill reads the next job that was kept into an empty one; io.EOF says that it
// was the last.
func (j *job) fill(r *bufio.Reader) error {
	if _, err := r.Peek(1); err != nil {
		return err
	}
	d := decoding{r: r}
	j.patched = d.byte() != 0
	records, content := d.number(1<<40), d.number(frameSize)
	if j.patched {
		if tag := d.byte(); tag != tagFrame {
			d.fail("no frame")
		}
		f := d.frame(2 * maxOthers)
		j.same = &f
		j.blocks = append(j.blocks, d.text(blockCount)...)
	}
	if d.err != nil {
		return fmt.Errorf("read what was captured: %w", d.err)
	}
	j.records = append(j.records, make([]byte, records)...)
	j.content = j.content[:content]
	d.full(j.records)
	d.full(j.content)
	if d.err != nil {
		return fmt.Errorf("read what was captured: %w", d.err)
	}
	return nil
}
