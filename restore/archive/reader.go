package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
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

// take makes the entry of a header and what described it.
func (r *Reader) take(h *header, x *extension) error {
	raw := h.text(fName)
	if prefix := h.text(fPrefix); prefix != "" && string(h.bytes(fMagic)[:6]) == magicPOSIX[:6] {
		raw = prefix + "/" + raw
	}
	r.entry = Entry{Path: raw, Link: h.text(fLink)}
	if x.name != "" {
		r.entry.Path = x.name
	}
	if x.link != "" {
		r.entry.Link = x.link
	}
	if err := r.fill(h, x); err != nil {
		return r.refuse(err)
	}
	if err := r.admit(); err != nil {
		return r.refuse(err)
	}
	return nil
}

// refuse names the entry in an error of its content; the stream's errors come
// through as they are.
func (r *Reader) refuse(err error) error {
	if r.src.err != nil {
		return fmt.Errorf("read archive: %w", r.src.err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.broken(err)
	}
	return corrupt("entry %q: %w", r.entry.Path, err)
}

// fill sets every field of the entry.
func (r *Reader) fill(h *header, x *extension) error {
	e := &r.entry
	size, err := r.numbers(h)
	if err != nil {
		return err
	}
	var sparse sparseRecords
	isSparse := false
	for _, list := range [][]record{r.global, x.records} {
		for _, rec := range list {
			if key, ok := strings.CutPrefix(rec.key, paxSparse); ok {
				isSparse = true
				err = sparse.take(key, rec.value)
			} else {
				err = apply(e, rec, &size)
			}
			if err != nil {
				return err
			}
		}
	}
	if sparse.name != "" {
		e.Path = sparse.name
	}
	flag := h.bytes(fType)[0]
	slash := strings.HasSuffix(e.Path, "/")
	if e.Path, err = cleanPath(e.Path, r.limits.Depth); err != nil {
		return err
	}
	switch {
	case flag == 0 && slash || flag == '0' && slash:
		e.Type = Directory // archives older than POSIX
	case flag == 0, flag == '7', flag == 'S':
		e.Type = File
	default:
		e.Type = Type(flag)
	}
	if e.Type != File {
		// As GNU tar: whatever the size of the others says, nothing follows.
		if isSparse || flag == 'S' {
			return fmt.Errorf("sparse, but not a file")
		}
		return nil
	}
	if size < 0 || size > r.limits.Size {
		return fmt.Errorf("file of more than %d bytes", r.limits.Size)
	}
	e.Size, r.left, r.pad = size, size, padding(size)
	switch {
	case flag == 'S':
		return r.oldSparse(h)
	case isSparse:
		return r.paxSparse(&sparse)
	}
	return nil
}

// numbers reads the numeric fields of a header.
func (r *Reader) numbers(h *header) (size int64, err error) {
	e := &r.entry
	read := func(f field, what string, most int64) (n int64) {
		if err == nil {
			if n, err = h.number(f); err == nil && (n < 0 || n > most) {
				err = fmt.Errorf("out of range")
			}
			if err != nil {
				err = fmt.Errorf("bad %s: %w", what, err)
			}
		}
		return n
	}
	// GNU tar keeps the type of the file in the mode; only the bits count.
	e.Mode = uint32(read(fMode, "mode", 1<<32-1)) & 0o7777
	e.UID = uint32(read(fUID, "owner", 1<<32-2))
	e.GID = uint32(read(fGID, "group", 1<<32-2))
	size = read(fSize, "size", 1<<62)
	if flag := h.bytes(fType)[0]; flag == '3' || flag == '4' {
		e.Major = uint32(read(fMajor, "device number", 1<<12-1)) // as the kernel has them
		e.Minor = uint32(read(fMinor, "device number", 1<<20-1))
	}
	if err != nil {
		return 0, err
	}
	sec, err := h.number(fTime)
	if err != nil {
		return 0, fmt.Errorf("bad time: %w", err)
	}
	e.ModTime = time.Unix(sec, 0)
	return size, nil
}

// apply applies one extended record to e.
func apply(e *Entry, rec record, size *int64) (err error) {
	owner := func() uint32 {
		n, bad := strconv.ParseUint(rec.value, 10, 32)
		if bad != nil || n == 1<<32-1 {
			err = fmt.Errorf("bad %s %q", rec.key, rec.value)
		}
		return uint32(n)
	}
	if name, ok := strings.CutPrefix(rec.key, paxXattr); ok {
		return addXattr(e, decodeName.Replace(name), rec.value)
	}
	if rec.value == "" {
		return nil // takes back what a global header said; the header counts
	}
	switch rec.key {
	case paxPath:
		e.Path = rec.value
	case paxLink:
		e.Link = rec.value
	case paxSize:
		if *size, err = strconv.ParseInt(rec.value, 10, 63); err != nil || *size < 0 {
			return fmt.Errorf("bad size %q", rec.value)
		}
	case paxUID:
		e.UID = owner()
	case paxGID:
		e.GID = owner()
	case paxMTime:
		e.ModTime, err = parseTime(rec.value)
	case paxSELinux:
		return addXattr(e, "security.selinux", rec.value)
	case paxACLAccess, paxACLDefault:
		return textACL(e, rec)
	default:
		if !ignored(rec.key) {
			return fmt.Errorf("unknown extended record %q", rec.key)
		}
	}
	return err
}

// addXattr adds an attribute; one that came already must be the same.
func addXattr(e *Entry, name, value string) error {
	if name == "" || len(name) > maxName || strings.IndexByte(name, 0) >= 0 || !strings.Contains(name, ".") {
		return fmt.Errorf("bad attribute name %q", name)
	}
	if len(value) > 1<<16 {
		return fmt.Errorf("attribute %q of more than %d bytes", name, 1<<16)
	}
	for _, x := range e.Xattrs {
		if x.Name == name {
			if x.Value != value {
				return fmt.Errorf("attribute %q is there twice", name)
			}
			return nil
		}
	}
	e.Xattrs = append(e.Xattrs, Xattr{Name: name, Value: value})
	return nil
}

// oldSparse reads the map of GNU tar's first sparse format: in the header,
// and in blocks behind it.
func (r *Reader) oldSparse(h *header) error {
	size, err := h.number(fRealSize)
	if err != nil {
		return err
	}
	var extents []Extent
	pairs := h.bytes(fSparse)
	more := h.bytes(fMore)[0] != 0
	for {
		for ; len(pairs) >= 24; pairs = pairs[24:] {
			if pairs[0] == 0 && pairs[12] == 0 {
				break
			}
			offset, err := number(pairs[:12])
			if err != nil {
				return err
			}
			length, err := number(pairs[12:24])
			if err != nil {
				return err
			}
			extents = append(extents, Extent{Offset: offset, Length: length})
		}
		if !more || len(extents) > maxSparse {
			return r.sparse(extents, size)
		}
		var b header
		if _, err := io.ReadFull(r.in, b[:]); err != nil {
			return err
		}
		pairs, more = b[:504], b[504] != 0
	}
}

// paxSparse reads the map of the three later formats.
func (r *Reader) paxSparse(s *sparseRecords) (err error) {
	size, perr := strconv.ParseInt(s.realSize, 10, 63)
	if perr != nil || !s.known() {
		return fmt.Errorf("sparse file of an unknown format")
	}
	var extents []Extent
	if s.newer() {
		var taken int64
		extents, taken, err = readMap(r.in, r.left)
		r.left -= taken
	} else {
		extents, err = s.extents()
	}
	if err != nil {
		return err
	}
	return r.sparse(extents, size)
}

// sparse sets the map of the current entry.
func (r *Reader) sparse(extents []Extent, size int64) (err error) {
	if size < 0 || size > r.limits.Size {
		return fmt.Errorf("file of more than %d bytes", r.limits.Size)
	}
	e := &r.entry
	e.Sparse, e.Size = true, size
	e.Data, err = checkMap(extents, size, r.left)
	return err
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
