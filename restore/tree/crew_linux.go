package tree

import (
	"bytes"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/snaprestore/snaprestore/restore/budget"
)

// small is the largest file that is made in the background, in bytes: larger
// ones are made as their content comes, so that memory stays bounded.
const small = 64 << 10

// crew makes small files in the background. To make a file costs the kernel
// far more than to read it from an archive, and directories are locked one by
// one: so all files of one directory go to one worker, and the next directory
// to the next.
type crew struct {
	queues  []chan job
	current int
	dir     string
	pending sync.WaitGroup // jobs
	workers sync.WaitGroup
	failed  atomic.Pointer[error]
}

// job is a small file, whole.
type job struct {
	dir     *held
	entry   Entry
	content []byte
}

func newCrew() *crew {
	c := &crew{queues: make([]chan job, min(4, runtime.GOMAXPROCS(0)))}
	begin := budget.Worker()
	for i := range c.queues {
		c.queues[i] = make(chan job, 128) // at most 8 MiB of content
		c.workers.Add(1)
		go func() {
			begin()
			c.work(c.queues[i])
		}()
	}
	return c
}

func (c *crew) work(queue chan job) {
	defer c.workers.Done()
	none := func(int64) error { return nil }
	var files nature
	for j := range queue {
		if c.failed.Load() == nil {
			if err := files.makeFile(j.dir, &j.entry, bytes.NewReader(j.content), j.content, none); err != nil {
				c.failed.CompareAndSwap(nil, &err)
			}
		}
		j.dir.release()
		c.pending.Done()
	}
}

// take reads a small file's content and queues it.
func (c *crew) take(dir *held, e *Entry, content io.Reader) error {
	j := job{dir: dir, entry: *e, content: make([]byte, e.Stored())}
	if _, err := io.ReadFull(content, j.content); err != nil {
		return err
	}
	if d := parent(e.Path); d != c.dir {
		c.dir, c.current = d, (c.current+1)%len(c.queues)
	}
	dir.acquire()
	c.pending.Add(1)
	c.queues[c.current] <- j
	return nil
}

// err is the first failure so far.
func (c *crew) err() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// wait waits until all that was queued is made.
func (c *crew) wait() error {
	c.pending.Wait()
	return c.err()
}

func (c *crew) close() {
	for _, q := range c.queues {
		close(q)
	}
	c.workers.Wait()
}
