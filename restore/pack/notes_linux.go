package pack

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/snaprestore/snaprestore/restore/copyengine"
)

// blockSize is the part of a segment that is compared on its own, in bytes: the
// page of a database, or half of one. Larger ones would put more aside of a page
// that changed, smaller ones cost more notes.
const (
	blockSize  = 8 << 10
	blockCount = frameSize / blockSize // at most 256: their numbers are bytes
)

// none is the number of no segment.
const none = -1

// note says what the blocks of a segment are known by, and of which content
// that is.
type note struct {
	of     [sha256.Size]byte
	blocks [blockCount]blockSum
}

// noteSize is the length of a note in its file.
const noteSize = sha256.Size + blockCount*blockSumSize

// read notes the blocks of content.
func (n *note) read(content []byte) {
	for i := 0; len(content) > 0; i++ {
		block := content[:min(len(content), blockSize)]
		sumBlock(block, &n.blocks[i])
		content = content[len(block):]
	}
}

// notes are those of a volume that was copied ahead, in a file beside what was
// copied, in the order of the segments in its index: 2 MiB for each GiB of large
// files, of which nothing is in memory. They mean something to this process
// alone, and are gone with the folder that they lie in.
type notes struct{ f *os.File }

// notesName is the file of the notes that belong to a stored file.
func notesName(stored string) string { return strings.TrimSuffix(stored, ".pack") + ".blocks" }

// createNotes makes the file.
func createNotes(store *os.Root, stored string) (*notes, error) {
	f, err := store.OpenFile(notesName(stored), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("note blocks: %w", err)
	}
	return &notes{f}, nil
}

// openNotes opens those of an earlier snapshot; nil where it has none, as all
// have that were not copied just now.
func openNotes(base *copyengine.Base) *notes {
	name := notesName(base.Content.File)
	if st, err := base.Store.Lstat(name); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	f, err := base.Store.Open(name)
	if err != nil {
		return nil
	}
	return &notes{f}
}

func (n *notes) close() {
	if n != nil {
		n.f.Close()
	}
}

// put writes the note of segment number at.
func (n *notes) put(at int64, one *note) error {
	var b [noteSize]byte
	to := append(b[:0], one.of[:]...)
	for i := range one.blocks {
		to = append(to, one.blocks[i][:]...)
	}
	if _, err := n.f.WriteAt(to, at*noteSize); err != nil {
		return fmt.Errorf("note blocks: %w", err)
	}
	return nil
}

// get reads the note of the segment that a job may be equal to; false where
// there is none of that content. One that cannot be read is not needed.
func (n *notes) get(j *job) (*note, bool) {
	if n == nil || j.same == nil || j.was == none || j.same.raw != int64(len(j.content)) {
		return nil, false
	}
	return n.find(j.was, j.same)
}

// find reads the note of segment number at, if its content is that of f.
func (n *notes) find(at int64, f *frame) (*note, bool) {
	if n == nil {
		return nil, false
	}
	var b [noteSize]byte
	if got, err := n.f.ReadAt(b[:], at*noteSize); err != nil && !(errors.Is(err, io.EOF) && got == len(b)) {
		return nil, false
	}
	one := &note{of: [sha256.Size]byte(b[:sha256.Size])}
	if one.of != f.sum {
		return nil, false // a gap in the file, where nothing was noted
	}
	for i := range one.blocks {
		one.blocks[i] = blockSum(b[sha256.Size+blockSumSize*i:])
	}
	return one, true
}

// carry notes for segment number at what the earlier notes say of its number
// was, which is f.
func (n *notes) carry(at int64, before *notes, was int64, f *frame) error {
	if one, ok := before.find(was, f); ok {
		return n.put(at, one)
	}
	return nil
}

// compare leaves, of a segment that was read, the blocks that are not those of
// the note.
func (j *job) compare(was *note) {
	kept, content := 0, j.content
	for i := 0; len(content) > 0; i++ {
		block := content[:min(len(content), blockSize)]
		content = content[len(block):]
		if sumBlock(block, &j.sum); j.sum == was.blocks[i] {
			continue
		}
		j.blocks = append(j.blocks, byte(i))
		kept += copy(j.content[kept:], block) // to where it was read already
	}
	switch {
	case kept == 0:
		j.frame, j.taken = *j.same, true
	case kept < len(j.content):
		j.patched = true
	}
	j.content = j.content[:kept]
}

// patch makes the content of a segment of its frame in f and the blocks that
// have changed.
func (j *job) patch(b *buffers, f *os.File) error {
	b.in = j.out[:cap(j.out)] // which is not in use yet
	whole, err := b.read(f, *j.same)
	j.out, b.in = b.in[:0], nil
	if err != nil {
		return err
	}
	from := j.content
	for _, i := range j.blocks {
		at := int(i) * blockSize
		if at >= len(whole) || len(from) < min(blockSize, len(whole)-at) {
			return errPatch
		}
		from = from[copy(whole[at:min(len(whole), at+blockSize)], from):]
	}
	if len(from) > 0 {
		return errPatch
	}
	j.content = append(j.content[:0], whole...)
	j.same = nil // it is another now, or is to be stored anew
	return nil
}

// errPatch says that blocks are not of the segment that they were captured for.
var errPatch = errors.New("write pack: blocks of another segment")
