package pack

import (
	"sync"
	"sync/atomic"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// job is a frame on its way into a file, and the records that follow it.
type job struct {
	content []byte // of the frame, or none
	out     []byte // the same, compressed
	frame   frame
	records []byte
	entries int // described by records

	same  *frame  // of an earlier snapshot, that it may be equal to; or nil
	loose bool    // same is in a file that is not taken over
	taken bool    // it is, and is not written
	olds  []frame // whose records are in records

	large  *large // whose segment is the content, and not yet read; or nil
	parts  []tree.Extent
	number int64 // of the segment, among all of the index
	was    int64 // the number of the segment in same, in the earlier index

	// Where patched is set the content is that of same but for some blocks, or
	// none, whose numbers are in blocks and whose bytes follow each other in
	// content.
	patched bool
	blocks  []byte
	sum     blockSum // of the block that is compared

	ready chan struct{}
	err   error // valid once ready
}

// large is a file whose segments are read by several workers.
type large struct {
	node  *tree.Node
	users atomic.Int32
}

func (l *large) release() {
	if l.users.Add(-1) == 0 {
		l.node.Close()
	}
}

// read reads a segment.
func (j *job) read() error {
	at := 0
	for _, x := range j.parts {
		if err := j.large.node.ReadAt(j.content[at:at+int(x.Length)], x.Offset); err != nil {
			return err
		}
		at += int(x.Length)
	}
	return nil
}

// pipeline prepares jobs by workers side by side, and takes them in the order
// in which they were submitted. There are few jobs, which are used again and
// again, so memory is bounded.
type pipeline struct {
	free    chan *job
	work    chan *job
	queue   chan *job // in order
	workers sync.WaitGroup
	done    chan struct{}
	failed  atomic.Pointer[error]
}

// begin starts the goroutines, whose priority is that of the caller. Each worker
// has a function of its own to prepare with.
func (l *pipeline) begin(prepare func() func(*job) error, take func(*job) error) {
	n := workers() + 1 // with another 2 MiB of memory for one more it was no faster (measured)
	l.free, l.work, l.queue, l.done = make(chan *job, n), make(chan *job, n), make(chan *job, n), make(chan struct{})
	for range n {
		l.free <- &job{ready: make(chan struct{}, 1)}
	}
	begin := budget.Worker()
	for range workers() {
		l.workers.Add(1)
		go func() {
			begin()
			l.prepare(prepare())
		}()
	}
	go func() {
		begin()
		l.drain(take)
	}()
}

// prepare does a worker's work; after an error only what a job holds is let go.
func (l *pipeline) prepare(do func(*job) error) {
	defer l.workers.Done()
	for j := range l.work {
		j.err = nil
		if l.failed.Load() == nil {
			j.err = do(j)
		}
		if j.large != nil {
			j.large.release()
			j.large = nil
		}
		j.ready <- struct{}{}
	}
}

// drain takes. After an error it only hands the jobs back.
func (l *pipeline) drain(take func(*job) error) {
	defer close(l.done)
	for j := range l.queue {
		<-j.ready
		err := j.err
		if err == nil && l.failed.Load() == nil {
			err = take(j)
		}
		if err != nil {
			l.failed.CompareAndSwap(nil, &err)
		}
		l.free <- j
	}
}

// next gives an empty job, or the error that ended the work.
func (l *pipeline) next() (*job, error) {
	j := <-l.free
	if err := l.err(); err != nil {
		l.free <- j
		return nil, err
	}
	if j.content == nil {
		j.content = make([]byte, 0, frameSize)
	}
	j.content, j.records, j.entries, j.large, j.parts = j.content[:0], j.records[:0], 0, nil, nil
	j.same, j.loose, j.taken, j.olds = nil, false, false, j.olds[:0]
	j.number, j.was, j.patched, j.blocks = none, none, false, j.blocks[:0]
	return j, nil
}

func (l *pipeline) submit(j *job) {
	l.queue <- j
	l.work <- j
}

func (l *pipeline) err() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// stop waits until all that was submitted is taken, or given up.
func (l *pipeline) stop() error {
	close(l.work)
	close(l.queue)
	l.workers.Wait()
	<-l.done
	return l.err()
}
