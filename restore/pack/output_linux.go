package pack

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/copyengine"
)

// output is a file being written.
type output struct {
	pipeline
	f       *os.File
	at      int64
	begun   int64  // up to where the disk was told to write
	records []byte // of the index, not yet written
	packed  []byte
	t       trailer

	notes  *notes           // of the blocks of its segments, or nil
	before *notes           // those of the earlier snapshot, or nil
	from   map[int]*os.File // the files with frames that are patched
}

// create makes the stored file of a volume, which must not exist. It is ended
// by finish or abort.
func create(store *os.Root, name string) (*output, error) {
	f, err := store.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	o := &output{f: f}
	if err := o.write([]byte(head)); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

// start begins the work; what it rests on is set before.
func (o *output) start() {
	o.begin(func() func(*job) error {
		var b buffers
		return func(j *job) error { return o.prepare(&b, j) }
	}, o.take)
}

// prepare reads, sums and compresses.
func (o *output) prepare(b *buffers, j *job) error {
	switch {
	case j.large != nil:
		if err := j.read(); err != nil {
			return err
		}
	case j.patched:
		if err := j.patch(b, o.from[j.same.file]); err != nil {
			return err
		}
	}
	if len(j.content) == 0 {
		return nil
	}
	var now note
	if o.notes != nil && j.number != none {
		now.read(j.content)
		if was, ok := o.before.get(j); ok && now.blocks == was.blocks {
			j.frame, j.taken = *j.same, true
			return o.notes.put(j.number, was)
		}
	}
	sum := sha256.Sum256(j.content)
	if j.same != nil && j.same.sum == sum && j.same.raw == int64(len(j.content)) {
		j.frame, j.taken = *j.same, true
	} else {
		j.out, j.frame = encodeSummed(j.content, sum, j.out)
	}
	if o.notes != nil && j.number != none {
		now.of = sum
		return o.notes.put(j.number, &now)
	}
	return nil
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
			o.t.use(j.frame)
		}
		o.records = appendFrame(o.records, &j.frame)
	}
	for _, f := range j.olds {
		o.t.use(f)
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
func (t *trailer) use(f frame) { t.others[f.file-1].used += f.stored }

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
