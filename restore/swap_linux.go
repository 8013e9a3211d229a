package restore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// The names of an operation beside a volume's live tree. Several bind mounts
// may lie in one directory, so their names contain the tree's own.
func stageName(op, live string) string { return beside(op, live) + ".new" }
func fenceName(op, live string) string { return beside(op, live) + fenceSuffix }
func oldName(op, live string) string   { return beside(op, live) + ".old" }

const (
	besidePrefix = ".snaprestore-"
	fenceSuffix  = ".fence"
)

func beside(op, live string) string {
	if live == volume.Live || live == "" {
		return besidePrefix + op
	}
	return besidePrefix + op + "." + live
}

// fenceTarget is what the dangling link says. The engine quotes it when it
// refuses to start a container, so it speaks to people.
func fenceTarget(op string) string {
	return "snaprestore-restore-" + op + "-unfinished-see-docker-snaprestore-status"
}

// move is one durable change of a volume's directory.
type move string

// The moves. Each is one atomic change and the sync that makes it durable.
const (
	makeFence    move = "make the fence"        // link at Fence
	raiseFence   move = "raise the fence"       // exchange Live and Fence
	lowerFence   move = "lower the fence"       // the same exchange, back
	bringIn      move = "bring the new tree in" // exchange Live and Stage
	keepOld      move = "keep the old tree"     // rename Fence to Old
	dropLink     move = "drop the link"         // unlink Stage
	dropFence    move = "drop the fence"        // unlink Fence
	dropStage    move = "drop the staged tree"  // remove Stage
	leaveAlone   move = "nothing"               // done
	dontKnowThis move = "unknown"               // refuse
)

// shape is what the four names of a volume are: Live, Stage, Fence, Old.
type shape [4]durable.Shape

func (s shape) String() string {
	return fmt.Sprintf("%c%c%c%c", s[0], s[1], s[2], s[3])
}

// goal is where a volume is to be brought.
type goal string

// The goals.
const (
	toFenced goal = "fenced" // the old tree is out of reach, the new one ready
	toNew    goal = "new"
	toOld    goal = "old"
)

// moves is the whole swap: from a goal and the shape on disk to the next move.
// A row's shape has D for a directory, L for a link, - for nothing. Every move leads to another row of its goal, and the last
// one of each path is leaveAlone, so that a crash anywhere goes on from here.
var moves = []struct {
	goal  goal
	shape string
	move  move
}{
	// Live, Stage, Fence, Old
	{toFenced, "DD--", makeFence},
	{toFenced, "DDL-", raiseFence},
	{toFenced, "LDD-", leaveAlone},

	{toNew, "DD--", makeFence},  // only when an unsynced step was lost
	{toNew, "DDL-", raiseFence}, // likewise, or PREPARED goes forward
	{toNew, "LDD-", bringIn},
	{toNew, "DLD-", keepOld},
	{toNew, "DL-D", dropLink},
	{toNew, "D--D", leaveAlone},

	{toOld, "LDD-", lowerFence},
	{toOld, "DDL-", dropFence},
	{toOld, "D-L-", dropFence},
	{toOld, "DD--", dropStage}, // a kept stage is left alone
	{toOld, "D---", leaveAlone},
}

// nextMove looks the table up.
func nextMove(g goal, s shape, keep bool) move {
	for _, row := range moves {
		if row.goal != g || row.shape != s.String() {
			continue
		}
		if keep && row.move == dropStage {
			return leaveAlone
		}
		return row.move
	}
	return dontKnowThis
}

// shapeOf reads a volume's shape.
func shapeOf(dir *durable.Dir, v *journal.Volume) (s shape, err error) {
	for i, name := range []string{v.Live, v.Stage, v.Fence, v.Old} {
		if s[i], err = dir.Shape(name); err != nil {
			return s, err
		}
	}
	return s, nil
}

// bring moves one volume to a goal. Done twice it does nothing more.
//
// A volume that is gone has nothing to go back: one that was never made, that a
// recovery before this one removed, or that its owner removed meanwhile.
func (d *Domain) bring(op string, v *journal.Volume, g goal) error {
	if g == toOld && d.gone(v) {
		return nil
	}
	return bring(d.Fail, op, v, g)
}

// gone tells that a volume of the engine's data root was removed. Elsewhere a
// missing directory may only mean that this process does not see it.
func (d *Domain) gone(v *journal.Volume) bool {
	if v.Dir == "" {
		return true
	}
	if !within(v.Dir, filepath.Dir(d.Root)) {
		return false
	}
	_, err := os.Lstat(v.Dir)
	_, parentErr := os.Lstat(filepath.Dir(v.Dir))
	return isMissing(err) && parentErr == nil
}

func bring(fail durable.Failpoint, op string, v *journal.Volume, g goal) error {
	dir, err := durable.Open(v.Dir, fail)
	if err != nil {
		return fmt.Errorf("open the directory of volume %s: %w", v.Name, err)
	}
	defer dir.Close()
	// A dead process may have changed the directory and not synced it: what
	// is seen must be on the disk before anything builds on it.
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	for {
		s, err := shapeOf(dir, v)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		m := nextMove(g, s, v.Keep)
		switch m {
		case leaveAlone:
			return nil
		case dontKnowThis:
			return fmt.Errorf("volume %s: its directory %s looks like no step of this operation (%s)", v.Name, v.Dir, s)
		}
		if err := apply(dir, op, v, m); err != nil {
			return fmt.Errorf("volume %s: %s: %w", v.Name, m, err)
		}
	}
}

// apply does one move.
func apply(dir *durable.Dir, op string, v *journal.Volume, m move) error {
	var err error
	switch m {
	case makeFence:
		err = dir.Symlink(v.Fence, fenceTarget(op))
	case raiseFence, lowerFence:
		err = dir.Exchange(v.Live, v.Fence)
	case bringIn:
		err = dir.Exchange(v.Live, v.Stage)
	case keepOld:
		err = dir.Rename(v.Fence, v.Old)
	case dropLink:
		err = dir.Unlink(v.Stage)
	case dropFence:
		err = dir.Unlink(v.Fence)
	case dropStage:
		err = dir.RemoveAll(v.Stage)
	}
	if err != nil {
		return err
	}
	return dir.Sync()
}
