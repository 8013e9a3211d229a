package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/driver"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

func newUninstallCommand(c *client) *cobra.Command {
	var purge, force bool
	cmd := &cobra.Command{
		Use:   "uninstall [OPTIONS]",
		Short: "Remove the volume driver from the engine",
		Long: "Remove the volume driver from the engine. Its volumes and their data stay on the\n" +
			"engine's machine and are there again after the next install. With --purge they are\n" +
			"deleted first. Snapshots stay in any case.\n\n" +
			"Refuses while a container uses one of the volumes.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runUninstall(cmd.Context(), c, purge, force)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "Delete the driver's volumes and their data")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask for confirmation")
	return cmd
}

func runUninstall(ctx context.Context, c *client, purge, force bool) error {
	if purge && !force {
		if !c.In().IsTerminal() || !c.Err().IsTerminal() {
			return fault.New(fault.Declined, "uninstall: not confirmed, and there is no terminal to ask on").
				WithState("nothing was changed").WithHint("add --force")
		}
		fmt.Fprintln(c.Err(), "All volumes of the driver "+volume.Driver+" and their data will be deleted. Snapshots stay.")
		yes, err := prompt(ctx, c)
		if err != nil {
			return err
		}
		if !yes {
			return fault.New(fault.Declined, "uninstall: not confirmed").WithState("nothing was changed")
		}
	}
	conn, err := c.connect()
	if err != nil {
		return err
	}
	done, err := driver.Uninstall(ctx, conn.Driver, purge)
	if err != nil {
		return interrupted(ctx, err)
	}
	fmt.Fprintf(c.Out(), "volume driver %s: removed\n", volume.Driver)
	for _, list := range []struct {
		what  string
		names []string
	}{{"deleted volumes", done.Purged}, {"volumes that stay, for the next install", done.Kept}} {
		if len(list.names) > 0 {
			fmt.Fprintf(c.Out(), "%s: %s\n", list.what, strings.Join(list.names, ", "))
		}
	}
	return nil
}
