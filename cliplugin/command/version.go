package command

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/docker/cli/cli"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/build"
)

// version is what the version verb tells. It asks no engine.
type version struct {
	Version       string
	GoVersion     string
	Os            string
	Arch          string
	JournalFormat int
}

func newVersionCommand(c *client) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version [OPTIONS]",
		Short: "Show the version",
		Args:  cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runVersion(c, format)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&format, "format", "", cliflags.InspectFormatHelp)
	complete(cmd, "format", cobra.NoFileCompletions)
	return cmd
}

func runVersion(c *client, format string) error {
	v := version{
		Version: build.Version, GoVersion: runtime.Version(),
		Os: runtime.GOOS, Arch: runtime.GOARCH, JournalFormat: journal.Format,
	}
	if format == "" {
		fmt.Fprintf(c.Out(), "docker snaprestore %s\n  go version:      %s\n  platform:        %s/%s\n  journal format:  %d\n",
			v.Version, v.GoVersion, v.Os, v.Arch, v.JournalFormat)
		return nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode version: %w", err)
	}
	return formatValue(c, format, raw, v, "nothing was changed")
}
