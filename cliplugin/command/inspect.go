package command

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/cli/command/inspect"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type inspectOptions struct {
	project string
	format  string
}

func newInspectCommand(c *client) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] SNAPSHOT [SNAPSHOT...]",
		Short: "Display what snapshots hold",
		Args:  cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runInspect(cmd.Context(), c, &o, args)
		},
		ValidArgsFunction: completeSnapshots(c, 0),
	}
	cmd.Flags().StringVarP(&o.project, "project", "p", "", "Compose project that latest and names are of")
	cmd.Flags().StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	complete(cmd, "project", completeProjects(c))
	complete(cmd, "format", cobra.NoFileCompletions)
	return cmd
}

func runInspect(ctx context.Context, c *client, o *inspectOptions, references []string) error {
	project, err := narrow(ctx, o.project, references...)
	if err != nil {
		return err
	}
	list, err := ask[[]json.RawMessage](ctx, c, agent.Request{Verb: agent.Inspect, References: references, Project: project})
	if err != nil {
		return err
	}
	return formatValues(c, o.format, list, func(raw json.RawMessage) (any, error) {
		var s plan.Inspected
		err := json.Unmarshal(raw, &s)
		return s, err
	})
}

// formatValue prints one value as compact JSON or by a template.
func formatValue(c *client, format string, raw json.RawMessage, typed any) error {
	if format == formatter.JSONFormatKey {
		_, err := fmt.Fprintf(c.Out(), "%s\n", raw)
		return err
	}
	return formatValues(c, format, []json.RawMessage{raw}, func(json.RawMessage) (any, error) { return typed, nil })
}

// formatValues prints values as docker inspect does: an indented JSON list,
// compact JSON, or a template over the typed value.
func formatValues(c *client, format string, list []json.RawMessage, typed func(json.RawMessage) (any, error)) error {
	inspector, err := inspect.NewTemplateInspectorFromString(c.Out(), format)
	if err != nil {
		return fault.New(fault.Failed, "format: %w", err)
	}
	for _, raw := range list {
		value, err := typed(raw)
		if err != nil {
			return err
		}
		if err := inspector.Inspect(value, raw); err != nil {
			return fault.New(fault.Failed, "format: %w", err)
		}
	}
	return inspector.Flush()
}
