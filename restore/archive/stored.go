package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// FileName is the name under which volume number index is stored.
func FileName(index int) string { return fmt.Sprintf("%d.tar.zst", index) }

// Output is a volume's stored file being written: a Writer that compresses,
// counts and sums. The first entry must be the top, ".".
type Output struct {
	*Writer
	f       *os.File
	sum     hash.Hash
	frames  *frames
	content copyengine.Content
}

// Create makes the stored file of volume number index, which must not exist.
// End it with Finish or Abort. Nothing is synced.
func Create(store *os.Root, index int) (*Output, error) {
	name := FileName(index)
	f, err := store.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	o := &Output{f: f, sum: sha256.New()}
	o.content.File = name
	o.frames = newFrames(summer{o})
	o.Writer = NewWriter(o.frames)
	return o, nil
}

// summer is where the compressed bytes go.
type summer struct{ o *Output }

func (s summer) Write(p []byte) (int, error) {
	n, err := s.o.f.Write(p)
	s.o.sum.Write(p[:n])
	s.o.content.Stored += int64(n)
	return n, err
}

// WriteEntry begins an entry and counts it.
func (o *Output) WriteEntry(e *Entry) error {
	if e.Path != "." {
		o.content.Files++
	}
	o.content.Bytes += e.Stored()
	return o.Writer.WriteEntry(e)
}

// Finish ends the archive, closes the file and tells what it holds.
func (o *Output) Finish() (copyengine.Content, error) {
	err := o.Writer.Close()
	if e := o.frames.Close(); err == nil && e != nil {
		err = fmt.Errorf("write archive: %w", e)
	}
	if e := o.f.Close(); err == nil && e != nil {
		err = fmt.Errorf("write archive: %w", e)
	}
	o.content.SHA256 = hex.EncodeToString(o.sum.Sum(nil))
	return o.content, err
}

// Abort closes the file, which is left torn for the caller to remove.
func (o *Output) Abort() {
	o.frames.Close()
	o.f.Close()
}

// Input is a volume's stored file being read: a Reader that, at its end,
// holds the file's checksum and counts against what was stored.
type Input struct {
	*Reader
	want  copyengine.Content
	f     *os.File
	tee   *tee
	files int64
}

// tee sums and counts the compressed bytes on their way. A decompressor reads
// it from one goroutine of its own at a time.
type tee struct {
	r   io.Reader
	sum hash.Hash
	n   int64
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.sum.Write(p[:n])
	t.n += int64(n)
	return n, err
}

// Open opens the stored content c in store. A missing file is damage.
func Open(store *os.Root, c copyengine.Content) (*Input, error) {
	st, err := store.Lstat(c.File) // first, since to open a fifo may block
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fault.New(fault.Corrupt, "read archive: %w", err)
	case err != nil:
		return nil, fmt.Errorf("read archive: %w", err)
	case !st.Mode().IsRegular():
		return nil, fault.New(fault.Corrupt, "read archive %s: it is not a file", c.File)
	case st.Size() != c.Stored:
		return nil, fault.New(fault.Corrupt, "read archive %s: it has %d bytes, %d were stored", c.File, st.Size(), c.Stored)
	}
	f, err := store.Open(c.File)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	in := &Input{want: c, f: f, tee: &tee{r: f, sum: sha256.New()}}
	limits := Limits{}.withDefaults()
	limits.Entries = max(limits.Entries, 2*c.Files) // our own file, checked by its sum
	limits.Bytes = max(limits.Bytes, c.Bytes)
	if in.Reader, err = NewReader(in.tee, limits); err != nil {
		f.Close()
		return nil, err
	}
	return in, nil
}

// Next returns the next entry, and io.EOF only when the whole file proved to
// be what was stored.
func (in *Input) Next() (*Entry, error) {
	e, err := in.Reader.Next()
	switch {
	case err == io.EOF:
		if err := in.check(); err != nil {
			in.err = err
		}
		return nil, in.err
	case err == nil && e.Path != ".":
		in.files++
	}
	return e, err
}

// check compares the file with its description.
func (in *Input) check() error {
	if err := in.sumUp(); err != nil {
		return err
	}
	if in.files != in.want.Files || in.bytes != in.want.Bytes {
		return fault.New(fault.Corrupt, "read archive %s: it has %d files of %d bytes, %d of %d were stored",
			in.want.File, in.files, in.bytes, in.want.Files, in.want.Bytes)
	}
	return io.EOF
}

// sumUp reads what is left of the file and compares its checksum.
func (in *Input) sumUp() error {
	if _, err := io.Copy(io.Discard, in.tee); err != nil {
		return fmt.Errorf("read archive %s: %w", in.want.File, err)
	}
	if sum := hex.EncodeToString(in.tee.sum.Sum(nil)); sum != in.want.SHA256 || in.tee.n != in.want.Stored {
		return fault.New(fault.Corrupt, "read archive %s: sha256 is %s, %s was stored", in.want.File, sum, in.want.SHA256)
	}
	return nil
}

// Close closes the file.
func (in *Input) Close() error {
	in.Reader.Close()
	return in.f.Close()
}
