package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/snaprestore/snaprestore/restore/tree"
)

// bytesReader is what records are read from.
type bytesReader interface {
	io.Reader
	io.ByteReader
}

// decoding reads the parts of records. Its first error stays.
type decoding struct {
	r   bytesReader
	err error
}

func (d *decoding) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

// broken notes an error of the source.
func (d *decoding) broken(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	if d.err == nil {
		d.err = err
	}
}

func (d *decoding) byte() byte {
	if d.err != nil {
		return 0
	}
	c, err := d.r.ReadByte()
	if err != nil {
		d.broken(err)
	}
	return c
}

// number reads a number of at most limit.
func (d *decoding) number(limit uint64) uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d.r)
	switch {
	case err != nil:
		d.broken(err)
	case n > limit:
		d.fail("the number %d is out of range", n)
	default:
		return n
	}
	return 0
}

// size reads a size or offset.
func (d *decoding) size() int64 { return int64(d.number(1<<63 - 1)) }

func (d *decoding) signed() int64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadVarint(d.r)
	if err != nil {
		d.broken(err)
	}
	return n
}

// text reads a string of at most limit bytes.
func (d *decoding) text(limit uint64) string {
	b := make([]byte, d.number(limit))
	d.full(b)
	return string(b)
}

func (d *decoding) full(b []byte) {
	if d.err != nil {
		return
	}
	if _, err := io.ReadFull(d.r, b); err != nil {
		d.broken(err)
	}
}

// frame reads a frame, in a file of at most that number.
func (d *decoding) frame(files uint64) (f frame) {
	f.file = int(d.number(files))
	f.offset = d.size()
	f.stored, f.raw = int64(d.number(uint64(most(frameSize)))), int64(d.number(frameSize))
	var crc [4]byte
	d.full(crc[:])
	f.crc = binary.LittleEndian.Uint32(crc[:])
	d.full(f.sum[:])
	return f
}

// The file systems' own bounds.
const (
	maxName   = 255     // bytes in a name (NAME_MAX)
	maxTarget = 4095    // bytes in a symbolic link (PATH_MAX less the NUL)
	maxValue  = 1 << 16 // bytes in an attribute (XATTR_SIZE_MAX)
	maxXattrs = 1 << 15 // attributes of a file: their names take 64 KiB at most (XATTR_LIST_MAX)
)

func (d *decoding) xattrs() (out []tree.Xattr) {
	n := d.number(maxXattrs)
	for i := uint64(0); i < n && d.err == nil; i++ {
		x := tree.Xattr{Name: d.text(maxName), Value: d.text(maxValue)}
		out = append(out, x)
	}
	return out
}

// holes reads the map of a file of size bytes.
func (d *decoding) holes(size int64) (parts []tree.Extent) {
	n := d.number(tree.MaxExtents)
	at := int64(0)
	for i := uint64(0); i < n && d.err == nil; i++ {
		offset, length := d.size(), d.size()
		if offset > size-at || length == 0 || length > size-at-offset {
			d.fail("a part outside of the file")
			break
		}
		parts = append(parts, tree.Extent{Offset: at + offset, Length: length})
		at += offset + length
	}
	return parts
}
