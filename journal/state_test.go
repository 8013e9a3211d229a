package journal

import (
	"slices"
	"testing"

	"gotest.tools/v3/assert"
)

// reach lists the states that can come after from, however long it takes.
func reach(from State) (all []State) {
	todo := []State{from}
	for len(todo) > 0 {
		state := todo[0]
		todo = todo[1:]
		for _, row := range transitions {
			if row.from != state {
				continue
			}
			for _, to := range row.to {
				if !slices.Contains(all, to) {
					all = append(all, to)
					todo = append(todo, to)
				}
			}
		}
	}
	return all
}

func TestADecisionIsFinal(t *testing.T) {
	assert.Check(t, !slices.Contains(reach(Committed), Aborting))
	assert.Check(t, !slices.Contains(reach(Aborting), Committed))
	for _, decided := range []State{Committed, Aborting} {
		for _, earlier := range []State{Working, Staging, Stopping, Prepared} {
			assert.Check(t, !slices.Contains(reach(decided), earlier), "%s after %s", earlier, decided)
		}
	}
	assert.Check(t, len(reach(Closed)) == 0)
}

func TestOnlyPreparedCanBecomeCommitted(t *testing.T) {
	for _, from := range append(States(), "") {
		want := from == Prepared || from == Committed
		assert.Check(t, (check(from, Committed) == nil) == want, "from %q", from)
	}
}

func TestEveryStateIsReachedAndEnds(t *testing.T) {
	for _, state := range States() {
		assert.Check(t, slices.Contains(reach(""), state), "%s cannot be reached", state)
		assert.Check(t, state == Closed || slices.Contains(reach(state), Closed), "%s does not end", state)
	}
}

func TestOldDataIsReachedFromEveryUndecidedState(t *testing.T) {
	for _, state := range []State{Staging, Stopping, Prepared} {
		assert.Check(t, check(state, Aborting) == nil, "%s", state)
	}
}
