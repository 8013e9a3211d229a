package command

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

type verifyOptions struct {
	project  string
	output   output.Options
	progress progress.Mode
}

func newVerifyCommand(c *client) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [OPTIONS] [SNAPSHOT...]",
		Short: "Check that snapshots are whole",
		Long: "Read the stored data of snapshots, all where none is named, and compare it with its\n" +
			"checksums. Changes nothing.\n\n" +
			"What a restore or an undo replaced (pre-restore-…, pre-undo-…) was never copied and has\n" +
			"no checksums: of that it is only checked that it is there.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runVerify(cmd.Context(), c, &o, args, d)
			})
		},
		ValidArgsFunction: completeSnapshots(c, 0),
	}
	cmd.Flags().StringVarP(&o.project, "project", "p", "", "Only snapshots of this Compose project")
	cmd.Flags().BoolVarP(&o.output.Quiet, "quiet", "q", false, "Only display snapshot ids")
	formatFlags(cmd, &o.output)
	progress.Flag(cmd, &o.progress)
	complete(cmd, "project", completeProjects(c))
	return cmd
}

func runVerify(ctx context.Context, c *client, o *verifyOptions, references []string, d progress.Display) (any, error) {
	project, err := narrow(ctx, o.project, references...)
	if err != nil {
		return nil, err
	}
	r := agent.Request{Verb: agent.Verify, References: references, Project: project}
	raw, err := watch[json.RawMessage](ctx, c, r, d, agent.Handlers{})
	if err != nil {
		return nil, err
	}
	var list []plan.Verified
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read the agent's result: %w", err)
	}
	o.output.Now = c.now()
	if err := output.Verified(c.Out(), o.output, list); err != nil {
		return raw, err
	}
	damaged := 0
	for _, v := range list {
		if v.Result != "ok" {
			damaged++
			d.Note("snapshot %s: %s", v.Snapshot, v.Error)
		}
	}
	if damaged == 0 {
		return raw, nil
	}
	return raw, fault.New(fault.Corrupt, "verify: %d of %d snapshots damaged", damaged, len(list)).
		WithState("the volumes are not concerned").
		WithHint("take a new one with docker snaprestore create; docker snaprestore rm removes a damaged one")
}
