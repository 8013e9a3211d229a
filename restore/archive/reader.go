package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Reader reads an archive entry by entry. It trusts nothing: what it returns
// keeps to the rules of Entry, comes after the directories and hard link
// targets that it needs, and is there once. Every refusal is an error of kind
// fault.Corrupt that names the entry; an error of the source is passed on.
type Reader struct {
	src    *source
	in     *bufio.Reader
	close  func()
	limits Limits
	index  *index

	entry  Entry
	left   int64 // content of the current entry not yet read
	pad    int64 // and the padding behind it
	global []record
	bytes  int64
	err    error // sticky
}

// NewReader starts to read an archive: a tar stream that is plain, or
// compressed with gzip or zstd. Close frees what it holds.
func NewReader(r io.Reader, limits Limits) (*Reader, error) {
	src := &source{r: r}
	in, closer, err := decompress(src)
	if err != nil {
		if src.err != nil {
			return nil, fmt.Errorf("read archive: %w", src.err)
		}
		return nil, corrupt("%w", err)
	}
	return &Reader{src: src, in: in, close: closer, limits: limits.withDefaults(), index: newIndex()}, nil
}

// Close frees the decompressor. It does not close the source.
func (r *Reader) Close() { r.close() }

// source keeps an error of the underlying reader apart from what a
// decompressor makes of it.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// broken makes an error of reading the stream: the source's own, or damage.
func (r *Reader) broken(err error) error {
	switch {
	case r.src.err != nil:
		return fmt.Errorf("read archive: %w", r.src.err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ends too early")
	}
	if r.entry.Path != "" {
		return corrupt("%q or after it: %w", r.entry.Path, err)
	}
	return corrupt("%w", err)
}

// Next skips what is left of the current entry and returns the next one,
// which is valid until the call after. At the archive's end, once nothing but
// zeros was found behind it and the compression's checksums are right, it
// returns io.EOF.
func (r *Reader) Next() (*Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	r.err = r.next()
	if r.err != nil {
		return nil, r.err
	}
	return &r.entry, nil
}

func (r *Reader) next() error {
	if n := r.left + r.pad; n > 0 {
		if err := r.skip(n); err != nil {
			return r.broken(err)
		}
	}
	r.left, r.pad = 0, 0
	var x extension
	for {
		var h header
		if _, err := io.ReadFull(r.in, h[:]); err != nil {
			return r.broken(err)
		}
		if h.zero() {
			if x.any {
				return corrupt("it ends after an extended header")
			}
			return r.end()
		}
		if !h.valid() {
			return r.broken(errors.New("bad header checksum"))
		}
		more, err := r.extend(&h, &x)
		if err != nil {
			return err
		}
		if !more {
			return r.take(&h, &x)
		}
	}
}

func (r *Reader) skip(n int64) error {
	m, err := io.CopyN(io.Discard, r.in, n)
	if err == io.EOF && m < n {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// end reads the second zero block, and zeros up to the end of the stream.
func (r *Reader) end() error {
	var h header
	if _, err := io.ReadFull(r.in, h[:]); err != nil {
		return r.broken(err)
	}
	for {
		if !h.zero() {
			return corrupt("there is something behind its end")
		}
		clear(h[:])
		// Not ReadFull: what is left need not be a full block, and a stream
		// cut inside its compression says so by the same error.
		_, err := r.in.Read(h[:])
		if err == io.EOF {
			return io.EOF
		}
		if err != nil {
			return r.broken(err)
		}
	}
}

// extension gathers the headers that come before the one they describe.
type extension struct {
	any     bool
	size    int64
	name    string // GNU long name
	link    string // GNU long link
	records []record
}

// extend takes in a header that only describes the next one.
func (r *Reader) extend(h *header, x *extension) (more bool, err error) {
	flag := h.bytes(fType)[0]
	switch flag {
	case 'x', 'g', 'L', 'K':
	default:
		return false, nil
	}
	size, err := h.number(fSize)
	if x.size += size; err != nil || size < 0 || x.size > r.limits.Header {
		return false, r.broken(fmt.Errorf("extended header of more than %d bytes", r.limits.Header))
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r.in, data); err != nil {
		return false, r.broken(err)
	}
	if err := r.skip(padding(size)); err != nil {
		return false, r.broken(err)
	}
	x.any = x.any || flag != 'g'
	switch flag {
	case 'L':
		x.name = cString(data)
	case 'K':
		x.link = cString(data)
	default:
		records, err := parseRecords(data)
		if err != nil {
			return false, r.broken(err)
		}
		if flag == 'x' {
			x.records = append(x.records, records...)
			break
		}
		for _, rec := range records {
			if rec.key != paxMTime && rec.key != paxUID && rec.key != paxGID && !ignored(rec.key) {
				return false, r.broken(fmt.Errorf("global header with %q", rec.key))
			}
		}
		r.global = records
	}
	return true, nil
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// ignored tells whether a record says nothing that a restored tree shows: the
// names of owners, whose numbers count, times that cannot be set, flags of the
// file system that the archive was made on, comments.
func ignored(key string) bool {
	switch key {
	case "atime", "ctime", "comment", "charset", "hdrcharset", "uname", "gname",
		"SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.realsize", "SCHILY.fflags", "LIBARCHIVE.creationtime":
		return true
	}
	// libarchive writes each attribute a second time under this prefix.
	return strings.HasPrefix(key, "LIBARCHIVE.xattr.")
}

// admit holds a whole entry against the rules and the entries before it.
func (r *Reader) admit() error {
	e := &r.entry
	switch e.Type {
	case File, CharDevice, BlockDevice, Fifo:
		e.Link = ""
	case Directory:
		e.Link = ""
	case Symlink:
		if e.Link == "" || len(e.Link) > maxTarget || strings.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("symbolic link with a bad target")
		}
	case HardLink:
		link, err := cleanPath(e.Link, r.limits.Depth)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", e.Link, err)
		}
		e.Link = link
	default:
		return fmt.Errorf("unknown type %q", byte(e.Type))
	}
	if e.Path == "." && e.Type != Directory {
		return fmt.Errorf("the top is not a directory")
	}
	if err := r.index.add(e); err != nil {
		return err
	}
	if int64(len(r.index.kinds)) > r.limits.Entries {
		return fmt.Errorf("more than %d entries", r.limits.Entries)
	}
	if r.bytes += r.left; r.bytes > r.limits.Bytes {
		return fmt.Errorf("more than %d bytes of content", r.limits.Bytes)
	}
	return nil
}

// Read reads the content of the current entry: Stored bytes, the data of a
// sparse file without its holes. Then it returns io.EOF.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err != nil && !(err == io.EOF && r.left == 0) {
		r.err = r.broken(err)
		return n, r.err
	}
	return n, nil
}
