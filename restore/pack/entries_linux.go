package pack

import (
	"context"
	"io"
	"os"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// Entries gives the entries of a stored file, one after the other.
func (engine) Entries(ctx context.Context, store *os.Root, c copyengine.Content, visit func(e *tree.Entry, content io.Reader) error) error {
	s, err := open(store, c)
	if err != nil {
		return err
	}
	defer s.close()
	r := &reader{x: s.index()}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := r.x.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return describe(ctx, c, err)
		}
		if k != atEntry {
			continue
		}
		if err := r.begin(); err != nil {
			return describe(ctx, c, err)
		}
		if err := visit(r.x.entry, r); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
	}
}

// reader reads the content of the entry that an index has come to.
type reader struct {
	x    *index
	left []byte
	err  error // of reading, sticky

	// The last frames that were read, since small files of several may take
	// turns.
	recent [4]struct {
		used    bool
		number  uint64
		content []byte
		b       buffers
	}
	oldest int
}

// begin finds the content of a small file.
func (r *reader) begin() (err error) {
	r.left = nil
	if r.x.flags&hasFrame != 0 {
		r.left, err = r.frame(r.x.at)
		if err == nil {
			r.left = r.left[r.x.offset : r.x.offset+r.x.entry.Stored()]
		}
	}
	return err
}

// frame gives the content of a frame.
func (r *reader) frame(number uint64) ([]byte, error) {
	for i := range r.recent {
		if f := &r.recent[i]; f.used && f.number == number {
			return f.content, nil
		}
	}
	f := &r.recent[r.oldest]
	r.oldest = (r.oldest + 1) % len(r.recent)
	f.used = false
	content, err := f.b.read(r.x.s.file(r.x.frame(number)), r.x.frame(number))
	if err != nil {
		return nil, err
	}
	f.used, f.number, f.content = true, number, content
	return content, nil
}

// Read reads on, into the segments of a large file.
func (r *reader) Read(p []byte) (int, error) {
	for r.err == nil && len(r.left) == 0 {
		if len(r.x.todo.left) == 0 {
			return 0, io.EOF
		}
		var k kind
		if k, r.err = r.x.next(); r.err == nil && k == atSegment {
			r.left, r.err = r.frame(r.x.at)
		}
	}
	if r.err != nil {
		return 0, describe(context.Background(), r.x.s.c, r.err)
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
