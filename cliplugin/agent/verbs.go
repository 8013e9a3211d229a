package agent

// traits is what client and server must know of a verb.
type traits struct {
	// operation says that the verb changes something: its agent outlives the
	// client and engine restarts.
	operation bool
	// blind says that the verb may be done again by an agent that the engine
	// started again, though nobody watches: it finishes what others began.
	blind bool
	// attended says that the operation is of no use without its client, and
	// takes itself back when that is gone.
	attended bool
	// in and out say that an archive comes on standard input, or leaves on
	// standard output.
	in, out bool
}

// thanked says that the client says when it has the result, and the agent then
// removes its own container. The client need not wait for the engine to find that the
// container has ended, and to remove it.
func (t traits) thanked() bool { return t.operation && !t.attended && !t.in }

var verbs = map[Verb]traits{
	Create:  {operation: true},
	List:    {},
	Inspect: {},
	Remove:  {operation: true},
	Restore: {operation: true},
	Undo:    {operation: true},
	Status:  {},
	Recover: {operation: true, blind: true},
	Export:  {out: true},
	Import:  {operation: true, in: true},
	Verify:  {},
	Drill:   {operation: true, attended: true},
	Doctor:  {},
	Allow:   {},
	Adopt:   {operation: true},
}

// traits gives those of the request: a dry run is not an operation.
func (r *Request) traits() traits {
	t := verbs[r.Verb]
	if r.DryRun {
		t.operation = false
	}
	return t
}
