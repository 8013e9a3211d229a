package command

import (
	"context"
	"time"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// healthTimeout is how long a restore waits for containers to get healthy
// when nothing else is asked for. A database that replays its log after a
// snapshot needs minutes at times.
const healthTimeout = 5 * time.Minute

type restoreOptions struct {
	confirmation
	project     string
	noStart     bool
	rollback    bool
	timeout     seconds
	stopTimeout grace
	lockTimeout seconds
	bounds      bounds
}

func newRestoreCommand(c *client) *cobra.Command {
	o := restoreOptions{timeout: seconds(healthTimeout)}
	cmd := &cobra.Command{
		Use:   "restore [OPTIONS] SNAPSHOT [VOLUME...]",
		Short: "Put the data of a snapshot back",
		Long: "Put the data of a snapshot back, all volumes together or none, and start the same\n" +
			"containers again. The new data is staged and checked while the workload runs; it is\n" +
			"down for a stop, a few renames and a start. The data replaced is kept, and\n" +
			"docker snaprestore undo brings it back.\n\n" +
			"Shows what is going to happen and asks. Without a terminal it needs --force, or\n" +
			"--confirm with the snapshot's id.",
		Example: `  docker snaprestore restore before-upgrade
  docker snaprestore restore latest --dry-run
  docker snaprestore restore 4f2a91c07d3e --confirm 4f2a91c07d3e --rollback`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("confirm") && o.confirm == "" {
				// A variable that was not set must not make it a question,
				// nor --force.
				return fault.New(fault.Declined, "restore: --confirm names no snapshot").
					WithState("nothing was changed").WithHint("docker snaprestore ls shows the ids")
			}
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runRestore(cmd.Context(), c, &o, args[0], args[1:], d)
			})
		},
		ValidArgsFunction: completeRestore(c),
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.project, "project", "p", "", "Restore into this Compose project (default: the snapshot's own)")
	o.flags(cmd)
	flags.StringVar(&o.confirm, "confirm", "", "Do not ask; the id of the snapshot must be this")
	flags.BoolVar(&o.noStart, "no-start", false, "Leave the containers stopped")
	flags.BoolVar(&o.rollback, "rollback", false, "Undo everything when the workload does not get healthy in time")
	flags.VarP(&o.timeout, "timeout", "t", "How long to wait for the workload to get healthy")
	flags.Var(&o.stopTimeout, "stop-timeout", "Seconds before a container that does not stop is killed (default: its own)")
	o.bounds.flags(flags)
	flags.Var(&o.lockTimeout, "lock-timeout", "How long to wait for another operation (default: not at all)")
	complete(cmd, "project", completeProjects(c))
	complete(cmd, "confirm", completeSnapshotIDs(c))
	return cmd
}

func runRestore(ctx context.Context, c *client, o *restoreOptions, reference string, volumes []string, d progress.Display) (any, error) {
	project, err := narrow(ctx, o.project, reference)
	if err != nil {
		return nil, err
	}
	return carryOut(ctx, c, &o.confirmation, o.noStart, d, agent.Request{
		Verb: agent.Restore, Operation: journal.NewID(),
		Restore: &plan.RestoreRequest{
			Snapshot:    reference,
			Volumes:     volumes,
			Project:     project,
			NoStart:     o.noStart,
			Rollback:    o.rollback,
			Timeout:     duration(o.timeout),
			StopTimeout: o.stopTimeout.value,
			LockTimeout: duration(o.lockTimeout),
			LimitRate:   int64(o.bounds.rate),
			Jobs:        int(o.bounds.jobs),
		},
	})
}
