package command

import (
	"context"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

func newStatusCommand(c *client) *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use:   "status [OPTIONS] [OPERATION]",
		Short: "Show operations, under way and past, newest first",
		Args:  cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runStatus(cmd.Context(), c, o, args)
		},
		ValidArgsFunction: completeOperations(c),
	}
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "Only display operation ids")
	formatFlags(cmd, &o)
	return cmd
}

func runStatus(ctx context.Context, c *client, o output.Options, references []string) error {
	list, err := ask[[]plan.Status](ctx, c, agent.Request{Verb: agent.Status, References: references})
	if err != nil {
		return err
	}
	o.Now = c.now()
	if len(references) == 1 && len(list) == 1 && o.Format == "" && !o.Quiet {
		output.Operation(c.Out(), &list[0], o.Now)
	} else if err := output.Operations(c.Out(), o, list); err != nil {
		return err
	}
	for _, s := range list {
		if s.State != journal.Closed && !s.Alive {
			fmt.Fprintf(c.Err(), "operation %s was interrupted\nhint: docker snaprestore recover %s\n", s.ID, s.ID)
		}
	}
	return nil
}
