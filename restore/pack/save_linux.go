package pack

import (
	"context"
	"os"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// ahead is how many small files are announced to the kernel before the first
// of them is read.
const ahead = 128

// packer stores one tree.
type packer struct {
	ctx     context.Context
	out     *output
	now     func(*tree.Node, []byte) bool
	job     *job
	rec     *recorder
	p       copyengine.Progress
	waiting []*tree.Node // in the walk's order; those with content are kept
	bytes   int64
	files   int64
}

// Save stores a tree.
func (g engine) Save(ctx context.Context, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	name := FileName(index)
	out, err := create(store, name)
	if err != nil {
		return copyengine.Content{}, err
	}
	k := &packer{ctx: ctx, out: out, now: g.now, rec: newRecorder(), p: p}
	err = k.pack(root, skipped)
	if err != nil {
		k.drop()
		out.abort()
		return copyengine.Content{}, err
	}
	c, err := out.finish(name, k.bytes, k.files)
	if err == nil {
		err = ctx.Err()
	}
	return c, err
}

func (k *packer) pack(root *os.Root, skipped func(path, reason string)) (err error) {
	if k.job, err = k.out.next(); err != nil {
		return err
	}
	if err := tree.Walk(k.ctx, root, skipped, k.visit); err != nil {
		return err
	}
	if err := k.settle(0); err != nil {
		return err
	}
	k.out.submit(k.job)
	k.job = nil
	return nil
}

// drop closes the files that wait to be read.
func (k *packer) drop() {
	for _, n := range k.waiting {
		n.Close()
	}
	k.waiting = nil
}

// visit takes an entry in, or lets it wait behind small files that the disk
// has to be asked for.
func (k *packer) visit(n *tree.Node) error {
	size := int64(0)
	if n.Type == tree.File {
		size = n.Stored()
	}
	if size > small {
		if err := k.settle(0); err != nil {
			return err
		}
		return k.large(n, size)
	}
	if len(k.waiting) == 0 {
		taken, err := k.takeNow(n, size)
		if taken || err != nil {
			return err
		}
	}
	if size > 0 {
		n.Keep()
		n.Ahead()
	}
	k.waiting = append(k.waiting, n)
	return k.settle(ahead)
}

// settle takes in what waits until most are left.
func (k *packer) settle(most int) error {
	for len(k.waiting) > most {
		n := k.waiting[0]
		k.waiting[0] = nil
		k.waiting = k.waiting[1:]
		err := k.take(n)
		n.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// room makes sure that the job takes an entry with size bytes of content.
func (k *packer) room(size int64) error {
	if int64(len(k.job.content))+size <= frameSize && k.job.entries < batch {
		return nil
	}
	return k.turn()
}

// turn submits the job and begins the next.
func (k *packer) turn() (err error) {
	k.out.submit(k.job)
	k.job = nil
	k.job, err = k.out.next()
	return err
}

// takeNow takes an entry in if that needs no disk.
func (k *packer) takeNow(n *tree.Node, size int64) (bool, error) {
	if size > 0 && n.Sparse {
		return false, nil
	}
	if err := k.room(size); err != nil {
		return false, err
	}
	at := len(k.job.content)
	if size > 0 {
		k.job.content = k.job.content[:at+int(size)]
		if !k.now(n, k.job.content[at:]) {
			k.job.content = k.job.content[:at]
			return false, nil
		}
	}
	k.record(n, size, at)
	return true, nil
}

// take reads an entry's content and takes it in.
func (k *packer) take(n *tree.Node) error {
	size := int64(0)
	if n.FD >= 0 {
		size = n.Stored()
	}
	if err := k.room(size); err != nil {
		return err
	}
	at := len(k.job.content)
	if size > 0 {
		k.job.content = k.job.content[:at+int(size)]
		to := k.job.content[at:]
		for _, x := range partsOf(&n.Entry) {
			if err := n.ReadAt(to[:x.Length], x.Offset); err != nil {
				return err
			}
			to = to[x.Length:]
		}
	}
	k.record(n, size, at)
	return nil
}

// record describes an entry whose size bytes of content are in the job.
func (k *packer) record(n *tree.Node, size int64, offset int) {
	c := content{offset: offset}
	if size > 0 {
		c.flag = hasFrame
		k.p(size, 0)
	}
	k.describe(n, c)
	k.count(n, size)
}

func (k *packer) describe(n *tree.Node, c content) {
	linked := n.Links > 1 && n.Type != tree.Directory && n.Type != tree.HardLink
	k.job.records = k.rec.entry(k.job.records, &n.Entry, c, linked)
	k.job.entries++
}

func (k *packer) count(n *tree.Node, size int64) {
	k.bytes += size
	if n.Path != "." {
		k.files++
		k.p(0, 1)
	}
}

// large hands the segments of a file to the workers. Progress is told here, so
// that what a caller does then comes before the entries behind this one.
func (k *packer) large(n *tree.Node, size int64) error {
	if err := k.turn(); err != nil { // what came before has its own frame
		return err
	}
	n.Keep()
	file := &large{node: n}
	file.users.Store(1)
	defer file.release()
	k.describe(n, content{flag: hasParts})
	segments := segmentsOf(&n.Entry)
	for {
		parts, length, ok := segments.next()
		if !ok {
			break
		}
		if err := k.ctx.Err(); err != nil {
			return err
		}
		k.job.records = appendSegment(k.job.records, 0)
		k.job.content = k.job.content[:length]
		file.users.Add(1)
		k.job.large, k.job.parts = file, parts
		k.p(length, 0)
		if err := k.turn(); err != nil {
			return err
		}
	}
	k.count(n, size)
	return nil
}
