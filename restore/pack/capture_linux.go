package pack

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
)

// capture reads a tree and keeps what is to be stored of it.
type capture struct {
	pipeline
	t      trailer
	spool  spool
	before *notes       // or nil
	from   map[int]bool // numbers of the files with frames that are read later
}

// Ahead is SaveSince, and notes what the blocks of large files are known by.
func (g engine) Ahead(ctx context.Context, base *copyengine.Base, settled time.Time, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	n, err := createNotes(store, FileName(index))
	if err != nil {
		return copyengine.Content{}, err
	}
	defer n.close()
	return g.save(ctx, n, base, settled, root, store, index, skipped, p)
}

// Capture reads a tree. Of a large file's segment only those blocks are kept
// that are not in the frame that an Ahead has stored of it, and nothing is
// summed but what has no notes, nor compressed.
func (g engine) Capture(ctx context.Context, base *copyengine.Base, settled time.Time, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Captured, error) {
	c := &capture{spool: spool{store: store, name: fmt.Sprintf("%d.captured", index)}, from: map[int]bool{}}
	k := g.packer(ctx, &c.pipeline, settled, p)
	if base != nil {
		if k.base = since(base, store, index, &c.t); k.base != nil {
			defer k.base.close()
			k.base.loosen()
			c.before = k.base.notes
		}
	}
	c.begin(func() func(*job) error { return c.prepare }, c.take)
	err := k.pack(root, skipped)
	if err != nil {
		k.drop()
	}
	if bad := c.stop(); err == nil {
		err = bad
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.spool.close()
		return nil, err
	}
	out := &capturedTree{store: store, name: FileName(index), t: c.t, spool: c.spool, bytes: k.bytes, files: k.files}
	if k.base != nil {
		out.from = k.base.hand(c.from)
	}
	return out, nil
}

// prepare reads a segment, and leaves of it what has to be stored.
func (c *capture) prepare(j *job) error {
	if j.large == nil {
		return nil
	}
	if err := j.read(); err != nil {
		return err
	}
	if was, ok := c.before.get(j); ok {
		j.compare(was)
	} else if j.same != nil && j.same.raw == int64(len(j.content)) && j.same.sum == sha256.Sum256(j.content) {
		j.frame, j.taken, j.content = *j.same, true, j.content[:0]
	}
	if j.taken && j.loose {
		j.taken, j.patched = false, true // by nothing
	}
	return nil
}

// take keeps a job. One that is taken over is only records from here on.
func (c *capture) take(j *job) error {
	for _, f := range j.olds {
		c.t.use(f)
	}
	if j.taken {
		c.t.use(j.frame)
		j.records = append(appendFrame(nil, &j.frame), j.records...)
	}
	if j.patched {
		c.from[j.same.file] = true
	}
	return c.spool.keep(j)
}

// capturedTree is what capture read, to be stored.
type capturedTree struct {
	store        *os.Root
	name         string
	t            trailer
	spool        spool
	from         map[int]*os.File
	bytes, files int64
}

// Close lets it go.
func (c *capturedTree) Close() {
	c.spool.close()
	for _, f := range c.from {
		f.Close()
	}
	c.from = nil
}

// Finish stores it, as SaveSince would have stored the tree.
func (c *capturedTree) Finish(ctx context.Context) (copyengine.Content, error) {
	defer c.Close()
	out, err := create(c.store, c.name)
	if err != nil {
		return copyengine.Content{}, err
	}
	out.t, out.from = c.t, c.from
	out.start()
	if err := c.replay(ctx, out); err != nil {
		out.abort()
		return copyengine.Content{}, err
	}
	content, err := out.finish(c.store, c.name, c.bytes, c.files)
	if err == nil {
		err = ctx.Err()
	}
	return content, err
}

// replay submits the jobs that were kept.
func (c *capturedTree) replay(ctx context.Context, out *output) error {
	r := bufio.NewReaderSize(c.spool.reader(), 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		j, err := out.next()
		if err != nil {
			return err
		}
		if err := j.fill(r); err != nil {
			out.free <- j
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := budget.Take(ctx, int64(len(j.content))); err != nil {
			out.free <- j
			return err
		}
		out.submit(j)
	}
}
