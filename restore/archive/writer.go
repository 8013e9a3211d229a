package archive

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Writer writes a tar stream, uncompressed, that GNU tar reads: what does not
// fit the POSIX header is in an extended one. The same entries give the same
// bytes.
type Writer struct {
	w    io.Writer
	buf  []byte // header blocks of the current entry
	recs []byte
	left int64 // content still to be written
	pad  int64
	err  error // sticky
}

// NewWriter returns a Writer to w. It does not buffer: w should.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteEntry begins an entry. Exactly Stored bytes of content are to follow
// by Write before the next.
func (w *Writer) WriteEntry(e *Entry) error {
	if w.err != nil {
		return w.err
	}
	if err := w.begin(e); err != nil {
		w.err = fmt.Errorf("write archive: entry %q: %w", e.Path, err)
	}
	return w.err
}

func (w *Writer) begin(e *Entry) error {
	if err := w.finish(); err != nil {
		return err
	}
	if err := check(e); err != nil {
		return err
	}
	stored := e.Stored()
	w.recs = w.recs[:0]
	var h header
	h.octal(fMode, int64(e.Mode))
	h[fType.at] = byte(e.Type)
	w.names(&h, e)
	w.number(&h, fUID, paxUID, int64(e.UID))
	w.number(&h, fGID, paxGID, int64(e.GID))
	w.time(&h, e)
	if e.Type == CharDevice || e.Type == BlockDevice {
		if !h.octal(fMajor, int64(e.Major)) || !h.octal(fMinor, int64(e.Minor)) {
			return fmt.Errorf("device numbers %d, %d do not fit", e.Major, e.Minor)
		}
	}
	for _, x := range e.Xattrs {
		w.recs = appendRecord(w.recs, paxXattr+encodeName.Replace(x.Name), x.Value)
	}
	var sparse []byte
	if e.Sparse {
		sparse = appendMap(nil, e)
	}
	w.number(&h, fSize, paxSize, stored+int64(len(sparse)))
	h.seal()

	w.buf = w.buf[:0]
	if len(w.recs) > 0 {
		w.extended(e)
	}
	w.buf = append(w.buf, h[:]...)
	w.buf = append(w.buf, sparse...)
	w.left, w.pad = stored, padding(stored)
	_, err := w.w.Write(w.buf)
	return err
}

// check refuses what a Reader would refuse, or could not tell apart.
func check(e *Entry) error {
	if p, err := cleanPath(e.Path, Limits{}.withDefaults().Depth); err != nil || p != e.Path {
		return errors.Join(errors.New("the path is not clean"), err)
	}
	switch {
	case e.Mode > 0o7777:
		return fmt.Errorf("mode %o out of range", e.Mode)
	case !strings.Contains("0123456", string(rune(e.Type))):
		return fmt.Errorf("unknown type %q", byte(e.Type))
	case (e.Type == Symlink || e.Type == HardLink) != (e.Link != ""):
		return errors.New("a link without a target, or the other way round")
	case e.Type != File && (e.Size != 0 || e.Sparse):
		return errors.New("content, but not a file")
	case e.Size < 0:
		return errors.New("negative size")
	}
	if e.Sparse {
		if _, err := checkMap(append([]Extent(nil), e.Data...), e.Size, e.Stored()); err != nil {
			return err
		}
	}
	return nil
}

// names sets path and link target.
func (w *Writer) names(h *header, e *Entry) {
	name := e.Path
	if e.Type == Directory {
		name += "/"
	}
	if e.Sparse {
		w.recs = appendRecord(w.recs, paxSparse+"major", "1")
		w.recs = appendRecord(w.recs, paxSparse+"minor", "0")
		w.recs = appendRecord(w.recs, paxSparse+"name", e.Path)
		w.recs = appendRecord(w.recs, paxSparse+"realsize", strconv.FormatInt(e.Size, 10))
		// A program that does not know sparse files makes this one instead.
		name = "GNUSparseFile.0/" + lastName(e.Path)
		copy(h.bytes(fName), name[:min(len(name), fName.n)])
	} else if copy(h.bytes(fName), name) < len(name) || !ascii(name) {
		w.recs = appendRecord(w.recs, paxPath, name)
	}
	if copy(h.bytes(fLink), e.Link) < len(e.Link) || !ascii(e.Link) {
		w.recs = appendRecord(w.recs, paxLink, e.Link)
	}
}

func lastName(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// number sets a field, and a record where the field is too narrow.
func (w *Writer) number(h *header, f field, key string, n int64) {
	if !h.octal(f, n) {
		h.octal(f, 0)
		w.recs = appendRecord(w.recs, key, strconv.FormatInt(n, 10))
	}
}

// time sets the time, to the nanosecond by a record.
func (w *Writer) time(h *header, e *Entry) {
	sec := e.ModTime.Unix()
	fits := sec >= 0 && h.octal(fTime, sec)
	if !fits {
		h.octal(fTime, 0)
	}
	if !fits || e.ModTime.Nanosecond() != 0 {
		w.recs = appendRecord(w.recs, paxMTime, formatTime(e.ModTime))
	}
}

// extended writes the header that carries the records.
func (w *Writer) extended(e *Entry) {
	var h header
	name := "PaxHeaders/" + lastName(e.Path)
	copy(h.bytes(fName), name[:min(len(name), fName.n)])
	h.octal(fMode, 0o644)
	h.octal(fUID, 0)
	h.octal(fGID, 0)
	h.octal(fTime, 0)
	h.octal(fSize, int64(len(w.recs)))
	h[fType.at] = 'x'
	h.seal()
	w.buf = append(w.buf, h[:]...)
	w.buf = append(w.buf, w.recs...)
	w.buf = append(w.buf, zeros[:padding(int64(len(w.recs)))]...)
}

var zeros [2 * block]byte

// Write writes content of the current entry.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		w.err = errors.New("write archive: more content than the entry's size")
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.left -= int64(n)
	if err != nil {
		w.err = fmt.Errorf("write archive: %w", err)
	}
	return n, w.err
}

// finish pads the current entry.
func (w *Writer) finish() error {
	if w.left > 0 {
		return fmt.Errorf("%d bytes of the entry before it are missing", w.left)
	}
	pad := w.pad
	w.pad = 0
	if pad == 0 {
		return nil
	}
	_, err := w.w.Write(zeros[:pad])
	return err
}

// Close writes the end of the archive. It does not close the stream below.
func (w *Writer) Close() error {
	if w.err == nil {
		if w.err = w.finish(); w.err == nil {
			_, w.err = w.w.Write(zeros[:])
		}
		if w.err != nil {
			w.err = fmt.Errorf("write archive: %w", w.err)
			return w.err
		}
		w.err = errors.New("write archive: it is closed")
		return nil
	}
	return w.err
}
