package command

import (
	"context"
	"fmt"
	"runtime"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/driver"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Statuses of a check.
const (
	checkOK     = "ok"
	checkFailed = "failed"
)

func newDoctorCommand(c *client) *cobra.Command {
	var o output.Options
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS]",
		Short: "Check that this engine and its file systems can be relied on",
		Long: "Check the way to the engine, the engine, the file systems of its volumes, and what\n" +
			"was left by earlier operations. Changes nothing. Exit status 1 where a check failed.",
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd.Context(), c, o)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	formatFlags(cmd, &o)
	return cmd
}

func runDoctor(ctx context.Context, c *client, o output.Options) error {
	checks := []plan.Check{{
		Name: "client", Status: checkOK,
		Detail: fmt.Sprintf("%s, %s/%s", build.Version, runtime.GOOS, runtime.GOARCH),
	}}
	found, cause := ask[[]plan.Check](ctx, c, agent.Request{Verb: agent.Doctor})
	if cause != nil {
		f := fault.From(cause)
		found = []plan.Check{{Name: "agent", Status: checkFailed, Detail: f.Error(), Hint: f.Hint}}
	}
	checks = append(checks, found...)
	if cause == nil {
		checks = append(checks, checkDriver(ctx, c))
	}
	o.Now = c.now()
	if err := output.Checks(c.Out(), o, checks); err != nil {
		return err
	}
	failed := 0
	for _, check := range checks {
		if check.Status == checkFailed {
			failed++
		}
		if check.Hint != "" && check.Status != checkOK && o.Format == "" {
			fmt.Fprintf(c.Err(), "hint (%s): %s\n", check.Name, check.Hint)
		}
	}
	if failed > 0 {
		return fault.New(fault.Failed, "doctor: %d of %d checks failed", failed, len(checks))
	}
	return nil
}

// checkDriver looks at the volume driver, which an engine may do without.
func checkDriver(ctx context.Context, c *client) plan.Check {
	check := plan.Check{Name: "volume driver"}
	failed := func(err error) plan.Check {
		f := fault.From(err)
		check.Status, check.Detail, check.Hint = checkFailed, f.Error(), f.Hint
		return check
	}
	conn, err := c.connect()
	if err != nil {
		return failed(err)
	}
	host, err := conn.Driver.Host(ctx)
	if err != nil {
		return failed(err)
	}
	program, err := agent.Program(host)
	if err != nil {
		return failed(err)
	}
	check.Status, check.Detail, check.Hint = driver.Check(ctx, conn.Driver, driver.Spec(program, agent.StateRoot(host)))
	return check
}
