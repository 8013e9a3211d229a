package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/streams"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/output"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

var person = terminal{tty: true}

// events are those of a restore, in brief.
func events() []event.Event {
	at := func(d time.Duration, e event.Event) event.Event { e.Time = noon.Add(d); return e }
	return []event.Event{
		at(0, event.Event{Type: event.Started, Verb: "restore"}),
		at(0, event.Event{Type: event.Phase, Phase: "stage"}),
		at(0, event.Event{Type: event.Progress, Volume: "shop_db", TotalBytes: 200, TotalFiles: 2}),
		at(time.Second, event.Event{Type: event.Progress, Volume: "shop_db", Bytes: 100, Files: 1, TotalBytes: 200, TotalFiles: 2}),
		at(2*time.Second, event.Event{Type: event.Progress, Volume: "shop_db", Bytes: 200, Files: 2, TotalBytes: 200, TotalFiles: 2, Done: true}),
		at(2*time.Second, event.Event{Type: event.Phase, Phase: "stop"}),
		at(2*time.Second, event.Event{Type: event.Container, Container: "shop-db-1", Status: "stopping"}),
		at(3*time.Second, event.Event{Type: event.Container, Container: "shop-db-1", Status: "stopped"}),
	}
}

// Every verb prints what its golden files say and ends with its status.
func TestVerbs(t *testing.T) {
	list := []snapshot.Snapshot{safetySnapshot(), shopSnapshot()}
	for _, c := range []struct {
		name  string
		args  string
		agent fakeAgent
		term  terminal
		exit  int
	}{
		{name: "create", args: "create -p shop", agent: fakeAgent{result: shopSnapshot(), events: []event.Event{
			{Type: event.Skipped, Volume: "/run of shop-db-1", Message: "a tmpfs lives in memory only"},
		}}},
		{name: "create-quiet", args: "create -p shop --progress quiet", agent: fakeAgent{result: shopSnapshot()}},
		{name: "create-template", args: "create -p shop --progress quiet --format {{.ID}}:{{.Project}}", agent: fakeAgent{result: shopSnapshot()}},
		{name: "create-json", args: "create -p shop --progress quiet --format json", agent: fakeAgent{result: shopSnapshot()}},
		{name: "create-missing-field", args: "create -p shop --progress quiet --format {{.Nope}}", exit: 1, agent: fakeAgent{result: shopSnapshot()}},
		{name: "create-locked", args: "create -p shop", exit: 11, agent: fakeAgent{err: fault.New(fault.Locked,
			"create: project shop is held by restore %s, begun 12s ago", operationID).
			WithState("nothing was changed").WithHint("docker snaprestore status %s, or wait with --lock-timeout", operationID)}},
		{name: "create-bad-consistency", args: "create -p shop --consistency freeze", exit: 1},
		{name: "create-bad-limit-rate", args: "create -p shop --limit-rate none", exit: 1},
		{name: "create-bad-jobs", args: "create -p shop --jobs 0", exit: 1},
		{name: "create-bad-label", args: "create -p shop --stop-timeout soon", exit: 1},
		{name: "create-file-and-project", args: "create -f compose.yaml -p shop", exit: 1},
		{name: "adopt", args: "adopt shop_db shop_files", agent: fakeAgent{result: []plan.Adopted{
			{Operation: operationID, Volume: "shop_db", From: "local", To: "snaprestore:latest", Project: "shop", Key: "db"},
			{Operation: operationID, Volume: "shop_files", From: "local", To: "snaprestore:latest", Project: "shop", Key: "files"},
		}}},
		{name: "adopt-nothing", args: "adopt", exit: 1},
		{name: "ls", args: "ls", agent: fakeAgent{result: list}},
		{name: "ls-no-trunc", args: "ls --no-trunc", agent: fakeAgent{result: list}},
		{name: "ls-quiet", args: "ls -q", agent: fakeAgent{result: list}},
		{name: "ls-empty", args: "ls", agent: fakeAgent{result: []snapshot.Snapshot{}}},
		{name: "ls-json", args: "ls --format json", agent: fakeAgent{result: list}},
		{name: "ls-table", args: `ls --format table\ {{.ID}}\t{{.Kind}}\t{{.Labels}}`, agent: fakeAgent{result: list}},
		{name: "ls-template", args: `ls --format {{.Name}}:{{.Label\ "tier"}}`, agent: fakeAgent{result: list}},
		{name: "ls-bad-template", args: `ls --format {{.Nope}}`, agent: fakeAgent{result: list}, exit: 1},
		{name: "ls-argument", args: "ls shop", exit: 1},
		{name: "inspect", args: "inspect before-upgrade", agent: fakeAgent{result: list[1:]}},
		{name: "inspect-template", args: "inspect --format {{.ID}}\\ {{len\\ .Volumes}} 4f2a 9c8b", agent: fakeAgent{result: list}},
		{name: "inspect-nothing", args: "inspect", exit: 1},
		{name: "inspect-unknown", args: "inspect nope", exit: 10, agent: fakeAgent{err: fault.New(fault.NotFound, "inspect: no snapshot %q", "nope").WithHint("docker snaprestore ls")}},
		{name: "rm", args: "rm 4f2a 9c8b", agent: fakeAgent{result: []string{snapshotID, safetyID}}},
		{name: "restore-yes", args: "restore before-upgrade", term: terminal{in: "y\n", tty: true}, agent: fakeAgent{plan: restorePlan(), result: restored()}},
		{name: "restore-no", args: "restore before-upgrade", term: terminal{in: "\n", tty: true}, exit: 2, agent: fakeAgent{plan: restorePlan(), result: restored()}},
		{name: "restore-no-terminal", args: "restore before-upgrade", exit: 2, agent: fakeAgent{plan: restorePlan(), result: restored()}},
		{name: "restore-force", args: "restore -f before-upgrade", agent: fakeAgent{plan: restorePlan(), result: restored(), events: events()}},
		{name: "restore-confirm", args: "restore 4f2a --confirm 4f2a91c07d3e --progress quiet", agent: fakeAgent{plan: restorePlan(), result: restored()}},
		{name: "restore-no-start", args: "restore -f --no-start before-upgrade", agent: fakeAgent{plan: restorePlan(), result: func() plan.Restored { r := restored(); r.Started, r.Downtime = nil, 0; return r }()}},
		{name: "restore-idle", args: "restore -f before-upgrade --progress quiet", agent: fakeAgent{plan: restorePlan(), result: func() plan.Restored { r := restored(); r.Started, r.Downtime = nil, 0; return r }()}},
		{name: "restore-dry-run", args: "restore --dry-run before-upgrade", agent: fakeAgent{result: restorePlan()}},
		{name: "restore-dry-run-template", args: "restore --dry-run before-upgrade --format {{.Project}}\\ {{len\\ .Volumes}}", agent: fakeAgent{result: restorePlan()}},
		{name: "restore-unhealthy", args: "restore -f before-upgrade --progress quiet", exit: 14, agent: fakeAgent{plan: restorePlan(), result: func() plan.Restored { r := restored(); r.Result = journal.ResultNotStarted; return r }()}},
		{name: "restore-unhealthy-missing-field", args: "restore -f before-upgrade --progress quiet --format {{.Nope}}", exit: 14, agent: fakeAgent{plan: restorePlan(), result: func() plan.Restored { r := restored(); r.Result = journal.ResultNotStarted; return r }()}},
		{name: "restore-bad-timeout", args: "restore -t never before-upgrade", exit: 1},
		{name: "undo-yes", args: "undo", term: terminal{in: "yes\n", tty: true}, agent: fakeAgent{plan: undoPlan(), result: undone()}},
		{name: "undo-no-terminal", args: "undo", exit: 2, agent: fakeAgent{plan: undoPlan()}},
		{name: "undo-dry-run", args: "undo --dry-run b2c3", agent: fakeAgent{result: undoPlan()}},
		{name: "status", args: "status", agent: fakeAgent{result: operations()}},
		{name: "status-one", args: "status c3d4", agent: fakeAgent{result: operations()[2:3]}},
		{name: "status-json", args: "status --format json", agent: fakeAgent{result: operations()[2:]}},
		{name: "status-quiet", args: "status -q", agent: fakeAgent{result: operations()[2:]}},
		{name: "recover", args: "recover", agent: fakeAgent{result: plan.Recovered{Operations: []plan.RecoveredOperation{
			{Operation: operationID, Kind: journal.Restore, Was: journal.Committed, Result: journal.ResultDone},
			{Operation: "b2c3d4e5f6a7", Kind: journal.Restore, Was: journal.Staging, Result: journal.ResultRolledBack},
		}}}},
		{name: "recover-nothing", args: "recover", agent: fakeAgent{result: plan.Recovered{}}},
		{name: "recover-not-started", args: "recover", exit: 14, agent: fakeAgent{result: plan.Recovered{Operations: []plan.RecoveredOperation{
			{Operation: operationID, Kind: journal.Restore, Was: journal.Committed, Result: journal.ResultNotStarted, Error: "shop-db-1: port is taken"},
		}}}},
		{name: "recover-in-doubt", args: "recover", exit: 75, agent: fakeAgent{result: plan.Recovered{Operations: []plan.RecoveredOperation{
			{Operation: "b2c3d4e5f6a7", Kind: journal.Restore, Was: journal.Committed, Result: journal.ResultNotStarted, Error: "no"},
			{Operation: operationID, Kind: journal.Restore, Was: journal.Prepared, Error: "rename: input/output error"},
		}}}},
		{name: "recover-in-doubt-missing-field", args: "recover --format {{.Nope}}", exit: 75, agent: fakeAgent{result: plan.Recovered{Operations: []plan.RecoveredOperation{
			{Operation: operationID, Kind: journal.Restore, Was: journal.Prepared, Error: "rename: input/output error"},
		}}}},
		{name: "export-terminal", args: "export before-upgrade", term: person, exit: 1},
		{name: "export-stdout", args: "export before-upgrade -o -", agent: fakeAgent{result: shopSnapshot(), archive: "ARCHIVE\n"}},
		{name: "import-terminal", args: "import -", term: person, exit: 1},
		{name: "import-directory", args: "import testdata", exit: 1},
		{name: "import-missing", args: "import testdata/no-such-file", exit: 10},
		{name: "import-stdin", args: "import - --name mine", term: terminal{in: "ARCHIVE"}, agent: fakeAgent{result: func() snapshot.Snapshot { s := shopSnapshot(); s.Kind, s.Pause = snapshot.Imported, 0; return s }()}},
		{name: "verify", args: "verify", agent: fakeAgent{result: []plan.Verified{
			{Snapshot: snapshotID, Name: "before-upgrade", Result: "ok", Bytes: 41_900_000},
		}}},
		{name: "verify-damaged", args: "verify 4f2a 9c8b", exit: 15, agent: fakeAgent{result: []plan.Verified{
			{Snapshot: snapshotID, Name: "before-upgrade", Result: "ok", Bytes: 41_900_000},
			{Snapshot: safetyID, Result: "damaged", Error: "0.tar.zst: checksum differs"},
		}}},
		{name: "drill", args: "drill before-upgrade", agent: fakeAgent{result: drilled(false, false)}},
		{name: "drill-start", args: "drill --start before-upgrade", agent: fakeAgent{result: drilled(true, false), events: drillEvents()}},
		{name: "drill-keep", args: "drill --start --keep before-upgrade --progress quiet", agent: fakeAgent{result: drilled(true, true)}},
		{name: "drill-quiet", args: "drill -q before-upgrade", agent: fakeAgent{result: drilled(false, false)}},
		{name: "drill-json", args: "drill --format json before-upgrade", agent: fakeAgent{result: drilled(true, false)}},
		{name: "drill-template", args: "drill --format {{.Snapshot}}:\\ {{len\\ .Volumes}} before-upgrade", agent: fakeAgent{result: drilled(true, false)}},
		{name: "drill-damaged", args: "drill before-upgrade", exit: 15, agent: fakeAgent{err: fault.New(fault.Corrupt, "drill: restore volume shop_db: checksum differs").
			WithState("nothing of the workload was touched; what the drill made was removed again").WithHint("docker snaprestore verify %s", snapshotID)}},
		{name: "drill-unhealthy", args: "drill --start before-upgrade", exit: 14, agent: fakeAgent{err: fault.New(fault.NotStarted, "drill: a container like shop-db-1 is unhealthy").
			WithState("nothing of the workload was touched; what the drill made was removed again").WithHint("docker snaprestore drill --start --keep %s", snapshotID)}},
		{name: "drill-service-alone", args: "drill --service db before-upgrade", exit: 1},
		{name: "drill-nothing", args: "drill", exit: 1},
		{name: "inspect-drilled", args: "inspect before-upgrade --format {{.Drilled.Started}}\\ {{.Name}}", agent: fakeAgent{result: []plan.Inspected{
			{Snapshot: shopSnapshot(), Drilled: &plan.LastDrill{Operation: operationID, Time: noon, Started: true}}}}},
		{name: "doctor-engine-down", args: "doctor --format {{.Name}}:\\ {{.Status}}:\\ {{.Hint}}", exit: 1, agent: fakeAgent{err: fault.New(fault.Failed, "no engine").WithHint("start it")}},
		{name: "doctor", args: "doctor --format {{.Name}}:\\ {{.Status}}", agent: fakeAgent{result: []plan.Check{
			{Name: "engine", Status: "ok", Detail: "28.5.2"}, {Name: "barriers", Status: "warning", Detail: "nobarrier", Hint: "mount without nobarrier"},
		}}},
		{name: "unknown-verb", args: "resurrect", exit: 1},
		{name: "unknown-flag", args: "ls --nope", exit: 1},
		{name: "bad-progress", args: "create -p shop --progress loud", exit: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := execute(t, &c.agent, &fakeEngine{}, c.term, words(c.args)...)
			if o.err != nil && !Reported(o.err) {
				o.stderr += output.Error(o.err)
			}
			goldens(t, o, c.name)
			assert.Equal(t, fault.ExitStatus(o.err), c.exit)
		})
	}
}

// With --progress json every line on standard error is one object, the last
// one the result or the error, which is not printed again.
func TestProgressAsJSON(t *testing.T) {
	doubt := fault.New(fault.InDoubt, "restore: commit: input/output error").WithHint("docker snaprestore recover")
	for _, c := range []struct {
		args  string
		agent fakeAgent
		exit  int
		want  []event.Type
	}{
		{"create -p shop", fakeAgent{result: shopSnapshot(), events: events()[:3]}, 0,
			[]event.Type{event.Started, event.Phase, event.Progress, event.Skipped, event.Result}},
		{"restore -f snap", fakeAgent{plan: restorePlan(), result: restored()}, 0,
			[]event.Type{event.Plan, event.Skipped, event.Warning, event.Result}},
		{"restore -f snap", fakeAgent{plan: restorePlan(), err: doubt}, 75,
			[]event.Type{event.Plan, event.Skipped, event.Warning, event.Failed}},
		// A question would be no JSON.
		{"restore snap", fakeAgent{plan: restorePlan(), result: restored()}, 2, []event.Type{event.Failed}},
	} {
		t.Run(c.args, func(t *testing.T) {
			o := execute(t, &c.agent, &fakeEngine{}, terminal{in: "y\n", tty: true}, words(c.args+" --progress json")...)
			assert.Equal(t, fault.ExitStatus(o.err), c.exit)
			assert.Equal(t, Reported(o.err), c.exit != 0)
			var got []event.Type
			for _, line := range strings.Split(strings.TrimSpace(o.stderr), "\n") {
				var e event.Event
				assert.NilError(t, json.Unmarshal([]byte(line), &e), line)
				got = append(got, e.Type)
			}
			assert.DeepEqual(t, got, c.want)
		})
	}
}

// words splits a command line at blanks that no backslash keeps.
func words(line string) (list []string) {
	const kept = "\x00"
	for _, w := range strings.Fields(strings.ReplaceAll(line, `\ `, kept)) {
		list = append(list, strings.ReplaceAll(w, kept, " "))
	}
	return list
}

// A verb asks for what its options say.
func TestRequests(t *testing.T) {
	twenty := 20
	for _, c := range []struct {
		args string
		want agent.Request
	}{
		{"create --name n --label a=b --label c --consistency stop --engine pack --stop-timeout 20 --lock-timeout 1m --limit-rate 50MB/s --jobs 2 v1 v2", agent.Request{Verb: agent.Create, Create: &plan.Create{
			Volumes: []string{"v1", "v2"}, Name: "n", Labels: map[string]string{"a": "b", "c": ""},
			Consistency: snapshot.Stop, Engine: "pack", StopTimeout: &twenty, LockTimeout: time.Minute, LimitRate: 50_000_000, Jobs: 2}}},
		{"create --container c1 --container c2 -p shop", agent.Request{Verb: agent.Create, Create: &plan.Create{
			Project: "shop", Volumes: []string{}, Containers: []string{"c1", "c2"}, Consistency: snapshot.Pause, Engine: "auto", Labels: map[string]string{}}}},
		{"drill -p shop --start --service db --service web --keep --timeout 90 --steady 2s --lock-timeout 1m latest v1", agent.Request{Verb: agent.Drill, Drill: &plan.DrillRequest{
			Snapshot: "latest", Volumes: []string{"v1"}, Project: "shop", Start: true, Services: []string{"db", "web"}, Keep: true,
			Timeout: 90 * time.Second, Steady: 2 * time.Second, LockTimeout: time.Minute}}},
		{"ls -p shop", agent.Request{Verb: agent.List, Project: "shop"}},
		{"inspect -p shop latest~2", agent.Request{Verb: agent.Inspect, References: []string{"latest~2"}, Project: "shop"}},
		{"rm a b", agent.Request{Verb: agent.Remove, References: []string{"a", "b"}}},
		{"restore -f snap vol -p shop --no-start --rollback -t 90 --stop-timeout 20 --lock-timeout 5s --limit-rate 1.5GB --jobs 1", agent.Request{Verb: agent.Restore, Ask: true, Restore: &plan.RestoreRequest{
			Snapshot: "snap", Volumes: []string{"vol"}, Project: "shop", NoStart: true, Rollback: true,
			Timeout: 90 * time.Second, StopTimeout: &twenty, LockTimeout: 5 * time.Second, LimitRate: 1_500_000_000, Jobs: 1}}},
		{"restore snap --confirm 4f2a91c07d3e", agent.Request{Verb: agent.Restore, Ask: true, Confirm: snapshotID, Restore: &plan.RestoreRequest{
			Snapshot: "snap", Volumes: []string{}, Timeout: healthTimeout}}},
		{"restore --dry-run snap", agent.Request{Verb: agent.Restore, DryRun: true, Restore: &plan.RestoreRequest{
			Snapshot: "snap", Volumes: []string{}, Timeout: healthTimeout}}},
		{"undo -f op -t 2m", agent.Request{Verb: agent.Undo, Ask: true, Undo: &plan.UndoRequest{Operation: "op", Timeout: 2 * time.Minute}}},
		{"undo -f -p shop", agent.Request{Verb: agent.Undo, Ask: true, Undo: &plan.UndoRequest{Project: "shop", Timeout: healthTimeout}}},
		{"status op", agent.Request{Verb: agent.Status, References: []string{"op"}}},
		{"recover op", agent.Request{Verb: agent.Recover, References: []string{"op"}}},
		{"export --gzip -p shop latest -o -", agent.Request{Verb: agent.Export, References: []string{"latest"}, Project: "shop", Gzip: true}},
		{"import --name n -", agent.Request{Verb: agent.Import, Name: "n"}},
		{"verify -p shop a", agent.Request{Verb: agent.Verify, References: []string{"a"}, Project: "shop"}},
		{"doctor", agent.Request{Verb: agent.Doctor}},
	} {
		t.Run(c.args, func(t *testing.T) {
			a := &fakeAgent{err: errors.New("only asked")}
			execute(t, a, &fakeEngine{}, terminal{}, words(c.args)...)
			assert.Equal(t, len(a.requests), 1)
			got := a.requests[0]
			switch got.Verb {
			case agent.Create, agent.Restore, agent.Undo, agent.Remove, agent.Import, agent.Drill:
				assert.Assert(t, journal.ValidID(got.Operation), "operation %q", got.Operation)
				got.Operation = ""
			}
			assert.DeepEqual(t, got, c.want)
		})
	}
}

// A --format that is no template is refused by every verb before it asks for
// anything.
func TestAFormatThatIsNoTemplateStopsEverything(t *testing.T) {
	for _, line := range []string{"create -p shop", "ls", "inspect a", "restore -f a", "restore --dry-run a", "undo -f", "status", "recover",
		"import testdata/ls.stdout.golden", "verify", "drill a", "doctor", "version"} {
		for _, format := range []string{"{{.ID", "table {{", "{{nope .ID}}"} {
			a := &fakeAgent{plan: restorePlan(), result: restored()}
			o := execute(t, a, &fakeEngine{}, terminal{}, append(words(line), "--format", format)...)
			f := fault.From(o.err)
			assert.Assert(t, f != nil && f.Kind == fault.Failed && f.State == "nothing was changed" && f.Hint != "", "%s --format %q: %+v", line, format, f)
			assert.Equal(t, len(a.requests), 0, line)
			assert.Equal(t, o.stdout, "", line)
		}
	}
}

// What is wrong with a command line or with files of this machine is said with
// the state of the data and with what to do.
func TestWhatIsWrongHereIsSaidWithStateAndHint(t *testing.T) {
	t.Chdir(t.TempDir())
	assert.NilError(t, os.WriteFile("compose.yaml", []byte("name: [1"), 0o600))
	for _, c := range []struct {
		args string
		tty  bool
	}{
		{args: "create"}, {args: "create -f compose.yaml -p shop"}, {args: "create -f nowhere.yaml"},
		{args: "restore -f latest"}, {args: "restore a"}, {args: "undo -f"}, {args: "undo"}, {args: "rm latest"},
		{args: "export a", tty: true}, {args: "export a -o ."}, {args: "export a -o nowhere/file"},
		{args: "import -", tty: true}, {args: "import ."}, {args: "import nowhere"},
		{args: "drill --service db a"}, {args: "uninstall --purge"},
	} {
		a := &fakeAgent{plan: restorePlan(), result: restored()}
		o := execute(t, a, &fakeEngine{}, terminal{tty: c.tty}, words(c.args)...)
		f := fault.From(o.err)
		assert.Assert(t, f != nil && f.State != "" && f.Hint != "" && !strings.Contains(f.Error(), "\n"), "%s: %+v", c.args, f)
		assert.Equal(t, len(a.requests), 0, c.args)
	}
}

// Without a terminal and without --force or --confirm, the agent is not even
// asked.
func TestUnconfirmedRestoreReachesNoAgent(t *testing.T) {
	for _, args := range [][]string{{"restore", "snap"}, {"undo"}} {
		a := &fakeAgent{plan: restorePlan(), result: restored()}
		o := execute(t, a, &fakeEngine{}, terminal{in: "y\n"}, args...)
		assert.Assert(t, fault.Is(o.err, fault.Declined))
		assert.Equal(t, len(a.requests), 0)
	}
}

// An empty --confirm, as of a variable that is not set, allows nothing: not
// even with --force.
func TestEmptyConfirmAllowsNothing(t *testing.T) {
	a := &fakeAgent{plan: restorePlan(), result: restored()}
	o := execute(t, a, &fakeEngine{}, terminal{in: "y\n", tty: true}, "restore", "snap", "--force", "--confirm", "")
	assert.Assert(t, fault.Is(o.err, fault.Declined))
	assert.Equal(t, len(a.requests), 0)
}

// Who interrupts at the question has said no.
func TestInterruptAtTheQuestion(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, held := io.Pipe() // nobody types
	defer held.Close()
	var stderr bytes.Buffer
	c := &client{Cli: streamsCLI{in: streams.NewIn(in), err: streams.NewOut(&stderr)}}
	cancel()
	yes, err := prompt(ctx, c)
	assert.Assert(t, !yes)
	assert.Assert(t, fault.Is(err, fault.Declined))
	assert.Equal(t, stderr.String(), "Go ahead? [y/N] \n")
}

// Only y and yes carry a plan out.
func TestOnlyYesIsYes(t *testing.T) {
	for answer, want := range map[string]bool{"y\n": true, "Y\n": true, "yes\n": true, "n\n": false, "": false, "\n": false, "yep\n": false, "y": true} {
		a := &fakeAgent{plan: restorePlan(), result: restored()}
		execute(t, a, &fakeEngine{}, terminal{in: answer, tty: true}, "restore", "snap")
		assert.DeepEqual(t, a.answers, []bool{want})
	}
}

// An export that fails leaves the file that was there, and nothing else.
func TestFailedExportKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "shop.tar")
	assert.NilError(t, os.WriteFile(file, []byte("old"), 0o644))
	a := &fakeAgent{archive: "half an arch", err: fault.New(fault.Corrupt, "export: damaged")}
	o := execute(t, a, &fakeEngine{}, terminal{}, "export", "snap", "-o", file)
	assert.Assert(t, fault.Is(o.err, fault.Corrupt))
	assertFiles(t, dir, map[string]string{"shop.tar": "old"})
}

// An export replaces the file whole, readable by its owner only; a link stays
// a link.
func TestExportReplacesTheFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "shop.tar"), filepath.Join(dir, "link.tar")
	assert.NilError(t, os.WriteFile(file, []byte("old"), 0o644))
	assert.NilError(t, os.Symlink("shop.tar", link))
	a := &fakeAgent{archive: "new", result: shopSnapshot()}
	o := execute(t, a, &fakeEngine{}, terminal{}, "export", "snap", "-o", link)
	assert.NilError(t, o.err)
	assertFiles(t, dir, map[string]string{"shop.tar": "new", "link.tar": "new"})
	info, err := os.Lstat(file)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode(), os.FileMode(0o600))
	info, err = os.Lstat(link)
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Type(), os.ModeSymlink)
}

// A device is written to, not replaced.
func TestExportToADevice(t *testing.T) {
	o := execute(t, &fakeAgent{archive: "new", result: shopSnapshot()}, &fakeEngine{}, terminal{}, "export", "snap", "-o", os.DevNull)
	assert.NilError(t, o.err)
	info, err := os.Stat(os.DevNull)
	assert.NilError(t, err)
	assert.Assert(t, info.Mode()&os.ModeDevice != 0)
}

func assertFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	assert.NilError(t, err)
	got := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		assert.NilError(t, err)
		got[e.Name()] = string(data)
	}
	assert.DeepEqual(t, got, want)
}

// An import sends the file's bytes.
func TestImportSendsTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "shop.tar")
	assert.NilError(t, os.WriteFile(file, []byte("archive"), 0o600))
	a := &fakeAgent{result: shopSnapshot()}
	o := execute(t, a, &fakeEngine{}, terminal{}, "import", file)
	assert.NilError(t, o.err)
	assert.Equal(t, a.read, "archive")
	assert.Equal(t, o.stdout, snapshotID+"\n")
}
