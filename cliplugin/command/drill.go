package command

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command/formatter"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type drillOptions struct {
	project     string
	start       bool
	services    []string
	keep        bool
	timeout     seconds
	steady      seconds
	lockTimeout seconds
	quiet       bool
	format      string
	progress    progress.Mode
}

func newDrillCommand(c *client) *cobra.Command {
	o := drillOptions{timeout: seconds(healthTimeout)}
	cmd := &cobra.Command{
		Use:   "drill [OPTIONS] SNAPSHOT [VOLUME...]",
		Short: "Try out whether a snapshot can be restored",
		Long: "Restore a snapshot into throwaway volumes, compare every entry and byte of them with\n" +
			"it, and remove them again. With --start, containers like those of the workload are\n" +
			"started on them, in a network of their own without a way out, and must get healthy.\n\n" +
			"The workload is neither touched nor paused. Interrupted, a drill takes back what it\n" +
			"has made.",
		Example: `  docker snaprestore drill latest
  docker snaprestore drill --start before-upgrade
  docker snaprestore drill --start --service db --timeout 10m 4f2a91c07d3e`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runDrill(cmd.Context(), c, &o, args[0], args[1:], d)
			})
		},
		ValidArgsFunction: completeRestore(c),
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.project, "project", "p", "", "Compose project that latest and names are of")
	flags.BoolVar(&o.start, "start", false, "Start the workload on the restored data and wait for its health")
	flags.StringArrayVar(&o.services, "service", nil, "Start this service and what it depends on only (repeatable; with --start)")
	flags.BoolVar(&o.keep, "keep", false, "Leave the volumes, and the containers stopped")
	flags.VarP(&o.timeout, "timeout", "t", "How long to wait for the containers to get healthy")
	flags.Var(&o.steady, "steady", "How long a container without a health check must stay up (default 5s)")
	flags.Var(&o.lockTimeout, "lock-timeout", "How long to wait for another operation (default: not at all)")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only display the snapshot's id")
	flags.StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	progress.Flag(cmd, &o.progress)
	complete(cmd, "project", completeProjects(c))
	complete(cmd, "service", completeServices(c))
	complete(cmd, "format", cobra.FixedCompletions([]string{formatter.JSONFormatKey}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runDrill(ctx context.Context, c *client, o *drillOptions, reference string, volumes []string, d progress.Display) (any, error) {
	if len(o.services) > 0 && !o.start {
		return nil, fault.New(fault.Failed, "drill: --service says what to start, and nothing is started without --start").
			WithState("nothing was changed").WithHint("docker snaprestore drill --start --service %s %s", o.services[0], reference)
	}
	project, err := narrow(ctx, o.project, reference)
	if err != nil {
		return nil, err
	}
	raw, err := watch[json.RawMessage](ctx, c, agent.Request{
		Verb: agent.Drill, Operation: journal.NewID(),
		Drill: &plan.DrillRequest{
			Snapshot:    reference,
			Volumes:     volumes,
			Project:     project,
			Start:       o.start,
			Services:    o.services,
			Keep:        o.keep,
			Timeout:     duration(o.timeout),
			Steady:      duration(o.steady),
			LockTimeout: duration(o.lockTimeout),
		},
	}, d, agent.Handlers{})
	if err != nil {
		return nil, err
	}
	var done plan.Drilled
	if err := json.Unmarshal(raw, &done); err != nil {
		return nil, fmt.Errorf("read the agent's result: %w", err)
	}
	switch {
	case o.quiet:
		fmt.Fprintln(c.Out(), done.Snapshot)
	case o.format != "":
		return raw, formatValue(c, o.format, raw, done, "the drill succeeded")
	default:
		output.Drilled(c.Out(), &done)
	}
	return raw, nil
}
