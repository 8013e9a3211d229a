package pack

import (
	"context"
	"os"
	"time"

	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// ahead is how many small files are asked for before the first
// of them is read.
const ahead = 128

// packer goes through one tree, and makes jobs of it.
type packer struct {
	ctx      context.Context
	line     *pipeline
	now      func(*tree.Node, []byte) bool
	base     *earlier  // or nil
	notes    *notes    // of the blocks of segments, or nil
	settled  time.Time // what changed before it has a mark
	job      *job
	rec      *recorder
	p        copyengine.Progress
	waiting  []waiting // in the walk's order
	fetch    *tree.Fetcher
	fetches  bool  // fetch was asked for
	segments int64 // so far
	bytes    int64
	files    int64
}

func (g engine) packer(ctx context.Context, line *pipeline, settled time.Time, p copyengine.Progress) *packer {
	return &packer{ctx: ctx, line: line, now: g.now, settled: settled.Add(-slack), rec: newRecorder(), p: p}
}

// waiting is an entry that is not described yet. One with content to be read is
// kept open.
type waiting struct {
	n      *tree.Node
	old    *frame // where its content lies already, or nil
	offset int64  // in old
}

// Save stores a tree.
func (g engine) Save(ctx context.Context, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	return g.SaveSince(ctx, nil, time.Time{}, root, store, index, skipped, p)
}

// SaveSince stores a tree, and takes over what has not changed.
func (g engine) SaveSince(ctx context.Context, base *copyengine.Base, settled time.Time, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	return g.save(ctx, nil, base, settled, root, store, index, skipped, p)
}

// save stores a tree, with notes of its blocks unless they are nil.
func (g engine) save(ctx context.Context, n *notes, base *copyengine.Base, settled time.Time, root, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	name := FileName(index)
	out, err := create(store, name)
	if err != nil {
		return copyengine.Content{}, err
	}
	k := g.packer(ctx, &out.pipeline, settled, p)
	k.notes, out.notes = n, n
	if base != nil {
		if k.base = since(base, store, index, &out.t); k.base != nil {
			defer k.base.close()
			out.before = k.base.notes
		}
	}
	out.start()
	err = k.pack(root, skipped)
	if err != nil {
		k.drop()
		out.abort()
		return copyengine.Content{}, err
	}
	c, err := out.finish(store, name, k.bytes, k.files)
	if err == nil {
		err = ctx.Err()
	}
	return c, err
}

func (k *packer) pack(root *os.Root, skipped func(path, reason string)) (err error) {
	if k.job, err = k.line.next(); err != nil {
		return err
	}
	defer func() { k.fetch.Close() }()
	var known func(*tree.Node) bool
	if k.base != nil {
		known = k.known
	}
	if err := tree.WalkKnown(k.ctx, root, skipped, known, k.visit); err != nil {
		return err
	}
	if err := k.settle(0); err != nil {
		return err
	}
	k.line.submit(k.job)
	k.job = nil
	return nil
}

// fetcher gives what reads files that are not in memory, made when the first
// is met.
func (k *packer) fetcher() *tree.Fetcher {
	if !k.fetches {
		k.fetches, k.fetch = true, tree.NewFetcher(ahead+1)
	}
	return k.fetch
}

// drop closes the files that wait to be read.
func (k *packer) drop() {
	for _, w := range k.waiting {
		w.n.Close()
	}
	k.waiting = nil
}

// known tells of a file that has not changed since the earlier snapshot, whose
// description then is the earlier one: what else belongs to a file does not
// change without the time of its change. One of which something has to be
// stored anew is opened as any other, since it may vanish before that.
func (k *packer) known(n *tree.Node) bool {
	if !k.base.find(n.Path) || !k.base.same(n) || !k.base.kept() {
		return false
	}
	e := k.base.x.entry
	n.Xattrs, n.Sparse, n.Data = e.Xattrs, e.Sparse, e.Data
	return true
}

// visit takes an entry in, or lets it wait behind small files that the disk
// has to be asked for.
func (k *packer) visit(n *tree.Node) error {
	size := int64(0)
	unchanged, known := false, false
	if n.Type == tree.File {
		if known = k.base != nil && k.base.find(n.Path); known && k.base.same(n) {
			unchanged = true
			// The same holes, too: a file system may tell of others when it
			// has written data out.
			n.Sparse, n.Data = k.base.x.entry.Sparse, k.base.x.entry.Data
		}
		size = n.Stored()
	}
	if size > small {
		if err := k.settle(0); err != nil {
			return err
		}
		return k.large(n, size, known && k.base.x.flags&hasParts != 0, unchanged)
	}
	w := waiting{n: n}
	if unchanged && k.base.x.flags&hasFrame != 0 {
		if f, ok := k.base.moved(k.base.x.frame(k.base.x.at)); ok {
			w.old, w.offset = &f, k.base.x.offset
		}
	}
	if len(k.waiting) == 0 {
		taken, err := k.takeNow(w, size)
		if taken || err != nil {
			return err
		}
	}
	if size > 0 && w.old == nil {
		n.Keep()
		if !k.fetcher().Fetch(n) {
			n.Ahead()
		}
	}
	k.waiting = append(k.waiting, w)
	return k.settle(ahead)
}

// settle takes in what waits until most are left.
func (k *packer) settle(most int) error {
	for len(k.waiting) > most {
		w := k.waiting[0]
		k.waiting[0] = waiting{}
		k.waiting = k.waiting[1:]
		err := k.take(w)
		w.n.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// refer makes sure that the job has the record of a frame of an earlier
// snapshot, and tells how many records back it is.
func (k *packer) refer(f frame) (uint64, error) {
	for i := len(k.job.olds) - 1; i >= 0; i-- {
		if old := &k.job.olds[i]; old.file == f.file && old.offset == f.offset {
			return uint64(len(k.job.olds) - 1 - i), nil
		}
	}
	// The job's own frame, whose record comes first, must stay in the window.
	if len(k.job.olds) >= window-2 {
		if err := k.turn(); err != nil {
			return 0, err
		}
	}
	k.job.olds = append(k.job.olds, f)
	k.job.records = appendFrame(k.job.records, &f)
	return 0, nil
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
	k.line.submit(k.job)
	k.job = nil
	k.job, err = k.line.next()
	return err
}

// takeNow takes an entry in if that needs no disk.
func (k *packer) takeNow(w waiting, size int64) (bool, error) {
	if w.old != nil {
		return true, k.take(w)
	}
	if size > 0 && w.n.Sparse {
		return false, nil
	}
	if err := k.room(size); err != nil {
		return false, err
	}
	at := len(k.job.content)
	if size > 0 {
		k.job.content = k.job.content[:at+int(size)]
		if !k.now(w.n, k.job.content[at:]) {
			k.job.content = k.job.content[:at]
			return false, nil
		}
	}
	k.record(w.n, size, at)
	return true, budget.Take(k.ctx, size)
}

// take reads an entry's content, unless it lies somewhere already, and takes
// it in.
func (k *packer) take(w waiting) error {
	n := w.n
	size := int64(0)
	if n.Type == tree.File {
		size = n.Stored()
	}
	if w.old != nil {
		if err := k.room(0); err != nil {
			return err
		}
		back, err := k.refer(*w.old)
		if err != nil {
			return err
		}
		k.describe(n, content{flag: hasFrame, back: back, offset: int(w.offset)})
		k.p(size, 0)
		k.count(n, size)
		return nil
	}
	if err := k.room(size); err != nil {
		return err
	}
	at := len(k.job.content)
	if size > 0 {
		if err := budget.Take(k.ctx, size); err != nil {
			return err
		}
		k.job.content = k.job.content[:at+int(size)]
		if err := k.read(n, k.job.content[at:]); err != nil {
			return err
		}
	}
	k.record(n, size, at)
	return nil
}

// read reads the content of a small file.
func (k *packer) read(n *tree.Node, to []byte) error {
	if !n.Sparse {
		return k.fetch.Fetched(n, to)
	}
	for _, x := range n.Data {
		if err := n.ReadAt(to[:x.Length], x.Offset); err != nil {
			return err
		}
		to = to[x.Length:]
	}
	return nil
}

// record describes an entry whose size bytes of content are in the job.
func (k *packer) record(n *tree.Node, size int64, offset int) {
	c := content{}
	if size > 0 {
		c = content{flag: hasFrame, back: uint64(len(k.job.olds)), offset: offset}
		k.p(size, 0)
	}
	k.describe(n, c)
	k.count(n, size)
}

func (k *packer) describe(n *tree.Node, c content) {
	linked := n.Links > 1 && n.Type != tree.Directory && n.Type != tree.HardLink
	var m *mark
	if n.Type == tree.File && n.Changed.Before(k.settled) {
		m = &mark{n.Inode, n.Changed}
	}
	k.job.records = k.rec.entry(k.job.records, &n.Entry, c, linked, m)
	k.job.entries++
}

func (k *packer) count(n *tree.Node, size int64) {
	k.bytes += size
	if n.Path != "." {
		k.files++
		k.p(0, 1)
	}
}
