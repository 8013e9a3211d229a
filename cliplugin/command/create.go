package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	cliflags "github.com/docker/cli/cli/flags"
	"github.com/docker/cli/opts"
	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/cliplugin/progress"
	"github.com/snaprestore/snaprestore/cliplugin/project"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

type createOptions struct {
	project     string
	files       []string
	containers  []string
	name        string
	labels      opts.ListOpts
	consistency consistency
	engine      string
	stopTimeout grace
	lockTimeout seconds
	bounds      bounds
	format      string
	progress    progress.Mode
}

func newCreateCommand(c *client) *cobra.Command {
	o := createOptions{
		labels:      opts.NewListOpts(opts.ValidateLabel),
		consistency: consistency(snapshot.Pause),
	}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME...]",
		Short: "Take a snapshot of volumes",
		Long: "Take a snapshot of the volumes named, of all volumes of the containers named, or\n" +
			"of a whole Compose project. With nothing named it is the project of the current\n" +
			"directory, found as docker compose finds it: COMPOSE_PROJECT_NAME, .env,\n" +
			"COMPOSE_FILE, name:, parent directories. Prints the id of the snapshot.",
		Example: `  docker snaprestore create --name before-upgrade
  docker snaprestore create -p shop --consistency stop
  docker snaprestore create pgdata uploads`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(c, o.progress, func(d progress.Display) (any, error) {
				return runCreate(cmd.Context(), c, &o, args, d)
			})
		},
		ValidArgsFunction: completeVolumes(c),
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.project, "project", "p", "", "Compose project to take a snapshot of")
	flags.StringArrayVarP(&o.files, "file", "f", nil, "Compose file that names the project (with nothing else named)")
	flags.StringArrayVar(&o.containers, "container", nil, "Take all volumes of this container (repeatable)")
	flags.StringVar(&o.name, "name", "", "Name for the snapshot")
	flags.Var(&o.labels, "label", "Set a label on the snapshot (repeatable)")
	flags.Var(&o.consistency, "consistency", "What the containers do meanwhile (pause|stop|live)")
	flags.StringVar(&o.engine, "engine", copyengine.Auto, "How volumes are stored (auto|btrfs|reflink|pack|archive)")
	flags.Var(&o.stopTimeout, "stop-timeout", "Seconds before a container that does not stop is killed (default: its own)")
	o.bounds.flags(flags)
	flags.Var(&o.lockTimeout, "lock-timeout", "How long to wait for another operation (default: not at all)")
	flags.StringVar(&o.format, "format", "", cliflags.InspectFormatHelp)
	progress.Flag(cmd, &o.progress)
	complete(cmd, "format", cobra.NoFileCompletions)
	complete(cmd, "project", completeProjects(c))
	complete(cmd, "container", completeContainers(c))
	complete(cmd, "consistency", cobra.FixedCompletions(consistencies, cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "engine", cobra.FixedCompletions(engines, cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "name", cobra.NoFileCompletions)
	complete(cmd, "label", cobra.NoFileCompletions)
	return cmd
}

func runCreate(ctx context.Context, c *client, o *createOptions, volumes []string, d progress.Display) (any, error) {
	if len(o.files) > 0 && (o.project != "" || len(volumes) > 0 || len(o.containers) > 0) {
		return nil, fault.New(fault.Failed, "create: --file only tells the project where nothing else is named").
			WithState("nothing was changed").WithHint("docker snaprestore create --file %s", o.files[0])
	}
	if o.project == "" && len(volumes) == 0 && len(o.containers) == 0 {
		name, err := project.Find(ctx, o.files...)
		if errors.Is(err, project.ErrNone) {
			return nil, fault.New(fault.NotFound, "create: nothing named, and %w", err).WithState("nothing was changed").
				WithHint("docker snaprestore create -p PROJECT, or name volumes; docker compose ls lists projects")
		}
		if err != nil {
			return nil, unreadable(err)
		}
		o.project = name
	}
	r := agent.Request{Verb: agent.Create, Operation: journal.NewID(), Create: &plan.Create{
		Project:     o.project,
		Volumes:     volumes,
		Containers:  o.containers,
		Name:        o.name,
		Labels:      opts.ConvertKVStringsToMap(o.labels.GetSlice()),
		Consistency: snapshot.Consistency(o.consistency),
		Engine:      o.engine,
		StopTimeout: o.stopTimeout.value,
		LockTimeout: duration(o.lockTimeout),
		LimitRate:   int64(o.bounds.rate),
		Jobs:        int(o.bounds.jobs),
	}}
	raw, err := watch[json.RawMessage](ctx, c, r, d, agent.Handlers{})
	if err != nil {
		return nil, err
	}
	return printCreated(c, o.format, raw, d)
}

// printCreated prints a new snapshot: its id, or as the format says.
func printCreated(c *client, format string, raw json.RawMessage, d progress.Display) (any, error) {
	var s snapshot.Snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read the agent's result: %w", err)
	}
	noteCreated(d, &s, c.now().UTC())
	if format != "" {
		return raw, formatValue(c, format, raw, s, "snapshot "+s.ID+" was made")
	}
	fmt.Fprintln(c.Out(), s.ID)
	return raw, nil
}

// noteCreated says what the snapshot has and lacks, and what it cost.
func noteCreated(d progress.Display, s *snapshot.Snapshot, now time.Time) {
	for _, k := range s.Skipped {
		d.Event(event.Event{Type: event.Skipped, Time: now, Volume: k.What, Message: k.Reason})
	}
	if s.Kind == snapshot.Made { // an archive is stored in one way
		for _, line := range output.Engines(s) {
			d.Note("%s", line)
		}
	}
	d.Note("%s", output.Made(s))
}

// engines are offered for --engine; the agent knows which it has.
var engines = []string{copyengine.Auto, "btrfs", "reflink", "pack", "archive"}

// consistency is the option of that name.
type consistency snapshot.Consistency

var consistencies = []string{string(snapshot.Pause), string(snapshot.Stop), string(snapshot.Live)}

func (v *consistency) String() string { return string(*v) }
func (v *consistency) Type() string   { return "string" }
func (v *consistency) Set(text string) error {
	for _, known := range consistencies {
		if text == known {
			*v = consistency(text)
			return nil
		}
	}
	return fmt.Errorf("must be pause, stop or live")
}
