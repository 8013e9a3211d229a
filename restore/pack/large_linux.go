package pack

import (
	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// large hands the segments of a file to the workers, but for those that lie
// somewhere already. Known says that an earlier snapshot has segments of it.
// Progress is told here, so that what a caller does then comes before the
// entries behind this one.
func (k *packer) large(n *tree.Node, size int64, known, unchanged bool) error {
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
		var old frame
		have := false
		if known {
			old, have = k.base.segment(parts, length)
		}
		k.p(length, 0)
		if have && unchanged && k.base.loose(old) {
			if err := k.again(old); err != nil {
				return err
			}
			continue
		}
		if have && unchanged {
			back, err := k.refer(old)
			if err != nil {
				return err
			}
			if k.notes != nil {
				if err := k.notes.carry(k.segments, k.base.notes, k.base.number(), &old); err != nil {
					return err
				}
			}
			k.job.records = appendSegment(k.job.records, back)
			k.segments++
			continue
		}
		if err := k.segment(file, parts, length, old, have); err != nil {
			return err
		}
	}
	k.count(n, size)
	return nil
}

// segment has a segment read, summed, and written unless it is what lies in
// old.
func (k *packer) segment(file *large, parts []tree.Extent, length int64, old frame, have bool) error {
	if err := k.alone(); err != nil {
		return err
	}
	// Where damage of the earlier index showed only behind its beginning.
	if err := file.node.Open(); err != nil {
		return err
	}
	if err := budget.Take(k.ctx, length); err != nil {
		return err
	}
	k.job.content = k.job.content[:length]
	file.users.Add(1)
	k.job.large, k.job.parts = file, parts
	if have {
		k.job.same, k.job.was, k.job.loose = &old, k.base.number(), k.base.loose(old)
	}
	return k.turn()
}

// again has a segment stored anew from where it lies, later.
func (k *packer) again(old frame) error {
	if err := k.alone(); err != nil {
		return err
	}
	k.job.same, k.job.patched = &old, true
	return k.turn()
}

// alone makes a job that is of one segment, of which it has the record: the last
// record of a frame is the frame's own.
func (k *packer) alone() error {
	if len(k.job.olds) > 0 {
		if err := k.turn(); err != nil {
			return err
		}
	}
	k.job.records = appendSegment(k.job.records, 0)
	k.job.number = k.segments
	k.segments++
	return nil
}
