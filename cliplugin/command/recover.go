package command

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type recoverOptions struct {
	output   output.Options
	progress progress.Mode
}

func newRecoverCommand(c *client) *cobra.Command {
	var o recoverOptions
	cmd := &cobra.Command{
		Use:   "recover [OPTIONS] [OPERATION]",
		Short: "Finish operations that were interrupted",
		Long: "Finish operations that were interrupted: all, or the one named. What was decided\n" +
			"for the new data becomes new, everything else old; containers that ran are started.\n" +
			"Asks nothing, leaves operations alone that are under way, and may be repeated.",
		Args: cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runRecover(cmd.Context(), c, &o, args, d)
			})
		},
		ValidArgsFunction: completeOperations(c),
	}
	cmd.Flags().BoolVarP(&o.output.Quiet, "quiet", "q", false, "Only display operation ids")
	formatFlags(cmd, &o.output)
	progress.Flag(cmd, &o.progress)
	return cmd
}

func runRecover(ctx context.Context, c *client, o *recoverOptions, references []string, d progress.Display) (any, error) {
	raw, err := watch[json.RawMessage](ctx, c, agent.Request{Verb: agent.Recover, References: references}, d, agent.Handlers{})
	if err != nil {
		return nil, err
	}
	var r plan.Recovered
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read the agent's result: %w", err)
	}
	if len(r.Operations) == 0 && o.output.Format == "" {
		if !o.output.Quiet {
			fmt.Fprintln(c.Out(), "nothing to recover")
		}
		return raw, nil
	}
	o.output.Now = c.now()
	failed := output.Recovered(c.Out(), o.output, r.Operations)
	if failed != nil {
		failed = formatFault(failed).WithState("what was open was recovered")
	}
	if err := worst(r.Operations); err != nil {
		failed = err // which says more than that it could not be printed
	}
	return raw, failed
}

// worst is the fault of the operation that ended worst. One that was rolled
// back is what recover is for, and no fault.
func worst(list []plan.RecoveredOperation) (err error) {
	for _, r := range list {
		result := r.Result
		if result == journal.ResultRolledBack || (result == journal.ResultFailed && r.Error == "") {
			continue
		}
		fault := outcome(r.Operation, result, r.Error)
		if err == nil || (fault != nil && result == "") {
			err = fault
		}
	}
	return err
}
