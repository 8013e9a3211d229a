package command

import (
	"context"
	"encoding/json"

	"github.com/docker/cli/cli"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type inspectOptions struct {
	project string
	format  string
}

func newInspectCommand(c *client) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] SNAPSHOT [SNAPSHOT...]",
		Short: "Display what snapshots hold",
		Args:  cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), c, &o, args)
		},
		ValidArgsFunction: completeSnapshots(c, 0),
	}
	cmd.Flags().StringVarP(&o.project, "project", "p", "", "Compose project that latest and names are of")
	cmd.Flags().StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	complete(cmd, "project", completeProjects(c))
	complete(cmd, "format", cobra.NoFileCompletions)
	return cmd
}

func runInspect(ctx context.Context, c *client, o *inspectOptions, references []string) error {
	project, err := narrow(ctx, o.project, references...)
	if err != nil {
		return err
	}
	list, err := ask[[]json.RawMessage](ctx, c, agent.Request{Verb: agent.Inspect, References: references, Project: project})
	if err != nil {
		return err
	}
	return formatValues(c, o.format, list, func(raw json.RawMessage) (any, error) {
		var s plan.Inspected
		err := json.Unmarshal(raw, &s)
		return s, err
	}, "nothing was changed")
}
