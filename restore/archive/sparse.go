package archive

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// sparseRecords is what the extended header of a sparse file says.
type sparseRecords struct {
	major, minor, name, realSize, list string
	pairs                              []string // format 0.0: offset, length, …
}

// take notes a GNU.sparse record. A count of pairs is not needed, and an
// unknown key means a form that cannot be read.
func (s *sparseRecords) take(key, value string) error {
	switch key {
	case "major":
		s.major = value
	case "minor":
		s.minor = value
	case "name":
		s.name = value
	case "realsize", "size":
		s.realSize = value
	case "map":
		s.list = value
	case "offset", "numbytes":
		if (key == "offset") != (len(s.pairs)%2 == 0) || len(s.pairs) > 2*maxSparse {
			return fmt.Errorf("sparse map out of order")
		}
		s.pairs = append(s.pairs, value)
	case "numblocks":
	default:
		return fmt.Errorf("unknown sparse record %q", key)
	}
	return nil
}

// newer tells whether the map lies before the data (GNU sparse 1.0).
func (s *sparseRecords) newer() bool { return s.major == "1" && s.minor == "0" }

// known tells whether the format is one of the three that exist.
func (s *sparseRecords) known() bool {
	return s.newer() || s.major == "" && s.minor == "" || s.major == "0" && (s.minor == "0" || s.minor == "1")
}

// extents reads the map of the forms that keep it in the header.
func (s *sparseRecords) extents() ([]Extent, error) {
	pairs := s.pairs
	if s.list != "" {
		pairs = strings.Split(s.list, ",")
	}
	if len(pairs)%2 != 0 || len(pairs) > 2*maxSparse {
		return nil, fmt.Errorf("sparse map is incomplete or too long")
	}
	out := make([]Extent, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		x, err := parseExtent(pairs[i], pairs[i+1])
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func parseExtent(offset, length string) (x Extent, err error) {
	if x.Offset, err = strconv.ParseInt(offset, 10, 64); err == nil {
		x.Length, err = strconv.ParseInt(length, 10, 64)
	}
	if err != nil {
		return x, fmt.Errorf("sparse map with a bad number")
	}
	return x, nil
}

// readMap reads the map of format 1.0 from the front of the content: decimal
// lines, padded to a full block. It returns the bytes taken.
func readMap(r io.Reader, size int64) (extents []Extent, taken int64, err error) {
	var buf []byte
	var b header
	line := func() (string, error) {
		for {
			if i := bytes.IndexByte(buf, '\n'); i >= 0 {
				s := string(buf[:i])
				buf = buf[i+1:]
				return s, nil
			}
			if len(buf) > 20 || taken+block > size {
				return "", fmt.Errorf("sparse map is not a list of numbers")
			}
			if _, err := io.ReadFull(r, b[:]); err != nil {
				return "", err
			}
			taken += block
			buf = append(buf, b[:]...)
		}
	}
	s, err := line()
	if err != nil {
		return nil, taken, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > maxSparse {
		return nil, taken, fmt.Errorf("sparse map with a bad number of parts %q", s)
	}
	for range n {
		offset, err := line()
		if err != nil {
			return nil, taken, err
		}
		length, err := line()
		if err != nil {
			return nil, taken, err
		}
		x, err := parseExtent(offset, length)
		if err != nil {
			return nil, taken, err
		}
		extents = append(extents, x)
	}
	return extents, taken, nil
}

// appendMap writes the map of format 1.0, padded. A file that ends in a hole
// gets an empty part at its end, by which GNU tar knows the size.
func appendMap(b []byte, e *Entry) []byte {
	start := len(b)
	n := len(e.Data)
	tail := n == 0 || e.Data[n-1].Offset+e.Data[n-1].Length < e.Size
	if tail {
		n++
	}
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, '\n')
	for _, x := range e.Data {
		b = append(strconv.AppendInt(b, x.Offset, 10), '\n')
		b = append(strconv.AppendInt(b, x.Length, 10), '\n')
	}
	if tail {
		b = append(strconv.AppendInt(b, e.Size, 10), "\n0\n"...)
	}
	return append(b, make([]byte, padding(int64(len(b)-start)))...)
}

// checkMap drops empty parts and refuses a map that does not describe a file
// of this size with this much data.
func checkMap(extents []Extent, size, stored int64) ([]Extent, error) {
	out := extents[:0]
	var end, sum int64
	for _, x := range extents {
		if x.Offset < end || x.Length < 0 || x.Offset > size || x.Length > size-x.Offset {
			return nil, fmt.Errorf("sparse map with parts that overlap or lie outside the file")
		}
		end = x.Offset + x.Length
		sum += x.Length
		if x.Length > 0 {
			out = append(out, x)
		}
	}
	if sum != stored {
		return nil, fmt.Errorf("sparse map of %d bytes for %d bytes of data", sum, stored)
	}
	return out, nil
}
