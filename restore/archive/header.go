package archive

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// block is the unit of the tar format, in bytes.
const block = 512

// The fields of a header block (POSIX.1-2017 pax, "ustar Interchange Format";
// the sparse ones: GNU tar manual, "Storing Sparse Files", old GNU format).
type field struct{ at, n int }

var (
	fName     = field{0, 100}
	fMode     = field{100, 8}
	fUID      = field{108, 8}
	fGID      = field{116, 8}
	fSize     = field{124, 12}
	fTime     = field{136, 12}
	fSum      = field{148, 8}
	fType     = field{156, 1}
	fLink     = field{157, 100}
	fMagic    = field{257, 8}
	fMajor    = field{329, 8}
	fMinor    = field{337, 8}
	fPrefix   = field{345, 155}
	fSparse   = field{386, 96} // four pairs of offset and length
	fMore     = field{482, 1}
	fRealSize = field{483, 12}
)

const (
	magicPOSIX = "ustar\x0000"
	magicGNU   = "ustar  \x00"
)

// header is one header block.
type header [block]byte

func (h *header) bytes(f field) []byte { return h[f.at : f.at+f.n] }

// text is a field's bytes up to the first NUL.
func (h *header) text(f field) string {
	b := h.bytes(f)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// number reads an octal field, or a binary one in GNU's base-256 form.
func (h *header) number(f field) (int64, error) { return number(h.bytes(f)) }

func number(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		return binaryNumber(b)
	}
	b = bytes.Trim(b, " \x00")
	var n int64
	for _, c := range b {
		if c < '0' || c > '7' || n >= 1<<60 {
			return 0, fmt.Errorf("%q is not an octal number", b)
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}

// binaryNumber reads a big-endian number in two's complement whose first bit
// is set as the mark of this form.
func binaryNumber(b []byte) (int64, error) {
	var n int64
	negative := b[0]&0x40 != 0
	if negative {
		n = -1
	}
	for i, c := range b {
		if i == 0 {
			c &= 0x7f
			if negative {
				c |= 0x80
			}
		}
		if n > 1<<54 || n < -1<<54 {
			return 0, fmt.Errorf("binary number %x is too large", b)
		}
		n = n<<8 | int64(c)
	}
	return n, nil
}

// sums are the header's checksum over unsigned and over signed bytes; some
// old writers used the latter.
func (h *header) sums() (unsigned, signed int64) {
	for i, c := range h {
		if i >= fSum.at && i < fSum.at+fSum.n {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return unsigned, signed
}

// valid tells whether the header's checksum is right.
func (h *header) valid() bool {
	want, err := h.number(fSum)
	unsigned, signed := h.sums()
	return err == nil && (want == unsigned || want == signed)
}

// zero tells whether the block is one of the two that end an archive.
func (h *header) zero() bool {
	for i := 0; i < block; i += 8 {
		if binary.NativeEndian.Uint64(h[i:]) != 0 {
			return false
		}
	}
	return true
}

// octal writes n in a field, NUL at the end; it reports whether n fits.
func (h *header) octal(f field, n int64) bool {
	b := h.bytes(f)
	b[len(b)-1] = 0
	for i := len(b) - 2; i >= 0; i-- {
		b[i] = '0' + byte(n&7)
		n >>= 3
	}
	return n == 0
}

// seal writes magic and checksum.
func (h *header) seal() {
	copy(h.bytes(fMagic), magicPOSIX)
	sum, _ := h.sums()
	h.octal(field{fSum.at, fSum.n - 1}, sum)
	h[fSum.at+fSum.n-1] = ' '
}

// padding is the number of bytes from n to the next full block.
func padding(n int64) int64 { return -n & (block - 1) }
