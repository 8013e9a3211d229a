package command

import (
	"context"
	"encoding/json"
	"io"
	"os"

	"github.com/docker/cli/cli"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

type importOptions struct {
	name     string
	format   string
	progress progress.Mode
}

func newImportCommand(c *client) *cobra.Command {
	var o importOptions
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] FILE|-",
		Short: "Read a snapshot from a file or from standard input",
		Long: "Read an archive that export wrote, or one of the older gzip layout, and keep it as a\n" +
			"snapshot. No volume is touched. Prints the id of the snapshot.",
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runImport(cmd.Context(), c, &o, args[0], d)
			})
		},
		// Files: the shell completes them.
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	cmd.Flags().StringVar(&o.name, "name", "", "Name for the snapshot")
	cmd.Flags().StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	progress.Flag(cmd, &o.progress)
	complete(cmd, "format", cobra.NoFileCompletions)
	complete(cmd, "name", cobra.NoFileCompletions)
	return cmd
}

func runImport(ctx context.Context, c *client, o *importOptions, source string, d progress.Display) (any, error) {
	var in io.Reader = c.In()
	if source == "-" {
		if c.In().IsTerminal() {
			return nil, fault.New(fault.Failed, "import: an archive is not read from a terminal").
				WithState("nothing was changed").WithHint("docker snaprestore import FILE")
		}
	} else {
		file, err := os.Open(source)
		if err != nil {
			kind := fault.Failed
			if os.IsNotExist(err) {
				kind = fault.NotFound
			}
			return nil, fault.New(kind, "import: %w", err).WithState("nothing was changed").
				WithHint("docker snaprestore import FILE, or - for standard input")
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil && info.IsDir() {
			return nil, fault.New(fault.Failed, "import %s: it is a directory", source).WithState("nothing was changed").
				WithHint("docker snaprestore import FILE, or - for standard input")
		}
		in = file
	}
	r := agent.Request{Verb: agent.Import, Operation: journal.NewID(), Name: o.name}
	raw, err := watch[json.RawMessage](ctx, c, r, d, agent.Handlers{In: in})
	if err != nil {
		return nil, err
	}
	return printCreated(c, o.format, raw, d)
}
