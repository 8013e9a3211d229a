package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// engine reads small files at once where now can.
type engine struct{ now func(*tree.Node, []byte) bool }

// New returns the copy engine that keeps each volume as one <index>.pack.
func New() copyengine.Engine { return engine{(*tree.Node).ReadNow} }

func (engine) Name() string { return Name }

// Able says that every tree can be stored everywhere.
func (engine) Able(tree, store *os.Root) error { return nil }

// task is a frame to be read and checked, and what is made of its content.
type task struct {
	number uint64
	frame  frame
	files  []placed
	file   *tree.Growing // of which it is a segment, or nil
	parts  []tree.Extent
}

// placed is a small file whose content begins at offset of a frame.
type placed struct {
	entry  *tree.Entry
	offset int64
}

// crew works on tasks side by side.
type crew struct {
	s       *stored
	tasks   chan *task
	workers sync.WaitGroup
	failed  atomic.Pointer[error]
}

// start begins the work. Hand gives each worker what it makes files with; nil
// means that the frames are only checked.
func start(s *stored, hand func() (*tree.Hand, error)) (*crew, error) {
	c := &crew{s: s, tasks: make(chan *task, workers())}
	begin := budget.Worker()
	for range workers() {
		var h *tree.Hand
		if hand != nil {
			var err error
			if h, err = hand(); err != nil {
				return nil, errors.Join(err, c.end())
			}
		}
		c.workers.Add(1)
		go func() {
			begin()
			c.run(h)
		}()
	}
	return c, nil
}

func (c *crew) run(h *tree.Hand) {
	defer c.workers.Done()
	if h != nil {
		defer h.Close()
	}
	var b buffers
	for t := range c.tasks {
		if err := c.work(&b, h, t); err != nil {
			c.failed.CompareAndSwap(nil, &err)
		}
	}
}

// work does a task; after a failure it only lets go what the task holds.
func (c *crew) work(b *buffers, h *tree.Hand, t *task) (err error) {
	if c.failed.Load() == nil {
		err = c.make(b, h, t)
	}
	if t.file != nil {
		if end := t.file.Release(err == nil && c.failed.Load() == nil); err == nil {
			err = end
		}
	}
	return err
}

func (c *crew) make(b *buffers, h *tree.Hand, t *task) error {
	content, err := b.read(c.s.file(t.frame), t.frame)
	if err != nil {
		return err
	}
	if t.file != nil {
		return t.file.Write(t.parts, content)
	}
	for _, f := range t.files {
		if err := h.File(f.entry, content[f.offset:f.offset+f.entry.Stored()]); err != nil {
			return err
		}
	}
	return nil
}

// err is the first failure so far.
func (c *crew) err() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// end waits until all is done.
func (c *crew) end() error {
	close(c.tasks)
	c.workers.Wait()
	return c.err()
}

// Verify reads a stored file whole.
func (engine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	s, err := open(store, c)
	if err != nil {
		return err
	}
	defer s.close()
	crew, err := start(s, nil)
	if err != nil {
		return err
	}
	err = verify(ctx, s, crew, p)
	if bad := crew.end(); err == nil || err == errStopped {
		err = bad
	}
	return describe(ctx, c, err)
}

// errStopped says that a worker failed, whose error is to be reported.
var errStopped = errors.New("a worker failed")

func verify(ctx context.Context, s *stored, crew *crew, p copyengine.Progress) error {
	x := s.index()
	for {
		k, err := x.next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case crew.err() != nil:
			return errStopped
		}
		switch k {
		case atFrame:
			crew.tasks <- &task{frame: x.latest()}
		case atEntry:
			if x.entry.Path != "." {
				p(0, 1)
			}
			if x.flags&hasFrame != 0 {
				p(x.entry.Stored(), 0)
			}
		case atSegment:
			p(x.frame(x.at).raw, 0)
		}
	}
}

// describe names the stored file in an error that is not damage, nor that the
// caller has ended it.
func describe(ctx context.Context, c copyengine.Content, err error) error {
	if err == nil || ctx.Err() != nil || fault.Is(err, fault.Corrupt) {
		return err
	}
	return fmt.Errorf("load pack %s: %w", c.File, err)
}

// Load makes the tree of a stored file.
func (engine) Load(ctx context.Context, store *os.Root, c copyengine.Content, root *os.Root, p copyengine.Progress) error {
	s, err := open(store, c)
	if err != nil {
		return err
	}
	defer s.close()
	m, err := tree.NewMaker(root)
	if err != nil {
		return err
	}
	defer m.Close()
	crew, err := start(s, m.Hand)
	if err != nil {
		return err
	}
	l := &loader{ctx: ctx, s: s, m: m, crew: crew, p: p}
	err = l.load()
	l.drop()
	if bad := crew.end(); err == nil || err == errStopped {
		err = bad
	}
	if err == nil && l.links > 0 {
		err = l.link()
	}
	if err == nil {
		err = m.Finish()
	}
	return describe(ctx, c, err)
}

// loader goes through an index and makes a tree.
type loader struct {
	ctx   context.Context
	s     *stored
	m     *tree.Maker
	crew  *crew
	p     copyengine.Progress
	open  []*task       // that entries may still be added to, oldest first
	file  *tree.Growing // the large file under way, or nil
	links int64
}

// pending is how many tasks are open at a time.
const pending = window / 2

func (l *loader) load() error {
	x := l.s.index()
	for {
		k, err := x.next()
		switch {
		case err == io.EOF:
			for _, t := range l.open {
				l.crew.tasks <- t
			}
			l.open = nil
			return nil
		case err != nil:
			return err
		case l.ctx.Err() != nil:
			return l.ctx.Err()
		case l.crew.err() != nil:
			return errStopped
		}
		switch k {
		case atEntry:
			err = l.entry(x)
		case atSegment:
			err = l.segment(x)
		}
		if err != nil {
			return err
		}
	}
}

// drop lets go what is open.
func (l *loader) drop() {
	if l.file == nil {
		return
	}
	if err := l.file.Release(l.crew.err() == nil); err != nil {
		l.crew.failed.CompareAndSwap(nil, &err)
	}
	l.file = nil
}

func (l *loader) entry(x *index) error {
	l.drop()
	e := x.entry
	if e.Path != "." {
		l.p(0, 1)
	}
	switch {
	case e.Type == tree.HardLink: // when all files are there
		l.links++
		return nil
	case x.flags&hasFrame != 0:
		if err := budget.Take(l.ctx, e.Stored()); err != nil {
			return err
		}
		t := l.task(x)
		t.files = append(t.files, placed{e, x.offset})
		l.p(e.Stored(), 0)
		return nil
	case x.flags&hasParts != 0:
		var err error
		l.file, err = l.m.Begin(e)
		return err
	}
	return l.m.Make(e, nothing{}, func(int64) error { return nil })
}

// nothing is the content of an empty file.
type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, io.EOF }

// task gives the task of the frame that an entry refers to.
func (l *loader) task(x *index) *task {
	for i := len(l.open) - 1; i >= 0; i-- {
		if l.open[i].number == x.at {
			return l.open[i]
		}
	}
	t := &task{number: x.at, frame: x.frame(x.at)}
	l.open = append(l.open, t)
	if len(l.open) > pending {
		l.crew.tasks <- l.open[0]
		l.open = append(l.open[:0], l.open[1:]...)
	}
	return t
}

func (l *loader) segment(x *index) error {
	f := x.frame(x.at)
	if err := budget.Take(l.ctx, f.raw); err != nil {
		return err
	}
	l.file.Use()
	l.crew.tasks <- &task{frame: f, file: l.file, parts: x.parts}
	l.p(f.raw, 0)
	return nil
}

// link goes through the index once more for the hard links.
func (l *loader) link() error {
	x := l.s.index()
	for {
		k, err := x.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = l.ctx.Err()
		}
		if err == nil && k == atEntry && x.entry.Type == tree.HardLink {
			err = l.m.Make(x.entry, nil, nil)
		}
		if err != nil {
			return err
		}
	}
}
