package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
)

// layShape makes a volume directory of this shape: Live, Stage, Fence, Old.
// The old tree holds "old", the new one "new".
func layShape(t *testing.T, op, shape string) journal.Volume {
	t.Helper()
	v := journal.Volume{Name: "db", Dir: t.TempDir(), Live: "_data",
		Stage: stageName(op, "_data"), Fence: fenceName(op, "_data"), Old: oldName(op, "_data")}
	tree := func(name, text string) {
		assert.NilError(t, os.Mkdir(filepath.Join(v.Dir, name), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(v.Dir, name, "f"), []byte(text), 0o600))
	}
	content := map[string][4]string{ // what lies where, by shape
		"DD--": {"old", "new"}, "DDL-": {"old", "new"}, "LDD-": {"", "new", "old"},
		"DLD-": {"new", "", "old"}, "DL-D": {"new", "", "", "old"}, "D--D": {"new", "", "", "old"},
		"D-L-": {"old"}, "D---": {"old"},
	}[shape]
	for i, name := range []string{v.Live, v.Stage, v.Fence, v.Old} {
		switch shape[i] {
		case 'D':
			tree(name, content[i])
		case 'L':
			assert.NilError(t, os.Symlink(fenceTarget(op), filepath.Join(v.Dir, name)))
		}
	}
	return v
}

func liveText(t *testing.T, v journal.Volume) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(v.Dir, v.Live, "f"))
	if err != nil {
		return ""
	}
	return string(data)
}

// TestGateOpensOnlyOnTheDecidedTree walks all states and shapes.
func TestGateOpensOnlyOnTheDecidedTree(t *testing.T) {
	const id = "0123456789ab"
	shapes := []string{"DD--", "DDL-", "LDD-", "DLD-", "DL-D", "D--D", "D-L-", "D---"}
	for _, state := range journal.States() {
		for _, shape := range shapes {
			v := layShape(t, id, shape)
			op := &journal.Operation{ID: id, State: state, Volumes: []journal.Volume{v}}
			blocking, err := Blocking([]*journal.Operation{op}, v.Dir)
			assert.NilError(t, err)
			other, err := Blocking([]*journal.Operation{op}, v.Dir+"x")
			assert.NilError(t, err)
			assert.Assert(t, other == nil, "a volume that the operation does not have is blocked")
			open := blocking == nil
			switch state {
			case journal.Prepared:
				assert.Assert(t, !open, "%s %s", state, shape)
			case journal.Committed:
				assert.Equal(t, open, liveText(t, v) == "new", "%s %s", state, shape)
			case journal.Aborting:
				assert.Equal(t, open, liveText(t, v) == "old", "%s %s", state, shape)
			default:
				assert.Assert(t, open, "%s %s", state, shape)
			}
		}
	}
}

// begun opens a journal with one operation in a state, left by a process that
// died.
func begun(t *testing.T, state journal.State, volumes ...journal.Volume) (*journal.Store, string) {
	t.Helper()
	dir, err := durable.Open(t.TempDir(), nil)
	assert.NilError(t, err)
	t.Cleanup(func() { dir.Close() })
	j, err := journal.Open(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { j.Close() })
	op := &journal.Operation{ID: "0123456789ab", Kind: journal.Restore, State: journal.Staging, Created: time.Now().UTC(), Volumes: volumes}
	log, err := j.Begin(context.Background(), op)
	assert.NilError(t, err)
	defer log.Release()
	step := func(err error) { t.Helper(); assert.NilError(t, err) }
	if state == journal.Staging {
		return j, op.ID
	}
	step(log.Write(journal.Stopping))
	if state == journal.Stopping {
		return j, op.ID
	}
	step(log.Prepare())
	if state != journal.Prepared {
		step(log.Decide(state))
	}
	return j, op.ID
}

func TestSettleFollowsTheDecision(t *testing.T) {
	const id = "0123456789ab"
	for _, c := range []struct {
		state       journal.State
		a, b        string // shapes of two volumes
		mine        func(a, b string) func(string) bool
		mounted     bool
		after       journal.State
		textA, text string // live content of the first and the second, after
	}{
		{state: journal.Staging, a: "DD--", b: "D---", after: journal.Staging, textA: "old", text: "old"},
		{state: journal.Stopping, a: "DDL-", b: "DD--", after: journal.Stopping, textA: "old", text: "old"},
		{state: journal.Prepared, a: "LDD-", b: "DDL-", after: journal.Committed, textA: "new", text: "new"},
		{state: journal.Prepared, a: "LDD-", b: "DDL-", mounted: true, after: journal.Prepared, textA: "", text: "old"},
		{state: journal.Prepared, a: "LDD-", b: "LDD-", mine: onlyFirst, after: journal.Prepared},
		{state: journal.Committed, a: "LDD-", b: "DLD-", after: journal.Committed, textA: "new", text: "new"},
		{state: journal.Committed, a: "LDD-", b: "LDD-", mine: onlyFirst, after: journal.Committed, textA: "new"},
		{state: journal.Aborting, a: "LDD-", b: "DDL-", after: journal.Aborting, textA: "old", text: "old"},
		{state: journal.Aborting, a: "DD--", b: "LDD-", mine: onlyFirst, after: journal.Aborting, textA: "old"},
	} {
		t.Run(string(c.state)+" "+c.a+" "+c.b, func(t *testing.T) {
			a, b := layShape(t, id, c.a), layShape(t, id, c.b)
			j, id := begun(t, c.state, a, b)
			s := Settler{Journal: j, Mine: func(string) bool { return true },
				Mounted: func([]string) (bool, error) { return c.mounted, nil }}
			if c.mine != nil {
				s.Mine = c.mine(a.Dir, b.Dir)
			}
			for range 2 { // twice is as good as once
				assert.NilError(t, s.Settle(context.Background(), id))
				op, err := j.Load(id)
				assert.NilError(t, err)
				assert.Equal(t, op.State, c.after)
				assert.Equal(t, liveText(t, a), c.textA)
				assert.Equal(t, liveText(t, b), c.text)
			}
		})
	}
}

func onlyFirst(a, _ string) func(string) bool { return func(dir string) bool { return dir == a } }

func TestSettleLeavesALivingOperationAlone(t *testing.T) {
	const id = "0123456789ab"
	v := layShape(t, id, "LDD-")
	j, id2 := begun(t, journal.Committed, v)
	log, err := j.Takeover(context.Background(), id2, 0)
	assert.NilError(t, err)
	defer log.Release()
	s := Settler{Journal: j, Mine: func(string) bool { return true }, Mounted: func([]string) (bool, error) { return false, nil }}
	var locked *journal.LockedError
	assert.Assert(t, errors.As(s.Settle(context.Background(), id2), &locked))
	assert.Equal(t, liveText(t, v), "")
}

// TestSettleDiesAnywhere crashes at every durable step of a settling, and lets
// another one go on: all new, whatever the step.
func TestSettleDiesAnywhere(t *testing.T) {
	const id = "0123456789ab"
	crash := errors.New("crash")
	steps := 0
	for at := 0; ; at++ {
		a, b := layShape(t, id, "LDD-"), layShape(t, id, "DDL-")
		j, id := begun(t, journal.Prepared, a, b)
		s := Settler{Journal: j, Mine: func(string) bool { return true }, Mounted: func([]string) (bool, error) { return false, nil }}
		n := 0
		s.Fail = func(durable.Step) error {
			if n++; n > at {
				return crash
			}
			return nil
		}
		err := s.Settle(context.Background(), id)
		if err != nil {
			assert.ErrorIs(t, err, crash)
		}
		s.Fail = nil
		assert.NilError(t, s.Settle(context.Background(), id))
		assert.Equal(t, liveText(t, a)+liveText(t, b), "newnew")
		if err == nil {
			break
		}
		steps++
	}
	assert.Assert(t, steps >= 16, "only %d points", steps)
}

// A driver that dies twice while it settles, at any two steps, leaves what the
// next one ends.
func TestSettleDiesTwiceAnywhere(t *testing.T) {
	crash := errors.New("crash")
	points := 0
	for first := 0; ; first++ {
		died := false
		for second := 0; ; second++ {
			a, b := layShape(t, "0123456789ab", "LDD-"), layShape(t, "0123456789ab", "DDL-")
			j, id := begun(t, journal.Prepared, a, b)
			s := Settler{Journal: j, Mine: func(string) bool { return true }, Mounted: func([]string) (bool, error) { return false, nil }}
			var ends []error
			for _, at := range []int{first, second} {
				n := 0
				s.Fail = func(durable.Step) error {
					if n++; n > at {
						return crash
					}
					return nil
				}
				ends = append(ends, s.Settle(context.Background(), id))
			}
			s.Fail = nil
			assert.NilError(t, s.Settle(context.Background(), id))
			assert.Equal(t, liveText(t, a)+liveText(t, b), "newnew", "%d and %d", first, second)
			died = ends[0] != nil
			if ends[1] == nil {
				break
			}
			points++
		}
		if !died {
			break
		}
	}
	assert.Assert(t, points >= 100, "only %d pairs", points)
}

// A disk that refuses a step of a settling, once or from there on, lets no
// other data than the decided be mounted, and the next one ends it.
func TestSettleThatFailsAnywhereIsEndedByTheNext(t *testing.T) {
	for _, cause := range []error{unix.ENOSPC, unix.EIO, unix.EROFS, unix.EDQUOT} {
		for _, sticky := range []bool{false, true} {
			points := 0
			for at := 0; ; at++ {
				a, b := layShape(t, "0123456789ab", "LDD-"), layShape(t, "0123456789ab", "DDL-")
				j, id := begun(t, journal.Prepared, a, b)
				s := Settler{Journal: j, Mine: func(string) bool { return true }, Mounted: func([]string) (bool, error) { return false, nil }}
				n := 0
				s.Fail = func(step durable.Step) error {
					if step.Done {
						return nil
					}
					if n++; n == at+1 || sticky && n > at {
						return cause
					}
					return nil
				}
				err := s.Settle(context.Background(), id)
				reached := n > at
				s.Fail = nil
				if err == nil {
					assert.Equal(t, liveText(t, a)+liveText(t, b), "newnew", "%v at step %d", cause, at)
				} else {
					assert.ErrorIs(t, err, cause)
				}
				assert.NilError(t, s.Settle(context.Background(), id))
				assert.Equal(t, liveText(t, a)+liveText(t, b), "newnew", "%v at step %d (sticky %t)", cause, at, sticky)
				if !reached {
					break
				}
				points++
			}
			assert.Assert(t, points >= 8, "only %d points", points)
		}
	}
}
