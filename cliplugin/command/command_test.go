package command

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	docker "github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/streams"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/driver"
	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC
	os.Exit(m.Run())
}

// noon is when all tests run.
var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// declined is what an agent says of a plan that was not confirmed.
var declined = fault.New(fault.Declined, "restore: not confirmed").WithState("nothing was changed")

// fakeAgent answers requests as an agent would, and keeps the last one.
type fakeAgent struct {
	result   any
	err      error
	events   []event.Event
	plan     *plan.Plan // sent before the result to a request that asks
	archive  string     // sent by an export
	requests []agent.Request
	answers  []bool // what was answered to the plan
	read     string // what an import got
}

func (f *fakeAgent) Do(_ context.Context, r agent.Request, h agent.Handlers) (json.RawMessage, error) {
	f.requests = append(f.requests, r)
	for _, e := range f.events {
		h.Event(e)
	}
	if f.plan != nil && r.Ask {
		yes, err := h.Confirm(*f.plan)
		f.answers = append(f.answers, yes)
		if err != nil {
			return nil, err
		}
		if !yes {
			return nil, declined
		}
	}
	if h.Out != nil {
		if _, err := io.WriteString(h.Out, f.archive); err != nil {
			return nil, err
		}
	}
	if h.In != nil {
		data, err := io.ReadAll(h.In)
		if err != nil {
			return nil, err
		}
		f.read = string(data)
	}
	if f.err != nil {
		return nil, f.err
	}
	return json.Marshal(f.result)
}

// fakeEngine knows what completion asks for.
type fakeEngine struct {
	containers []restore.Container
	volumes    []restore.Volume
	plugin     *engineapi.Plugin
	err        error
}

func (f *fakeEngine) Containers(context.Context) ([]restore.Container, error) {
	return f.containers, f.err
}
func (f *fakeEngine) Volumes(context.Context) ([]restore.Volume, error) { return f.volumes, f.err }

// terminal is what a test's user types, and whether there is a terminal.
type terminal struct {
	in  string
	tty bool
}

// outcomeOf is what a run of the command gave.
type outcomeOf struct {
	stdout, stderr string
	err            error
}

// execute runs the command line against an agent.
func execute(t *testing.T, a Agent, e Engine, term terminal, args ...string) outcomeOf {
	t.Helper()
	var stdout, stderr bytes.Buffer
	in := streams.NewIn(io.NopCloser(strings.NewReader(term.in)))
	out, errs := streams.NewOut(&stdout), streams.NewOut(&stderr)
	in.SetIsTerminal(term.tty)
	errs.SetIsTerminal(term.tty)
	out.SetIsTerminal(term.tty)
	cli, err := docker.NewDockerCli(docker.WithInputStream(in), docker.WithOutputStream(&stdout), docker.WithErrorStream(&stderr))
	assert.NilError(t, err)
	cli.SetIn(in)
	d, _ := e.(driver.Engine)
	root := newRoot(&client{
		Cli:     streamsCLI{cli, in, out, errs},
		connect: func() (Connection, error) { return Connection{Agent: a, Engine: e, Driver: d}, nil },
		now:     func() time.Time { return noon },
	})
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return outcomeOf{stdout: stdout.String(), stderr: stderr.String(), err: err}
}

// streamsCLI is a docker CLI with the test's streams.
type streamsCLI struct {
	*docker.DockerCli
	in       *streams.In
	out, err *streams.Out
}

func (c streamsCLI) In() *streams.In   { return c.in }
func (c streamsCLI) Out() *streams.Out { return c.out }
func (c streamsCLI) Err() *streams.Out { return c.err }

// goldens compares what was printed with testdata; a stream that has no file
// must be empty.
func goldens(t *testing.T, o outcomeOf, name string) {
	t.Helper()
	for stream, text := range map[string]string{"stdout": o.stdout, "stderr": o.stderr} {
		file := name + "." + stream + ".golden"
		if _, err := os.Stat(filepath.Join("testdata", file)); err != nil && !golden.FlagUpdate() {
			assert.Equal(t, text, "", stream)
			continue
		}
		if golden.FlagUpdate() && text == "" {
			assert.NilError(t, os.RemoveAll(filepath.Join("testdata", file)))
			continue
		}
		golden.Assert(t, text, file)
	}
}
