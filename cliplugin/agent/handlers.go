package agent

import (
	"io"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Handlers are the client's ends of one run of an agent. All may be nil.
type Handlers struct {
	// Event is called for every event but Plan, Result and Failed, one at a
	// time and in order. It must not block for long.
	Event func(event.Event)
	// Confirm is asked whether a plan shall be carried out, for a Request
	// with Ask set. While it thinks, the agent is kept waiting. An error is
	// a no, and is what Do returns.
	Confirm func(plan.Plan) (bool, error)
	// In is the archive of an import, Out takes the archive of an export.
	In  io.Reader
	Out io.Writer
}
