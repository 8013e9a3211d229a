package command

import (
	"errors"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// A shell is offered snapshots, operations, projects, containers and volumes,
// each once, and not what is there already.
func TestCompletion(t *testing.T) {
	engine := &fakeEngine{
		volumes: []restore.Volume{{Name: "shop_db"}, {Name: "shop_cache"}},
		containers: []restore.Container{
			{Name: "shop-db-1", Labels: map[string]string{projectLabel: "shop", serviceLabel: "db"}},
			{Name: "shop-web-1", Labels: map[string]string{projectLabel: "shop", serviceLabel: "web"}},
			{Name: "alone"},
		},
	}
	unnamed := safetySnapshot()
	unnamed.Name = ""
	snapshots := []snapshot.Snapshot{shopSnapshot(), unnamed}
	for _, c := range []struct {
		line   string
		result any
		want   string
	}{
		{"create ", nil, "shop_db shop_cache"},
		{"create shop_db ", nil, "shop_cache"},
		{"create --project ", nil, "shop"},
		{"create --container ", nil, "shop-db-1 shop-web-1 alone"},
		{"create --consistency ", nil, "pause stop live"},
		{"create --engine ", nil, "auto btrfs reflink pack archive"},
		{"create --progress ", nil, "auto tty plain json quiet"},
		{"restore ", snapshots, "latest before-upgrade " + safetyID},
		{"restore latest ", snapshots, "shop_db shop_cache"},
		{"restore latest --confirm ", snapshots, snapshotID + " " + safetyID},
		{"drill ", snapshots, "latest before-upgrade " + safetyID},
		{"drill latest shop_db ", snapshots, "shop_cache"},
		{"drill latest --start --service ", snapshots, "db web"},
		{"drill latest --format ", snapshots, "json"},
		{"inspect before-upgrade ", snapshots, "latest " + safetyID},
		{"export latest ", snapshots, ""},
		{"ls ", nil, ""},
		{"ls -p ", nil, "shop"},
		{"undo ", operations()[:2], operationID + " b2c3d4e5f6a7"},
		{"undo x ", operations()[:2], ""},
		{"status ", operations()[:1], operationID},
		{"verify ", []snapshot.Snapshot{}, ""},
	} {
		t.Run(c.line, func(t *testing.T) {
			args := append([]string{"__completeNoDesc"}, strings.Split(c.line, " ")...)
			o := execute(t, &fakeAgent{result: c.result}, engine, terminal{}, args...)
			assert.NilError(t, o.err)
			words := strings.Fields(o.stdout)
			assert.Equal(t, words[len(words)-1], ":4", "files are not what is asked for")
			assert.Equal(t, strings.Join(words[:len(words)-1], " "), c.want)
		})
	}
}

// An engine that is down offers nothing, and says nothing.
func TestCompletionWithoutAnEngine(t *testing.T) {
	down := errors.New("engine is down")
	for _, line := range []string{"create ", "create -p ", "restore ", "undo ", "restore latest "} {
		args := append([]string{"__completeNoDesc"}, strings.Split(line, " ")...)
		o := execute(t, &fakeAgent{err: down}, &fakeEngine{err: down}, terminal{}, args...)
		assert.NilError(t, o.err)
		assert.Equal(t, strings.TrimSpace(o.stdout), ":4", line)
		assert.Assert(t, !strings.Contains(o.stderr, "down"), o.stderr)
	}
}
