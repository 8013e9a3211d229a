package command

import (
	"context"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

type exportOptions struct {
	project  string
	output   string
	gzip     bool
	progress progress.Mode
}

func newExportCommand(c *client) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] SNAPSHOT",
		Short: "Write a snapshot to a file or to standard output",
		Long: "Write a snapshot as one archive to a file on this machine, or to standard output\n" +
			"with -o -. The file appears under its name only when it is complete. --gzip writes\n" +
			"the older layout that other tools read.",
		Example: `  docker snaprestore export before-upgrade -o shop.tar.zst
  docker snaprestore export latest -o - | ssh backup 'cat > shop.tar.zst'`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runExport(cmd.Context(), c, &o, args[0], d)
			})
		},
		ValidArgsFunction: completeSnapshots(c, 1),
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.output, "output", "o", "", "File to write to, - for standard output")
	flags.BoolVar(&o.gzip, "gzip", false, "Write the gzip layout that other tools read")
	flags.StringVarP(&o.project, "project", "p", "", "Compose project that latest and names are of")
	progress.Flag(cmd, &o.progress)
	complete(cmd, "project", completeProjects(c))
	return cmd
}

func runExport(ctx context.Context, c *client, o *exportOptions, reference string, d progress.Display) (any, error) {
	project, err := narrow(ctx, o.project, reference)
	if err != nil {
		return nil, err
	}
	r := agent.Request{Verb: agent.Export, References: []string{reference}, Project: project, Gzip: o.gzip}
	if o.output == "" || o.output == "-" {
		if c.Out().IsTerminal() {
			return nil, fault.New(fault.Failed, "export %s: not written to a terminal", reference).WithState("nothing was written").
				WithHint("docker snaprestore export %s -o FILE", reference)
		}
		s, err := watch[snapshot.Snapshot](ctx, c, r, d, agent.Handlers{Out: c.Out()})
		if err != nil {
			return nil, err
		}
		d.Note("%s", output.Exported(&s, "standard output"))
		return s, nil
	}
	file, err := createArchive(o.output)
	if err != nil {
		return nil, fault.New(fault.Failed, "export %s: %w", reference, err).WithState("nothing was written").
			WithHint("docker snaprestore export %s -o FILE, in a directory that is there and can be written to", reference)
	}
	defer file.discard()
	s, err := watch[snapshot.Snapshot](ctx, c, r, d, agent.Handlers{Out: file})
	if err != nil {
		return nil, err
	}
	if err := file.keep(); err != nil {
		return nil, fault.New(fault.Failed, "export %s: %w", reference, err).WithState("%s was not written", o.output).
			WithHint("docker snaprestore export %s -o FILE, where there is room", reference)
	}
	d.Note("%s", output.Exported(&s, o.output))
	return s, nil
}
