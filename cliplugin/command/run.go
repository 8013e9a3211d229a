package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// reported is an error that its verb has already shown.
type reported struct{ error }

func (r reported) Unwrap() error { return r.error }

// Reported says whether err was shown by its verb, so that it is not printed
// again.
func Reported(err error) bool {
	var r reported
	return errors.As(err, &r)
}

// ask runs a short verb: no progress but warnings.
func ask[T any](ctx context.Context, c *client, r agent.Request) (T, error) {
	return do[T](ctx, c, r, agent.Handlers{Event: func(e event.Event) {
		if e.Type == event.Warning {
			fmt.Fprintf(c.Err(), "warning: %s\n", e.Message)
		}
	}})
}

// show runs a long verb with a display of its progress. What run gives is the
// verb's result.
func show(c *client, m progress.Mode, run func(d progress.Display) (result any, err error)) error {
	d := progress.New(m, c.Err(), c.Err().IsTerminal(), c.now)
	result, err := run(d)
	if d.Close(result, err) {
		return reported{err}
	}
	return err
}

// watch runs the request of a long verb, its progress shown on d, which is
// quiet again when it returns.
func watch[T any](ctx context.Context, c *client, r agent.Request, d progress.Display, h agent.Handlers) (T, error) {
	h.Event = d.Event
	result, err := do[T](ctx, c, r, h)
	d.Pause()
	return result, err
}

// do has the agent carry a request out and reads its result.
func do[T any](ctx context.Context, c *client, r agent.Request, h agent.Handlers) (result T, err error) {
	conn, err := c.connect()
	if err != nil {
		return result, err
	}
	raw, err := conn.Agent.Do(ctx, r, h)
	if err != nil {
		return result, interrupted(ctx, err)
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return result, fmt.Errorf("read the answer of the agent to %s: %w", r.Verb, err)
	}
	return result, nil
}

// interrupted gives an error that only says that the client was asked to end
// its own words. A fault says more and is kept.
func interrupted(ctx context.Context, err error) error {
	var f *fault.Error
	if ctx.Err() == nil || errors.As(err, &f) {
		return err
	}
	return fault.New(fault.Failed, "interrupted: %w", err)
}
