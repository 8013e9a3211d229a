package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// What is wrapped round a fault becomes part of its message, and kind, state
// and hint stay what they were.
func TestAWrappedFaultKeepsItsStateAndItsHint(t *testing.T) {
	cause := errors.New("cause")
	inner := fault.New(fault.Locked, "lock: %w", cause).WithState("nothing was changed").WithHint("wait")
	err := fault.From(fmt.Errorf("undo 4f: %w", inner))
	assert.Equal(t, err.Message, "undo 4f: lock: cause")
	assert.Equal(t, err.State, "nothing was changed")
	assert.Equal(t, err.Hint, "wait")
	assert.Equal(t, err.Kind, fault.Locked)
	assert.Equal(t, err.Error(), "undo 4f: lock: cause; nothing was changed")
	assert.ErrorIs(t, err, cause)

	// Where the state is not at the end the message keeps it.
	err = fault.From(fmt.Errorf("%w, twice", inner))
	assert.Equal(t, err.Error(), "lock: cause; nothing was changed, twice")
	assert.Equal(t, fault.From(nil), (*fault.Error)(nil))
}
