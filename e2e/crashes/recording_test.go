//go:build e2e && linux

package crashes

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/enginetest"
)

// block is a sector of a disk, with what is written to it.
type block struct {
	at   int64 // in sectors
	data []byte
	sum  uint64
}

var seed = maphash.MakeSeed()

func newBlock(at int64, data []byte) block {
	var h maphash.Hash
	h.SetSeed(seed)
	binary.Write(&h, binary.LittleEndian, at)
	h.Write(data)
	return block{at, data, h.Sum64()}
}

// event is a write of some blocks, or, without any, a flush.
type event struct {
	end    int64 // of its record in the log
	blocks []block
}

// mark is what was true outside the disk from a moment on.
type mark struct {
	at     int64 // length of the log
	engine enginetest.Checkpoint
	told   bool // the operation has said that it is done
}

// recording is all that happened to a disk during an operation.
type recording struct {
	size   int64
	base   map[int64]block // what was there before; no block of zeros
	events []event
	marks  []mark
}

// readDisk reads the blocks of a file that are not zero.
func readDisk(file string, sector int64) (map[int64]block, int64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	all, zeros := map[int64]block{}, make([]byte, sector)
	for at := int64(0); at < info.Size(); {
		at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		end, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return nil, 0, err
		}
		at -= at % sector
		for ; at < end; at += sector {
			data := make([]byte, sector)
			if _, err := f.ReadAt(data, at); err != nil {
				return nil, 0, err
			}
			if !bytes.Equal(data, zeros) {
				all[at/sector] = newBlock(at/sector, data)
			}
		}
	}
	return all, info.Size(), nil
}

// readLog reads the log of a disk.
func readLog(file string, sector int64) (events []event, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	total := int64(len(data))
	for len(data) > 0 {
		if len(data) < 16 {
			return nil, io.ErrUnexpectedEOF
		}
		offset, size := binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[8:])
		data = data[16:]
		if size > uint64(len(data)) {
			return nil, io.ErrUnexpectedEOF
		}
		e := event{end: total - int64(len(data)) + int64(size)}
		if offset != flushMark {
			if offset%uint64(sector) != 0 || size%uint64(sector) != 0 || size == 0 {
				return nil, fmt.Errorf("a write of %d bytes at %d is not one of whole sectors", size, offset)
			}
			for at := int64(0); at < int64(size); at += sector {
				e.blocks = append(e.blocks, newBlock((int64(offset)+at)/sector, data[at:at+sector]))
			}
		}
		events, data = append(events, e), data[size:]
	}
	return events, nil
}

// choice is a power loss: after so many events, it takes some of the blocks
// that were written since the last flush.
type choice struct {
	after int
	lost  []bool
	mark  int
}

// image is what a power loss leaves on the disk, and what is true beside it.
type image struct {
	mark
	how    string
	blocks map[int64]block
}

// choices gives up to most power losses that leave different images: at each
// flush without and with everything since the last one, and at random moments
// between them with a random part of it.
func (r *recording) choices(most int, random *rand.Rand) (all []choice) {
	type key struct {
		sum  uint64
		mark int
	}
	seen := map[key]bool{}
	stable := uint64(0)
	disk := map[int64]uint64{}
	for at, b := range r.base {
		disk[at] = b.sum
		stable ^= b.sum
	}
	add := func(c choice, pending []block) {
		sum := stable
		over := map[int64]uint64{}
		for i, b := range pending {
			if c.lost[i] {
				continue
			}
			old, ok := over[b.at]
			if !ok {
				old = disk[b.at]
			}
			sum ^= old ^ b.sum
			over[b.at] = b.sum
		}
		for _, c.mark = range r.marksAt(c.after) {
			if k := (key{sum, c.mark}); !seen[k] {
				seen[k] = true
				all = append(all, c)
			}
		}
	}
	draws := 1 + 4*most/(1+r.flushes())
	begin := 0
	for end := range len(r.events) + 1 {
		if end < len(r.events) && !r.events[end].flush() {
			continue
		}
		pending, upTo := []block{}, []int{}
		for _, e := range r.events[begin:end] {
			pending = append(pending, e.blocks...)
			upTo = append(upTo, len(pending))
		}
		add(choice{after: begin, lost: nil}, nil)
		add(choice{after: end, lost: make([]bool, len(pending))}, pending)
		if len(pending) > 0 {
			for range draws {
				n := random.IntN(end - begin)
				some := pending[:upTo[n]]
				add(choice{after: begin + n + 1, lost: losses(len(some), random)}, some)
			}
		}
		for _, b := range pending {
			stable ^= disk[b.at] ^ b.sum
			disk[b.at] = b.sum
		}
		begin = end + 1
	}
	if len(all) > most {
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:most]
	}
	slices.SortStableFunc(all, func(a, b choice) int { return cmp.Compare(a.after, b.after) })
	return all
}

// losses says which of n blocks are lost: half of them, few, most, one, all
// but one, or those behind one.
func losses(n int, random *rand.Rand) []bool {
	lost := make([]bool, n)
	one, way := random.IntN(n), random.IntN(6)
	for i := range lost {
		switch way {
		case 0:
			lost[i] = random.IntN(2) == 0
		case 1:
			lost[i] = random.IntN(10) == 0
		case 2:
			lost[i] = random.IntN(10) != 0
		case 3:
			lost[i] = i == one
		case 4:
			lost[i] = i != one
		case 5:
			lost[i] = i >= one
		}
	}
	return lost
}

// images makes the image of each choice, which must be sorted.
func (r *recording) images(choices []choice, check func(image) error) error {
	disk := maps.Clone(r.base)
	begin := 0
	for _, c := range choices {
		for i := begin; i < c.after; i++ {
			if !r.events[i].flush() {
				continue
			}
			for _, e := range r.events[begin:i] {
				for _, b := range e.blocks {
					disk[b.at] = b
				}
			}
			begin = i + 1
		}
		var written []block
		for _, e := range r.events[begin:c.after] {
			written = append(written, e.blocks...)
		}
		img := image{mark: r.marks[c.mark], blocks: maps.Clone(disk)}
		lost := 0
		for i, b := range written {
			if i < len(c.lost) && c.lost[i] {
				lost++
				continue
			}
			img.blocks[b.at] = b
		}
		img.how = fmt.Sprintf("a power loss after %d of %d writes and flushes, %d blocks written since the last flush, %d of them lost", c.after, len(r.events), len(written), lost)
		if err := check(img); err != nil {
			return err
		}
	}
	return nil
}

func (e event) flush() bool { return len(e.blocks) == 0 }

func (r *recording) flushes() (n int) {
	for _, e := range r.events {
		if e.flush() {
			n++
		}
	}
	return n
}

// cut leaves out what happened before the operation began and after it ended.
func (r *recording) cut(began, ended int64) error {
	for len(r.events) > 0 && r.events[0].end <= began {
		for _, b := range r.events[0].blocks {
			r.base[b.at] = b
		}
		r.events = r.events[1:]
	}
	r.events = slices.DeleteFunc(r.events, func(e event) bool { return e.end > ended })
	if len(r.events) == 0 {
		return errors.New("nothing was written to the disk")
	}
	return nil
}

// marksAt are the indexes of what may be true after so many events: what was
// when the last of them happened, and what came to be before the next one.
func (r *recording) marksAt(events int) (all []int) {
	at := r.marks[0].at
	if events > 0 {
		at = r.events[events-1].end
	}
	for i, m := range r.marks {
		switch {
		case i == 0 || m.at < at:
			all = []int{i}
		case m.at == at:
			all = append(all, i)
		}
	}
	return all
}

// write writes the image to a file, sparse.
func (i image) write(file string, size, sector int64) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(f.Truncate(0), f.Truncate(size)); err != nil {
		return err
	}
	var run []byte
	from := int64(0)
	put := func() error {
		_, err := f.WriteAt(run, from*sector)
		run = run[:0]
		return err
	}
	for _, at := range slices.Sorted(maps.Keys(i.blocks)) {
		if len(run) > 0 && at != from+int64(len(run))/sector {
			if err := put(); err != nil {
				return err
			}
		}
		if len(run) == 0 {
			from = at
		}
		run = append(run, i.blocks[at].data...)
	}
	return put()
}
