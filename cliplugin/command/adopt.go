package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/volume"
)

type adoptOptions struct {
	back        bool
	lockTimeout seconds
}

func newAdoptCommand(c *client) *cobra.Command {
	var o adoptOptions
	cmd := &cobra.Command{
		Use:   "adopt [OPTIONS] VOLUME [VOLUME...]",
		Short: "Turn local volumes into volumes of the plugin, or back",
		Long: "Turn local volumes into volumes of the plugin (docker snaprestore install) of the\n" +
			"same names, labels and data, or back. Containers must not exist on them, not even\n" +
			"stopped ones: docker compose down removes them and keeps the volumes. It says what to\n" +
			"change in the compose file before the next docker compose up.",
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAdopt(cmd.Context(), c, &o, args)
		},
		ValidArgsFunction: completeVolumes(c),
	}
	cmd.Flags().BoolVar(&o.back, "back", false, "Turn volumes of the plugin into local ones")
	cmd.Flags().Var(&o.lockTimeout, "lock-timeout", "How long to wait for another operation (default: not at all)")
	return cmd
}

func runAdopt(ctx context.Context, c *client, o *adoptOptions, volumes []string) error {
	done, err := ask[[]plan.Adopted](ctx, c, agent.Request{
		Verb: agent.Adopt, Operation: journal.NewID(),
		Adopt: &plan.AdoptRequest{Volumes: volumes, Back: o.back, LockTimeout: duration(o.lockTimeout)},
	})
	if err != nil {
		return err
	}
	var keys []string
	for _, a := range done {
		fmt.Fprintln(c.Out(), a.Volume)
		fmt.Fprintf(c.Err(), "to take %s back: docker snaprestore undo %s\n", a.Volume, a.Operation)
		if a.Key != "" {
			keys = append(keys, a.Key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	driver := "driver: " + volume.Driver
	if o.back {
		driver = "driver: local"
	}
	fmt.Fprintf(c.Err(), "before the next docker compose up, the compose file must say:\n\nvolumes:\n  %s:\n    %s\n",
		strings.Join(keys, ":\n    "+driver+"\n  "), driver)
	return nil
}
