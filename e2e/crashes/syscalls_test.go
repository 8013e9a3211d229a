//go:build e2e && linux

package crashes

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// A process that is killed at any of the system calls that change something
// leaves a world from which another process, which may be killed at any of its
// own, leads to one of the two ends.
func TestEveryKillAtASystemCallIsRecoveredFrom(t *testing.T) {
	needRoot(t)
	base := number(t, "SNAPRESTORE_SYSCALLS_SEED", 1)
	doubles := number(t, "SNAPRESTORE_SYSCALLS_DOUBLES", 1)
	for i, sc := range scenarios() {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, filepath.Join(scratch, strings.ReplaceAll(t.Name(), "/", "-")))
			t.Cleanup(func() { assert.NilError(t, os.RemoveAll(w.dir)) })
			sc.prepare(t, w)
			first, err := w.take()
			assert.NilError(t, err)

			whole, err := w.live(sc.name, 0)
			assert.NilError(t, err, "an undisturbed run")
			assert.NilError(t, w.recovered(sc, true, w.recovers), "an undisturbed run")
			k := killer{world: w, scenario: sc, random: rand.New(rand.NewPCG(uint64(base), uint64(i))), doubles: doubles}
			for n := 1; ; n++ {
				assert.NilError(t, w.put(first))
				l, err := w.live(sc.name, n)
				assert.NilError(t, err, "kill at %d of %d", n, whole.calls)
				if !l.killed {
					break
				}
				assert.NilError(t, k.after(fmt.Sprintf("killed at system call %d of %d", n, whole.calls)))
				k.points++
			}
			t.Logf("%d durable steps, killed at %d system calls, and %d times again in recovery", whole.steps, k.points, k.again)
			assert.Assert(t, k.points >= whole.steps, "killed at %d system calls of %d durable steps", k.points, whole.steps)
		})
	}
}

// killer checks what kills leave.
type killer struct {
	*world
	scenario
	random        *rand.Rand
	doubles       int // kills of a recovery for each kill before
	points, again int
}

// after recovers from the world as it is, once undisturbed, and some times
// with a kill at one of the system calls.
func (k *killer) after(how string) error {
	left, err := k.take()
	if err != nil {
		return err
	}
	if err := k.neverMixed(); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	if err := k.put(left); err != nil {
		return err
	}
	var whole life
	if err := k.recovered(k.scenario, false, func() (err error) {
		whole, err = k.live("recovery", 0)
		return err
	}); err != nil {
		return fmt.Errorf("%s: %w", how, err)
	}
	for i := range k.doubles {
		n := 1 + i
		if k.doubles < whole.calls {
			n = 1 + k.random.IntN(whole.calls)
		}
		if err := k.put(left); err != nil {
			return err
		}
		l, err := k.live("recovery", n)
		if err == nil && l.killed {
			k.again++
			err = k.recovered(k.scenario, false, k.recovers)
		}
		if err != nil {
			return fmt.Errorf("%s, and recovery at %d of %d: %w", how, n, whole.calls, err)
		}
		if !l.killed {
			break
		}
	}
	return nil
}
