package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// The first bytes of a file, and the last; the digit is the format's number.
const (
	head = "SNAPACK1"
	tail = "1KCAPANS"
)

// footer is the length of the trailer's end: its own length, a checksum, tail.
const footer = 4 + 4 + len(tail)

// trailerLimit bounds a trailer, in bytes: that of 256 TiB in one file.
const trailerLimit = 64 << 20

// trailer is what a file ends with.
type trailer struct {
	bytes, files int64   // of the tree
	index        []frame // of the index
	others       []other // files that hold frames too
}

// other is a file with frames of earlier snapshots, which this one shares.
type other struct {
	name string
	size int64
	used int64 // bytes of frames that this snapshot refers to, about
}

// maxOthers is how many of them there may be.
const maxOthers = 31

// otherShape is what they are named.
var otherShape = regexp.MustCompile(`^[0-9]{1,9}\.[0-9]{1,9}\.pack$`)

// encode gives the trailer's bytes.
func (t *trailer) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(t.bytes))
	b = binary.AppendUvarint(b, uint64(t.files))
	b = binary.AppendUvarint(b, uint64(len(t.index)))
	for i := range t.index {
		b = appendFrame(b, &t.index[i])
	}
	b = binary.AppendUvarint(b, uint64(len(t.others)))
	for _, o := range t.others {
		b = appendString(b, o.name)
		b = binary.AppendUvarint(b, uint64(o.size))
		b = binary.AppendUvarint(b, uint64(o.used))
	}
	sum := checksum(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(b)))
	b = binary.LittleEndian.AppendUint32(b, sum)
	return append(b, tail...)
}

// stored is a file that is being read. Its trailer was checked.
type stored struct {
	files []*os.File // the own one, and the others
	c     copyengine.Content
	t     trailer
	size  int64 // of what lies before the trailer
}

// open opens the stored content c in store. A missing file is damage.
func open(store *os.Root, c copyengine.Content) (*stored, error) {
	s := &stored{c: c}
	err := s.openFile(store, c.File, c.Stored)
	if err == nil {
		err = s.readTrailer()
	}
	for i := 0; err == nil && i < len(s.t.others); i++ {
		if s.t.others[i].name == "" {
			s.files = append(s.files, nil) // no frame lies in it
			continue
		}
		err = s.openFile(store, s.t.others[i].name, s.t.others[i].size)
	}
	if err != nil {
		s.close()
		if fault.Is(err, fault.Corrupt) {
			return nil, err
		}
		return nil, fmt.Errorf("read pack %s: %w", c.File, err)
	}
	return s, nil
}

// openFile opens one of its files, of size bytes.
func (s *stored) openFile(store *os.Root, name string, size int64) error {
	st, err := store.Lstat(name) // first, since to open a fifo may block
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fault.New(fault.Corrupt, "read pack: %w", err)
	case err != nil:
		return err
	case !st.Mode().IsRegular():
		return corrupt("%s is not a file", name)
	case st.Size() != size:
		return corrupt("%s has %d bytes, %d were stored", name, st.Size(), size)
	}
	f, err := store.Open(name)
	if err == nil {
		s.files = append(s.files, f)
	}
	return err
}

func (s *stored) close() {
	for _, f := range s.files {
		if f != nil {
			f.Close()
		}
	}
}

// file gives the file in which a frame lies.
func (s *stored) file(f frame) *os.File { return s.files[f.file] }

// readTrailer reads the head and the trailer.
func (s *stored) readTrailer() error {
	if s.c.Stored < int64(len(head)+footer) {
		return corrupt("%s has %d bytes, which is too few", s.c.File, s.c.Stored)
	}
	first, err := s.at(0, len(head))
	if err != nil {
		return err
	}
	if string(first) != head {
		return corrupt("%s does not begin as a pack of format 1", s.c.File)
	}
	end, err := s.at(s.c.Stored-int64(footer), footer)
	if err != nil {
		return err
	}
	length := int64(binary.LittleEndian.Uint32(end))
	s.size = s.c.Stored - int64(footer) - length
	if string(end[8:]) != tail || length > trailerLimit || s.size < int64(len(head)) {
		return corrupt("%s does not end as a pack of format 1", s.c.File)
	}
	data, err := s.at(s.size, int(length)+footer)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != s.c.SHA256 || checksum(data[:length]) != binary.LittleEndian.Uint32(end[4:]) {
		return corrupt("%s: the trailer has sha256 %x, %s was stored", s.c.File, sum, s.c.SHA256)
	}
	if err := s.t.decode(data[:length]); err != nil {
		return corrupt("%s: the trailer: %w", s.c.File, err)
	}
	if s.t.bytes != s.c.Bytes || s.t.files != s.c.Files {
		return corrupt("%s has %d files of %d bytes, %d of %d were stored", s.c.File, s.t.files, s.t.bytes, s.c.Files, s.c.Bytes)
	}
	return nil
}

func (s *stored) at(offset int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := s.files[0].ReadAt(b, offset); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, corrupt("%s ends too early", s.c.File)
		}
		return nil, err
	}
	return b, nil
}

func (t *trailer) decode(data []byte) error {
	r := bytes.NewReader(data)
	d := decoding{r: r}
	t.bytes, t.files = d.size(), d.size()
	n := d.number(trailerLimit)
	for i := uint64(0); i < n && d.err == nil; i++ {
		if tag := d.byte(); tag != tagFrame {
			d.fail("a record of kind %d", tag)
		}
		f := d.frame(maxOthers)
		if f.file != 0 {
			d.fail("a frame of the index in another file")
		}
		t.index = append(t.index, f)
	}
	n = d.number(maxOthers)
	for i := uint64(0); i < n && d.err == nil; i++ {
		o := other{name: d.text(maxName), size: d.size(), used: d.size()}
		if !otherShape.MatchString(o.name) && (o.name != "" || o.size != 0) {
			d.fail("the file %.300q", o.name)
		}
		t.others = append(t.others, o)
	}
	if d.err == nil && r.Len() > 0 {
		d.fail("something behind its end")
	}
	return d.err
}
