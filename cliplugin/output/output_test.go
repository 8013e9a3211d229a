package output

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "0ms",
		340 * time.Millisecond:  "340ms",
		4210 * time.Millisecond: "4.2s",
		12 * time.Second:        "12s",
		3 * time.Minute:         "3m",
		10 * time.Minute:        "10m",
		200 * time.Second:       "3m20s",
		65*time.Minute + 9:      "1h5m",
		2 * time.Hour:           "2h",
		20 * time.Hour:          "20h",
	} {
		assert.Equal(t, Duration(d), want)
	}
}

// An error is one line of message and state, and a line for the hint.
func TestError(t *testing.T) {
	held := fault.New(fault.Locked, "restore: held").WithState("nothing was changed").WithHint("wait")
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("plain"), "plain\n"},
		{held, "restore: held; nothing was changed\nhint: wait\n"},
		{fmt.Errorf("outer: %w", held), "outer: restore: held; nothing was changed\nhint: wait\n"},
		{errors.New("usage\n\n"), "usage\n"},
	} {
		assert.Equal(t, Error(c.err), c.want)
	}
}

// A plan says what becomes of each volume and each container.
func TestPlanSaysWhatHappens(t *testing.T) {
	p := &plan.Plan{
		Kind: journal.Restore, Snapshot: snapshot.Snapshot{ID: "4f2a91c07d3e", Project: "shop", Created: noon.Add(-time.Minute)}, Project: "copy",
		Volumes: []plan.Volume{
			{Name: "same", From: "same", Engine: "archive"},
			{Name: "copy_db", From: "shop_db", Engine: "archive"},
			{Name: "kept", From: "kept", Engine: plan.Rename},
			{Name: "fresh", From: "fresh", Create: &plan.CreateVolume{Name: "fresh"}},
		},
		Containers: []plan.Container{
			{Container: journal.Container{Name: "paused", Running: true, Paused: true}, Image: "i"},
			{Container: journal.Container{Name: "idle"}, Image: "i"},
			{Container: journal.Container{Name: "other", Running: true}, Image: "i", Foreign: true},
		},
	}
	text := func() string {
		var out bytes.Buffer
		Plan(&out, p, noon)
		return out.String()
	}
	started := *p
	p.Start = true
	has(t, text(),
		"Restore snapshot 4f2a91c07d3e of project shop, made about a minute ago, into project copy\n",
		"  same      the snapshot's data ",
		"  copy_db   the data of shop_db ",
		"  kept      the data it had before ",
		"  fresh     created, with the snapshot's data ",
		"  paused      i       stopped, then started and paused again\n",
		"  idle        i       is not running, stays so\n",
		"  other       i       stopped, then started again (not of this project)\n",
	)
	p = &started
	has(t, text(), "  other       i       stopped, not started again (not of this project)\n")
	p.Containers = nil
	has(t, text(), "No container uses these volumes: nothing is stopped.\n")
}

// A new snapshot says what it cost the workload.
func TestMade(t *testing.T) {
	s := snapshot.Snapshot{Volumes: []snapshot.Volume{{Bytes: 2000, Files: 3, Stored: 900}}}
	for _, c := range []struct {
		consistency snapshot.Consistency
		pause       time.Duration
		kind        snapshot.Kind
		want        string
	}{
		{snapshot.Pause, time.Second, snapshot.Made, "; the workload was paused for 1.0s"},
		{snapshot.Stop, time.Second, snapshot.Made, "; the workload was stopped for 1.0s"},
		{snapshot.Live, 0, snapshot.Made, "; taken live, while the workload may have written"},
		{snapshot.Pause, 0, snapshot.Made, "; nothing was running"},
		{"", 0, snapshot.Imported, ""},
	} {
		s.Consistency, s.Pause, s.Kind = c.consistency, c.pause, c.kind
		assert.Equal(t, Made(&s), "snapshot of 1 volume, 2kB in 3 files, 900B stored"+c.want)
	}
}

func TestEnginesAreSaidWithTheirReasons(t *testing.T) {
	s := snapshot.Snapshot{Volumes: []snapshot.Volume{
		{Name: "a", Engine: "pack", Reason: "no reflink: ENOTTY", Brief: "no reflinks"},
		{Name: "b", Engine: "pack", Reason: "no reflink: ENOTTY", Brief: "no reflinks"},
	}}
	assert.DeepEqual(t, Engines(&s), []string{"engine pack: no reflinks"})
	s.Volumes = append(s.Volumes, snapshot.Volume{Name: "c", Engine: "reflink"})
	assert.DeepEqual(t, Engines(&s), []string{"engine pack for a, b: no reflinks", "engine reflink for c"})
}

func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		assert.Assert(t, strings.Contains(text, part), "%q is missing in:\n%s", part, text)
	}
}

// The plan and the end of an adoption that is undone speak of drivers.
func TestTheUndoOfAnAdoptionSpeaksOfDrivers(t *testing.T) {
	var out bytes.Buffer
	Plan(&out, &plan.Plan{
		Kind: journal.Adopt, Undoes: "4f2a91c07d3e", Volumes: []plan.Volume{{Name: "shop_db"}},
		Remake: &journal.Remake{From: journal.Spec{Driver: "snaprestore:latest"}, To: journal.Spec{Driver: "local"}},
	}, noon)
	has(t, out.String(),
		"Undo 4f2a91c07d3e: make volume shop_db again as it was before\n",
		"  VOLUME    DRIVER NOW           DRIVER THEN\n",
		"  shop_db   snaprestore:latest   local\n",
		"Its data goes along as it is now.\n")
	out.Reset()
	Restored(&out, &plan.Restored{Kind: journal.Adopt, Operation: "2b5c8cf48c49", Volumes: []string{"shop_db"}}, false)
	has(t, out.String(), "shop_db\n", "to take it back: docker snaprestore undo 2b5c8cf48c49\n")
}
