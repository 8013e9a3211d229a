package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/driver"
	"github.com/snaprestore/snaprestore/restore/volume"
)

func newInstallCommand(c *client) *cobra.Command {
	var allow []string
	cmd := &cobra.Command{
		Use:   "install [OPTIONS]",
		Short: "Install the volume driver on the engine",
		Long: "Install the volume driver " + volume.Driver + " on the engine, as a managed plugin made of this\n" +
			"very program, or replace one of another version. Containers that run keep their\n" +
			"data mounted meanwhile, and no volume is lost.\n\n" +
			"A volume of the driver is made by docker volume create -d " + volume.Driver + " NAME, or by\n" +
			"\"driver: " + volume.Driver + "\" in a compose file. No container can mount it while a restore of\n" +
			"it is undecided. The options are scope (named, project, stage), project and stage:\n" +
			"volumes of the same project or stage share one directory.\n\n" +
			"--allow-path lets bind mounts take part: those whose source lies under the given\n" +
			"directory of the engine's machine. The list is kept; doctor shows it.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInstall(cmd.Context(), c, allow)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringArrayVar(&allow, "allow-path", nil, "Directory whose bind mounts may be worked with (repeatable)")
	return cmd
}

func runInstall(ctx context.Context, c *client, allow []string) error {
	// The agent makes the state root, which the plugin must find.
	allowed, err := ask[[]string](ctx, c, agent.Request{Verb: agent.Allow, Paths: allow})
	if err != nil {
		return err
	}
	conn, err := c.connect()
	if err != nil {
		return err
	}
	host, err := conn.Driver.Host(ctx)
	if err != nil {
		return err
	}
	program, err := agent.Program(host)
	if err != nil {
		return err
	}
	change, err := driver.Install(ctx, conn.Driver, driver.Spec(program, agent.StateRoot(host)))
	if err != nil {
		return interrupted(ctx, err)
	}
	fmt.Fprintf(c.Out(), "volume driver %s: %s\n", volume.Driver, installed[change])
	if len(allowed) > 0 {
		fmt.Fprintf(c.Out(), "bind mounts allowed under: %s\n", strings.Join(allowed, ", "))
	}
	return nil
}

// installed is how a change is told.
var installed = map[driver.Change]string{
	driver.Installed: "installed",
	driver.Replaced:  "replaced by this version",
	driver.Enabled:   "enabled",
	driver.Kept:      "installed already",
}
