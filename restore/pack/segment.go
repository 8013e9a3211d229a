package pack

import "github.com/snaprestore/snaprestore/restore/tree"

// segments cuts the data of a file at the multiples of frameSize of its
// offset. Cuts that depend on the offset alone stay where they are when another
// part of the file changes.
type segments struct{ left []tree.Extent }

func segmentsOf(e *tree.Entry) segments {
	if !e.Sparse {
		return segments{[]tree.Extent{{Offset: 0, Length: e.Size}}}
	}
	return segments{append([]tree.Extent(nil), e.Data...)}
}

// next gives the parts of the next segment that has data, and how many bytes
// they are; false at the end.
func (s *segments) next() (parts []tree.Extent, n int64, ok bool) {
	if len(s.left) == 0 || s.left[0].Length == 0 {
		return nil, 0, false
	}
	end := s.left[0].Offset/frameSize*frameSize + frameSize
	for len(s.left) > 0 && s.left[0].Offset < end {
		x := &s.left[0]
		part := tree.Extent{Offset: x.Offset, Length: min(x.Length, end-x.Offset)}
		parts = append(parts, part)
		n += part.Length
		x.Offset += part.Length
		if x.Length -= part.Length; x.Length > 0 {
			break
		}
		s.left = s.left[1:]
	}
	return parts, n, true
}
