package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// confirmation is how a restore or an undo comes to be allowed.
type confirmation struct {
	dryRun   bool
	force    bool
	confirm  string
	format   string
	progress progress.Mode
}

func (o *confirmation) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "Print what would happen, and do nothing")
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "Do not ask for confirmation")
	cmd.Flags().StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	progress.Flag(cmd, &o.progress)
	complete(cmd, "format", cobra.NoFileCompletions)
}

// carryOut plans a restore or an undo, has the plan confirmed, and carries it
// out. The agent carries out nothing but the plan that was shown.
//
// An interrupt before the confirmation is a no: exit status 2, nothing
// changed. After it the operation belongs to the agent and goes on, and the
// agent's client says how to follow it.
func carryOut(ctx context.Context, c *client, o *confirmation, stopped bool, d progress.Display, r agent.Request) (any, error) {
	if o.dryRun {
		r.DryRun = true
		raw, err := watch[json.RawMessage](ctx, c, r, d, agent.Handlers{})
		if err != nil {
			return nil, err
		}
		return printPlan(c, o.format, raw)
	}
	asks := !o.force && o.confirm == ""
	if asks && (o.progress == progress.JSON || !c.In().IsTerminal() || !c.Err().IsTerminal()) {
		return nil, unconfirmed(r.Verb)
	}
	r.Ask, r.Confirm = true, o.confirm
	raw, err := watch[json.RawMessage](ctx, c, r, d, agent.Handlers{Confirm: func(p plan.Plan) (bool, error) {
		d.Event(event.Event{Type: event.Plan, Time: c.now().UTC(), Operation: p.Operation, Plan: p})
		if !asks {
			announce(d, &p, c.now().UTC())
			return true, nil
		}
		d.Pause()
		output.Plan(c.Err(), &p, c.now())
		return prompt(ctx, c)
	}})
	if err != nil {
		return nil, err
	}
	return printRestored(c, o.format, raw, stopped)
}

// unconfirmed refuses to go on where nobody can be asked.
func unconfirmed(verb agent.Verb) error {
	hint := "add --force; --dry-run shows the plan"
	if verb == agent.Restore {
		hint = "add --confirm ID with the snapshot's id, or --force; --dry-run shows the plan"
	}
	return fault.New(fault.Declined, "%s: not confirmed, and there is no terminal to ask on", verb).
		WithState("nothing was changed").WithHint("%s", hint)
}

// announce says what a plan that nobody is asked about has in store.
func announce(d progress.Display, p *plan.Plan, now time.Time) {
	for _, s := range p.Skipped {
		d.Event(event.Event{Type: event.Skipped, Time: now, Operation: p.Operation, Volume: s.What, Message: s.Reason})
	}
	for _, text := range p.Warnings {
		d.Event(event.Event{Type: event.Warning, Time: now, Operation: p.Operation, Message: text})
	}
}

// prompt asks on the terminal. Anything but y or yes is a no.
func prompt(ctx context.Context, c *client) (bool, error) {
	fmt.Fprint(c.Err(), "Go ahead? [y/N] ")
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.In()).ReadString('\n') // an end of file is a no
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(c.Err())
		return false, fault.New(fault.Declined, "interrupted before the confirmation").WithState("nothing was changed")
	case text := <-answer:
		return text == "y" || text == "yes", nil
	}
}

// printPlan prints a plan that was not carried out.
func printPlan(c *client, format string, raw json.RawMessage) (any, error) {
	var p plan.Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("read the agent's plan: %w", err)
	}
	if format != "" {
		return raw, formatValue(c, format, raw, p, "nothing was changed")
	}
	output.Plan(c.Out(), &p, c.now())
	fmt.Fprintln(c.Out(), "This was a dry run: nothing was changed.")
	return raw, nil
}

// printRestored prints how a restore or an undo ended.
func printRestored(c *client, format string, raw json.RawMessage, stopped bool) (any, error) {
	var r plan.Restored
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read the agent's result: %w", err)
	}
	failed := outcome(r.Operation, r.Result, "")
	if format != "" {
		err := formatValue(c, format, raw, r, fmt.Sprintf("operation %s is done", r.Operation))
		if failed != nil {
			err = failed // which says more than that it could not be printed
		}
		return raw, err
	}
	if failed != nil {
		return raw, failed
	}
	output.Restored(c.Out(), &r, stopped)
	return raw, nil
}

// outcome is the fault of an operation that ended otherwise than hoped for.
func outcome(operation, result, cause string) error {
	say := func(text string) string {
		if cause != "" {
			text += ": " + cause
		}
		return "operation " + operation + " " + text
	}
	switch result {
	case journal.ResultDone:
		return nil
	case journal.ResultRolledBack:
		return fault.New(fault.RolledBack, "%s", say("failed and was rolled back")).
			WithState("the old data is in place").WithHint("docker snaprestore status %s", operation)
	case journal.ResultNotStarted:
		return fault.New(fault.NotStarted, "%s", say("is complete, but containers did not start")).
			WithState("the data is consistent").WithHint("docker ps -a, then docker start or docker compose up -d")
	case journal.ResultFailed:
		return fault.New(fault.Failed, "%s", say("failed")).WithHint("docker snaprestore status %s", operation)
	}
	return fault.New(fault.InDoubt, "%s", say("is still open")).WithHint("docker snaprestore recover %s", operation)
}
