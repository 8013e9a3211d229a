package command

import (
	"context"

	"github.com/docker/cli/cli"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

type listOptions struct {
	project string
	output  output.Options
}

func newListCommand(c *client) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List snapshots, newest first",
		Long: "List snapshots, newest first. pre-restore-… are safety snapshots: the data that a\n" +
			"restore or an undo replaced.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runList(cmd.Context(), c, &o)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&o.project, "project", "p", "", "Only snapshots of this Compose project")
	cmd.Flags().BoolVarP(&o.output.Quiet, "quiet", "q", false, "Only display snapshot ids")
	formatFlags(cmd, &o.output)
	complete(cmd, "project", completeProjects(c))
	return cmd
}

func runList(ctx context.Context, c *client, o *listOptions) error {
	list, err := ask[[]snapshot.Snapshot](ctx, c, agent.Request{Verb: agent.List, Project: o.project})
	if err != nil {
		return err
	}
	o.output.Now = c.now()
	return output.Snapshots(c.Out(), o.output, list)
}

// formatFlags adds --format and --no-trunc.
func formatFlags(cmd *cobra.Command, o *output.Options) {
	cmd.Flags().StringVar(&o.Format, "format", "", cliflags.FormatHelp)
	cmd.Flags().BoolVar(&o.NoTrunc, "no-trunc", false, "Don't truncate output")
	complete(cmd, "format", cobra.NoFileCompletions)
}
