package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// job is a frame on its way into the file, and the records that follow it.
type job struct {
	content []byte // of the frame, or none
	out     []byte // the same, compressed
	frame   frame
	records []byte
	entries int // described by records

	same  *frame  // of an earlier snapshot, that it may be equal to; or nil
	taken bool    // it is, and is not written
	olds  []frame // whose records are in records

	large *large // whose segment is the content, and not yet read; or nil
	parts []tree.Extent

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

// output is a file being written. Jobs are prepared by workers side by side and
// written in their order by one writer.
type output struct {
	f       *os.File
	at      int64
	begun   int64  // up to where the disk was told to write
	records []byte // of the index, not yet written
	packed  []byte
	t       trailer

	free    chan *job
	work    chan *job
	queue   chan *job // in order
	workers sync.WaitGroup
	done    chan struct{}
	failed  atomic.Pointer[error]
}

// create makes the stored file of volume number index, which must not exist.
// It is ended by finish or abort.
func create(store *os.Root, name string) (*output, error) {
	f, err := store.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	n := workers() + 2
	o := &output{f: f, free: make(chan *job, n), work: make(chan *job, n), queue: make(chan *job, n), done: make(chan struct{})}
	for range n {
		o.free <- &job{ready: make(chan struct{}, 1)}
	}
	begin := budget.Worker()
	for range workers() {
		o.workers.Add(1)
		go func() {
			begin()
			o.prepare()
		}()
	}
	go func() {
		begin()
		o.drain()
	}()
	return o, nil
}

// prepare reads, sums and compresses.
func (o *output) prepare() {
	defer o.workers.Done()
	for j := range o.work {
		j.err = nil
		if j.large != nil {
			if o.failed.Load() == nil {
				j.err = j.read()
			}
			j.large.release()
			j.large = nil
		}
		if j.err == nil && len(j.content) > 0 && o.failed.Load() == nil {
			sum := sha256.Sum256(j.content)
			if j.same != nil && j.same.sum == sum && j.same.raw == int64(len(j.content)) {
				j.frame, j.taken = *j.same, true
			} else {
				j.out, j.frame = encodeSummed(j.content, sum, j.out)
			}
		}
		j.ready <- struct{}{}
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

// drain writes. After an error it only hands the jobs back.
func (o *output) drain() {
	defer close(o.done)
	err := o.write([]byte(head))
	for j := range o.queue {
		<-j.ready
		if err == nil {
			err = j.err
		}
		if err == nil {
			err = o.take(j)
		}
		if err != nil {
			o.failed.CompareAndSwap(nil, &err)
		}
		o.free <- j
	}
}

func (o *output) write(b []byte) error {
	n, err := o.f.Write(b)
	o.at += int64(n)
	if err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	if o.at-o.begun >= writeBehind {
		// So that the disk works while frames are made, and a sync at the end
		// finds little to do. It promises nothing, and neither does an error.
		_ = unix.SyncFileRange(int(o.f.Fd()), o.begun, o.at-o.begun, unix.SYNC_FILE_RANGE_WRITE)
		o.begun = o.at
	}
	return nil
}

// take writes a job's frame, and its records into the index.
func (o *output) take(j *job) error {
	if len(j.content) > 0 {
		if !j.taken {
			j.frame.offset = o.at
			if err := o.write(j.out); err != nil {
				return err
			}
		} else {
			o.use(j.frame)
		}
		o.records = appendFrame(o.records, &j.frame)
	}
	for _, f := range j.olds {
		o.use(f)
	}
	o.records = append(o.records, j.records...)
	for len(o.records) >= indexFrame {
		if err := o.flush(indexFrame); err != nil {
			return err
		}
	}
	return nil
}

// use counts a frame of another file.
func (o *output) use(f frame) { o.t.others[f.file-1].used += f.stored }

// flush writes n bytes of the index as a frame.
func (o *output) flush(n int) error {
	var f frame
	o.packed, f = encode(o.records[:n], o.packed)
	f.offset = o.at
	if err := o.write(o.packed); err != nil {
		return err
	}
	o.t.index = append(o.t.index, f)
	o.records = append(o.records[:0], o.records[n:]...)
	return nil
}

// next gives an empty job, or the error that ended the writing.
func (o *output) next() (*job, error) {
	j := <-o.free
	if err := o.err(); err != nil {
		o.free <- j
		return nil, err
	}
	if j.content == nil {
		j.content = make([]byte, 0, frameSize)
	}
	j.content, j.records, j.entries, j.large, j.parts = j.content[:0], j.records[:0], 0, nil, nil
	j.same, j.taken, j.olds = nil, false, j.olds[:0]
	return j, nil
}

func (o *output) submit(j *job) {
	o.queue <- j
	o.work <- j
}

func (o *output) err() error {
	if err := o.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// stop waits until all that was submitted is written, or given up.
func (o *output) stop() error {
	close(o.work)
	close(o.queue)
	o.workers.Wait()
	<-o.done
	return o.err()
}

// finish ends the file and tells what it holds.
func (o *output) finish(store *os.Root, name string, bytes, files int64) (copyengine.Content, error) {
	c := copyengine.Content{File: name, Bytes: bytes, Files: files}
	err := o.stop()
	if err == nil {
		o.records = append(o.records, tagEnd)
		err = o.flush(len(o.records))
	}
	if err == nil {
		err = o.t.drop(store)
	}
	if err == nil {
		o.t.bytes, o.t.files = bytes, files
		end := o.t.encode()
		sum := sha256.Sum256(end)
		c.SHA256 = hex.EncodeToString(sum[:])
		err = o.write(end)
	}
	if e := o.f.Close(); err == nil && e != nil {
		err = fmt.Errorf("write pack: %w", e)
	}
	c.Stored = o.at
	return c, err
}

// abort closes the file, which is left torn for the caller to remove.
func (o *output) abort() {
	_ = o.stop() // the caller has the error that counts
	o.f.Close()
}
