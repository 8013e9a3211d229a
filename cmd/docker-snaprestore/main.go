// Command docker-snaprestore is the Docker CLI plugin "docker snaprestore". It
// works below any docker CLI from 20.10 on, and alone: "docker-snaprestore ls" is
// "docker snaprestore ls".
//
// It carries snaprestored, which engines run. For a build that carries none (go
// build without scripts/build) it is that too, so that there always is the very
// code that the client was built with.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/plugin"
	docker "github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/debug"
	"github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/command"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == agent.Argument {
		os.Exit(agent.Main())
	}
	if filepath.Base(os.Args[0]) == volume.Program {
		os.Exit(drive())
	}
	os.Exit(run())
}

// run is the CLI plugin. Every failure is said once, here.
func run() int {
	if os.Getenv(metadata.ReexecEnvvar) == "" {
		os.Args = append(os.Args[:1:1], standalone(os.Args[1:])...)
	}
	otel.SetErrorHandler(debug.OTELErrorHandler)
	dockerCLI, err := docker.NewDockerCli()
	if err != nil {
		return report(os.Stderr, err)
	}
	root := command.New(dockerCLI, func() (command.Connection, error) { return connect(dockerCLI) })
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		if err := plugin.PersistentPreRunE(cmd, args); err != nil {
			return err
		}
		// The first signal asks the verb to end, a second one ends it.
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		cmd.SetContext(ctx)
		return nil
	}
	return report(dockerCLI.Err(), plugin.RunPlugin(dockerCLI, root, metadata.Metadata{
		SchemaVersion:    "0.1.0",
		Vendor:           "snaprestore",
		Version:          build.Version,
		ShortDescription: root.Short,
		URL:              "https://github.com/snaprestore/snaprestore",
	}))
}

// report prints err, unless its verb has, and gives the exit status.
func report(w io.Writer, err error) int {
	if err != nil && !command.Reported(err) {
		fmt.Fprint(w, output.Error(err))
	}
	return fault.ExitStatus(err)
}

// standalone puts the plugin's name where the docker CLI would have put it:
// after Docker's global options.
func standalone(args []string) []string {
	global := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	global.SetInterspersed(false)
	global.SetOutput(io.Discard)
	global.Usage = func() {}
	flags.NewClientOptions().InstallFlags(global)
	at := 0
	if err := global.Parse(args); err == nil {
		at = len(args) - global.NArg()
	}
	rest := args[at:]
	if len(rest) > 0 {
		switch rest[0] {
		case command.Name, metadata.MetadataSubcommandName:
			return args
		case cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			at++
			if len(rest) > 1 && rest[1] == command.Name {
				return args
			}
		}
	}
	out := append([]string(nil), args[:at]...)
	out = append(out, command.Name)
	return append(out, args[at:]...)
}
