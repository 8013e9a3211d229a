// Package command holds the verbs of docker snaprestore, one file a verb.
//
// A verb checks its options, makes one request, hands it to an agent on the
// engine's machine, shows the agent's events as progress, and prints the
// answer: ids, tables and summaries on standard output, everything else on
// standard error. It decides nothing about data and keeps nothing. A client
// that dies before a plan is confirmed leaves nothing changed; one that dies
// later leaves an operation that ends without it.
package command

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	docker "github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/driver"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Name is the name of the plugin: docker snaprestore.
const Name = "snaprestore"

// Agent carries requests out on the engine's machine.
type Agent interface {
	// Do runs one request to its end and gives the verb's result, or a fault.
	Do(ctx context.Context, r agent.Request, h agent.Handlers) (json.RawMessage, error)
}

// Engine is what shell completion asks of the Docker engine.
type Engine interface {
	Containers(ctx context.Context) ([]restore.Container, error)
	Volumes(ctx context.Context) ([]restore.Volume, error)
}

// Connection is a way to the engine of the user's context.
type Connection struct {
	Agent  Agent
	Engine Engine
	Driver driver.Engine
}

// Connect makes a Connection. It is called when a verb needs one, after the
// global options were read.
type Connect func() (Connection, error)

// client is what every verb works with.
type client struct {
	docker.Cli
	connect Connect
	now     func() time.Time // of ages
}

// New makes the command with all its verbs.
func New(dockerCLI docker.Cli, connect Connect) *cobra.Command {
	return newRoot(&client{Cli: dockerCLI, connect: connect, now: time.Now})
}

func newRoot(c *client) *cobra.Command {
	root := &cobra.Command{
		Use:   Name + " COMMAND",
		Short: "Snapshot and restore the volumes of a workload, all or none",
		Long: "Snapshot and restore the volumes of a workload, all together or none.\n\n" +
			"A SNAPSHOT is an id, a unique beginning of one, a name, latest, or latest~N for\n" +
			"the Nth before it. latest is of the project given by -p, else of the Compose\n" +
			"project of the current directory, else of all.",
		Args: cli.NoArgs,
		RunE: docker.ShowHelp(c.Err()),
	}
	root.AddCommand(
		newCreateCommand(c),
		newListCommand(c),
		newInspectCommand(c),
		newRemoveCommand(c),
		newRestoreCommand(c),
		newUndoCommand(c),
		newStatusCommand(c),
		newRecoverCommand(c),
		newExportCommand(c),
		newImportCommand(c),
		newAdoptCommand(c),
		newVerifyCommand(c),
		newDrillCommand(c),
		newDoctorCommand(c),
		newInstallCommand(c),
		newUninstallCommand(c),
		newVersionCommand(c),
	)
	for _, verb := range root.Commands() {
		verb.DisableFlagsInUseLine = true
		verb.PreRunE = checkFormat
	}
	root.DisableFlagsInUseLine = true
	exitTable(root)
	return root
}

// exitTable adds the exit statuses to the root's help.
func exitTable(root *cobra.Command) {
	own := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help := own
		if root.HasParent() {
			help = root.Parent().HelpFunc()
		}
		help(cmd, args)
		if cmd != root {
			return
		}
		var text strings.Builder
		text.WriteString("\nExit Status:\n")
		for _, row := range fault.Table() {
			fmt.Fprintf(&text, "  %2s  %s\n", row[0], row[1])
		}
		fmt.Fprint(cmd.OutOrStdout(), text.String())
	})
}
