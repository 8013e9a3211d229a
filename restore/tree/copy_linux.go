package tree

import (
	"context"
	"io"
	"os"
	"slices"
)

// Copy copies a whole tree into an empty directory. P is called with what was
// done since its last call. What is skipped is said as by Walk.
func Copy(ctx context.Context, from, to *os.Root, skipped func(path, reason string), p func(bytes, files int64)) error {
	m, err := NewMaker(to)
	if err != nil {
		return err
	}
	defer m.Close()
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	err = Walk(ctx, from, skipped, func(n *Node) error {
		if err := m.Make(&n.Entry, n.Content(), each); err != nil {
			return err
		}
		if n.Path != "." {
			p(0, 1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.Finish()
}

// Content reads a file's Stored bytes, one part after the other, while its
// descriptor is open; of other types there is nothing.
func (n *Node) Content() io.Reader {
	parts := slices.Clone(n.Data) // the maker needs the map as it is
	if !n.Sparse {
		parts = []Extent{{0, n.Size}}
	}
	return &partReader{node: n, parts: parts}
}

type partReader struct {
	node  *Node
	parts []Extent
}

func (r *partReader) Read(p []byte) (int, error) {
	for len(r.parts) > 0 && r.parts[0].Length == 0 {
		r.parts = r.parts[1:]
	}
	if len(r.parts) == 0 {
		return 0, io.EOF
	}
	x := &r.parts[0]
	if int64(len(p)) > x.Length {
		p = p[:x.Length]
	}
	got, err := pread(r.node.FD, p, x.Offset)
	if err != nil {
		return 0, pathErr("read", r.node.Path, err)
	}
	if got == 0 { // shrank while it was read
		clear(p)
		got = len(p)
	}
	x.Offset += int64(got)
	x.Length -= int64(got)
	return got, nil
}
