package command

import (
	"context"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type undoOptions struct {
	confirmation
	project     string
	timeout     seconds
	stopTimeout grace
	lockTimeout seconds
}

func newUndoCommand(c *client) *cobra.Command {
	o := undoOptions{timeout: seconds(healthTimeout)}
	cmd := &cobra.Command{
		Use:   "undo [OPTIONS] [OPERATION]",
		Short: "Take a restore, an undo or an adoption back",
		Long: "Bring back the data that a restore replaced: the one named, or the last. It is a\n" +
			"swap of directories and takes the same time whatever the size of the data. An undo\n" +
			"can be undone too, and so can an adoption that is named: the volume gets back the\n" +
			"driver, labels and options that it had, and keeps the data that it has now.",
		Args: cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runUndo(cmd.Context(), c, &o, append(args, "")[0], d)
			})
		},
		ValidArgsFunction: completeOperations(c),
	}
	o.flags(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&o.project, "project", "p", "", "The last restore of this Compose project")
	flags.VarP(&o.timeout, "timeout", "t", "How long to wait for the workload to get healthy")
	flags.Var(&o.stopTimeout, "stop-timeout", "Seconds before a container that does not stop is killed (default: its own)")
	flags.Var(&o.lockTimeout, "lock-timeout", "How long to wait for another operation (default: not at all)")
	complete(cmd, "project", completeProjects(c))
	return cmd
}

func runUndo(ctx context.Context, c *client, o *undoOptions, operation string, d progress.Display) (any, error) {
	project := o.project
	if operation == "" {
		// As for latest: the last one of this directory's project.
		var err error
		if project, err = narrow(ctx, o.project, "latest"); err != nil {
			return nil, err
		}
	}
	return carryOut(ctx, c, &o.confirmation, false, d, agent.Request{
		Verb: agent.Undo, Operation: journal.NewID(),
		Undo: &plan.UndoRequest{
			Operation:   operation,
			Project:     project,
			Timeout:     duration(o.timeout),
			StopTimeout: o.stopTimeout.value,
			LockTimeout: duration(o.lockTimeout),
		},
	})
}
