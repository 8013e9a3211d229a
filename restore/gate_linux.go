package restore

import (
	"context"
	"fmt"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
)

// gates is when the live tree of a volume may be mounted while an operation on
// it is open: by the operation's last record and, once it is decided, by the
// next move that the volume waits for. What the table does not have is shut.
//
// Before PREPARED the old tree is in use as ever. From PREPARED on a mount of
// one volume could meet the other decision in the next. After the decision each
// volume opens as soon as its own tree is the decided one, since the mounts of
// the others wait for theirs.
var gates = []struct {
	state journal.State
	goal  goal
	open  []move // none: whatever the shape
}{
	{journal.Working, "", nil},
	{journal.Drilling, "", nil},
	{journal.Staging, "", nil},
	{journal.Stopping, "", nil},
	{journal.Committed, toNew, []move{keepOld, dropLink, leaveAlone}},
	{journal.Aborting, toOld, []move{dropFence, dropStage, leaveAlone}},
	{journal.Starting, "", nil},
	{journal.Closed, "", nil},
}

// Blocking finds, among the open operations, the one that forbids to mount the
// tree of the volume directory dir. Nil: the tree may be mounted.
func Blocking(open []*journal.Operation, dir string) (*journal.Operation, error) {
	for _, op := range open {
		for i := range op.Volumes {
			if op.Volumes[i].Dir != dir {
				continue
			}
			ok, err := mountable(op, &op.Volumes[i])
			if err != nil {
				return nil, err
			}
			if !ok {
				return op, nil
			}
		}
	}
	return nil, nil
}

func mountable(op *journal.Operation, v *journal.Volume) (bool, error) {
	for _, row := range gates {
		if row.state != op.State {
			continue
		}
		if row.goal == "" {
			return true, nil
		}
		dir, err := durable.Open(v.Dir, nil)
		if err != nil {
			return false, fmt.Errorf("open the directory of volume %s: %w", v.Name, err)
		}
		defer dir.Close()
		s, err := shapeOf(dir, v)
		if err != nil {
			return false, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		next := nextMove(row.goal, s, v.Keep)
		for _, m := range row.open {
			if m == next {
				return true, nil
			}
		}
		return false, nil
	}
	return false, nil
}

// Settler brings the data of one kind of volume to its place after a crash,
// without an engine: containers, safety snapshots and the end of an operation
// are left to its recovery.
type Settler struct {
	Journal *journal.Store
	// Mine tells the volume directories that the settler answers for.
	Mine func(dir string) bool
	// Mounted tells whether any process has a tree of these directories
	// mounted: then nothing is decided.
	Mounted func(dirs []string) (bool, error)
	// Fail is called at every durable step; nil outside tests.
	Fail durable.Failpoint
}

// Settle goes on with an operation whose process is dead, as far as its
// volumes are the settler's. A decided operation is followed. One that is
// PREPARED is decided for the new data, as recovery would, if all its volumes
// are the settler's and nobody has their old trees mounted. A living
// operation is left alone, and so is one that has not come to PREPARED.
func (s *Settler) Settle(ctx context.Context, id string) error {
	log, err := s.Journal.Takeover(ctx, id, 0)
	if err != nil {
		return err
	}
	defer log.Release()
	op := log.Op
	switch op.State {
	case journal.Prepared:
		if ok, err := s.decidable(op); !ok || err != nil {
			return err
		}
		if err := s.bring(op, toFenced); err != nil {
			return err
		}
		// Mounts are looked for with the fences up, as the operation does.
		if mounted, err := s.Mounted(dirsOf(op)); mounted || err != nil {
			return err
		}
		if err := log.Decide(journal.Committed); err != nil {
			return err
		}
		return s.bring(op, toNew)
	case journal.Committed:
		return s.bring(op, toNew)
	case journal.Aborting:
		return s.bring(op, toOld)
	}
	return nil
}

func (s *Settler) decidable(op *journal.Operation) (bool, error) {
	dirs := dirsOf(op)
	for _, dir := range dirs {
		if !s.Mine(dir) {
			return false, nil
		}
	}
	mounted, err := s.Mounted(dirs)
	return !mounted, err
}

func dirsOf(op *journal.Operation) (dirs []string) {
	for _, v := range op.Volumes {
		dirs = append(dirs, v.Dir)
	}
	return dirs
}

func (s *Settler) bring(op *journal.Operation, g goal) error {
	for i := range op.Volumes {
		v := &op.Volumes[i]
		if v.Dir == "" || !s.Mine(v.Dir) {
			continue
		}
		if err := bring(s.Fail, op.ID, v, g); err != nil {
			return err
		}
	}
	return nil
}
