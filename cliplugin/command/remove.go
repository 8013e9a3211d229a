package command

import (
	"context"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/journal"
)

func newRemoveCommand(c *client) *cobra.Command {
	var project string
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] SNAPSHOT [SNAPSHOT...]",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots",
		Long: "Remove snapshots. Once the safety snapshot of a restore is removed, that restore\n" +
			"cannot be undone. All are looked up before the first is removed.",
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRemove(cmd.Context(), c, project, args)
		},
		ValidArgsFunction: completeSnapshots(c, 0),
	}
	cmd.Flags().StringVarP(&project, "project", "p", "", "Compose project that latest and names are of")
	complete(cmd, "project", completeProjects(c))
	return cmd
}

func runRemove(ctx context.Context, c *client, named string, references []string) error {
	project, err := narrow(ctx, named, references...)
	if err != nil {
		return err
	}
	removed, err := ask[[]string](ctx, c, agent.Request{
		Verb: agent.Remove, Operation: journal.NewID(), References: references, Project: project,
	})
	if err != nil {
		return err
	}
	for _, id := range removed {
		fmt.Fprintln(c.Out(), id)
	}
	return nil
}
