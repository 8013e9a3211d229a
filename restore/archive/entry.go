package archive

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

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
