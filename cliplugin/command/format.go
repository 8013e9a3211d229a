package command

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/cli/command/inspect"
	"github.com/docker/cli/templates"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// checkFormat refuses a --format that is no template before anything is done.
// That a template asks for a field that there is not shows only with a result.
func checkFormat(cmd *cobra.Command, _ []string) error {
	flag := cmd.Flags().Lookup("format")
	if flag == nil {
		return nil
	}
	text := strings.TrimPrefix(flag.Value.String(), formatter.TableFormatKey)
	if _, err := templates.Parse(text); err != nil {
		return formatFault(err).WithState("nothing was changed")
	}
	return nil
}

// formatFault is the fault of a template; its caller says what was done.
func formatFault(err error) *fault.Error {
	return fault.New(fault.Failed, "format: %w", err).WithHint("use --format json to see the fields")
}

// formatValue prints one value as compact JSON or by a template. State says
// what was done by the time that the template fails.
func formatValue(c *client, format string, raw json.RawMessage, typed any, state string) error {
	if format == formatter.JSONFormatKey {
		_, err := fmt.Fprintf(c.Out(), "%s\n", raw)
		return err
	}
	return formatValues(c, format, []json.RawMessage{raw}, func(json.RawMessage) (any, error) { return typed, nil }, state)
}

// formatValues prints values as docker inspect does: an indented JSON list,
// compact JSON, or a template over the typed value.
func formatValues(c *client, format string, list []json.RawMessage, typed func(json.RawMessage) (any, error), state string) error {
	inspector, err := inspect.NewTemplateInspectorFromString(c.Out(), format)
	if err != nil {
		return formatFault(err).WithState("%s", state)
	}
	for _, raw := range list {
		value, err := typed(raw)
		if err != nil {
			return err
		}
		if err := inspector.Inspect(value, raw); err != nil {
			return formatFault(err).WithState("%s", state)
		}
	}
	return inspector.Flush()
}
