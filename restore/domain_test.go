//go:build linux

package restore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// tarEngine is a copy engine for tests of the domain: the tar command.
type tarEngine struct{}

func (tarEngine) Name() string { return "tar" }

func (tarEngine) Able(tree, store *os.Root) error { return nil }

func (tarEngine) Entries(context.Context, *os.Root, copyengine.Content, func(*tree.Entry, io.Reader) error) error {
	return errors.New("the tests export nothing of it")
}

func (tarEngine) Save(ctx context.Context, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	c := copyengine.Content{File: strconv.Itoa(index) + ".tar"}
	out, err := store.Create(c.File)
	if err != nil {
		return c, err
	}
	defer out.Close()
	if err := tar(ctx, tree, "-cf", "-", nil, out); err != nil {
		return c, err
	}
	data, err := store.ReadFile(c.File)
	if err != nil {
		return c, err
	}
	sum := sha256.Sum256(data)
	c.SHA256, c.Bytes, c.Files, c.Stored = hex.EncodeToString(sum[:]), 1, 1, int64(len(data))
	p(1, 1)
	return c, nil
}

func (tarEngine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	data, err := store.ReadFile(c.File)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.SHA256 {
		return fault.New(fault.Corrupt, "read %s: checksum differs", c.File)
	}
	return nil
}

func (e tarEngine) Load(ctx context.Context, store *os.Root, c copyengine.Content, tree *os.Root, p copyengine.Progress) error {
	if err := e.Verify(ctx, store, c, p); err != nil {
		return err
	}
	in, err := store.Open(c.File)
	if err != nil {
		return err
	}
	defer in.Close()
	p(1, 1)
	return tar(ctx, tree, "-xpf", "-", in, nil)
}

func tar(ctx context.Context, tree *os.Root, what, file string, in, out *os.File) error {
	dir, err := tree.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	args := []string{"--xattrs", "--numeric-owner", "-C", "/proc/self/fd/3/", what, file}
	if in == nil {
		args = append(args, ".")
	}
	cmd := exec.CommandContext(ctx, "tar", args...)
	cmd.ExtraFiles = []*os.File{dir}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	return cmd.Run()
}

// shop is a project of two containers and two volumes, one of them shared.
func shop(t *testing.T) (*enginetest.Engine, map[string]string) {
	t.Helper()
	e := enginetest.New(t)
	trees := map[string]string{}
	for _, key := range []string{"db", "files"} {
		name := "shop_" + key
		trees[name] = e.AddVolume(t, restore.Volume{Name: name, Labels: map[string]string{
			"com.docker.compose.project": "shop", "com.docker.compose.volume": key,
		}})
		write(t, trees[name], "old")
	}
	label := func(service, depends string) map[string]string {
		return map[string]string{
			"com.docker.compose.project": "shop", "com.docker.compose.service": service,
			"com.docker.compose.depends_on": depends,
		}
	}
	e.AddContainer(t, restore.Container{
		ID: "c1", Name: "shop-db-1", State: "running", Labels: label("db", ""), Policy: journal.Policy{Name: "always"},
		Image: "postgres", ImageID: "sha256:1", Mounts: []restore.Mount{{Name: "shop_db", Target: "/data"}},
	}, nil)
	e.AddContainer(t, restore.Container{
		ID: "c2", Name: "shop-web-1", State: "running", Labels: label("web", "db:service_started:false"),
		Image: "web", ImageID: "sha256:2", Mounts: []restore.Mount{{Name: "shop_db", Target: "/ro", ReadOnly: true}, {Name: "shop_files", Target: "/files"}},
	}, nil)
	return e, trees
}

func write(t *testing.T, tree, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(filepath.Join(tree, "content"), []byte(content), 0o640))
}

func read(t *testing.T, tree string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, "content"))
	assert.NilError(t, err)
	return string(data)
}

func open(t *testing.T, e *enginetest.Engine) *restore.Domain {
	t.Helper()
	d, err := restore.Open(t.Context(), restore.Config{Engine: e, Root: e.StateRoot(), Proc: e.Proc(), Copiers: copyengine.Set{tarEngine{}}})
	assert.NilError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func checkRunning(t *testing.T, e *enginetest.Engine) {
	t.Helper()
	for _, c := range e.All() {
		assert.Equal(t, c.State, "running", c.Name)
	}
	db, _ := e.Get("c1")
	assert.Equal(t, db.Policy.Name, "always")
}

func TestRestoreUndoAndUndoOfUndo(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	snap, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	checkRunning(t, e)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "latest", Project: "shop"})
	assert.NilError(t, err)
	assert.Equal(t, len(p.Volumes), 2)
	assert.Equal(t, len(p.Containers), 2)
	assert.Equal(t, p.Snapshot.ID, snap.ID)
	restored, err := d.Execute(ctx, p)
	assert.NilError(t, err)
	assert.Equal(t, restored.Result, journal.ResultDone)
	want := "old"
	check := func() {
		t.Helper()
		for _, tree := range trees {
			assert.Equal(t, read(t, tree), want)
		}
		checkRunning(t, e)
	}
	check()
	for _, want = range []string{"new", "old", "new"} {
		p, err := d.PlanUndo(ctx, journal.NewID(), plan.UndoRequest{})
		assert.NilError(t, err)
		_, err = d.Execute(ctx, p)
		assert.NilError(t, err)
		check()
	}
	all, err := d.List(ctx, "shop")
	assert.NilError(t, err)
	assert.Equal(t, len(all), 2, "the snapshot, and what the last undo replaced")
}

func TestADamagedSnapshotStopsNothing(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	snap, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	write(t, trees["shop_db"], "new")
	assert.NilError(t, os.WriteFile(filepath.Join(e.StateRoot(), "snapshots", snap.ID, "1.tar"), make([]byte, snap.Volumes[1].Stored), 0o600))
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: snap.ID})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, p)
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.Equal(t, read(t, trees["shop_db"]), "new")
	assert.Equal(t, e.Starts("c1"), 0)
	checkRunning(t, e)
	entries, err := os.ReadDir(filepath.Dir(trees["shop_db"]))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 1)
}

func TestAnUnhealthyWorkloadIsRolledBack(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	_, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	write(t, trees["shop_db"], "new")
	e.AddContainer(t, restore.Container{
		ID: "c3", Name: "shop-job-1", State: "running", HealthCheck: true,
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "job"},
		Mounts: []restore.Mount{{Name: "shop_db", Target: "/data"}},
	}, func(c restore.Container, n int) string {
		if read(t, trees["shop_db"]) == "old" {
			return "unhealthy"
		}
		return "healthy"
	})
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "latest", Project: "shop", Rollback: true})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, p)
	assert.Assert(t, fault.Is(err, fault.RolledBack), "%v", err)
	assert.Equal(t, read(t, trees["shop_db"]), "new")
	checkRunning(t, e)
}

func TestDoctorFindsNothingWrongWithASoundEngine(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	checks, err := d.Doctor(t.Context())
	assert.NilError(t, err)
	byName := map[string]plan.Check{}
	for _, c := range checks {
		byName[c.Name] = c
		assert.Assert(t, c.Status != "failed", "%+v", c)
	}
	assert.Equal(t, byName["journal"].Status, "ok")
	assert.Equal(t, byName["exchange"].Status, "ok")
}

func TestASafetySnapshotIsRestoredLikeAnyOtherAndStays(t *testing.T) {
	e, trees := shop(t)
	d := open(t, e)
	ctx := t.Context()
	_, err := d.Create(ctx, journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	for _, tree := range trees {
		write(t, tree, "new")
	}
	p, err := d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "latest", Project: "shop"})
	assert.NilError(t, err)
	first, err := d.Execute(ctx, p)
	assert.NilError(t, err)
	p, err = d.PlanRestore(ctx, journal.NewID(), plan.RestoreRequest{Snapshot: "pre-restore-" + first.Operation})
	assert.NilError(t, err)
	_, err = d.Execute(ctx, p)
	assert.NilError(t, err)
	for _, tree := range trees {
		assert.Equal(t, read(t, tree), "new")
	}
	kept, err := d.Inspect(ctx, []string{first.Safety}, "")
	assert.NilError(t, err)
	removed, err := d.Remove(ctx, journal.NewID(), []string{first.Safety}, "")
	assert.NilError(t, err)
	assert.DeepEqual(t, removed, []string{first.Safety})
	for _, v := range kept[0].Volumes {
		_, err := os.Stat(v.Tree)
		assert.Assert(t, os.IsNotExist(err), v.Tree)
	}
}

func TestVerifyHasARowForEachSnapshotWhateverIsDamaged(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	var ids []string
	for range 3 {
		s, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
		assert.NilError(t, err)
		ids = append(ids, s.ID)
	}
	store := filepath.Join(e.StateRoot(), "snapshots")
	assert.NilError(t, os.WriteFile(filepath.Join(store, ids[0], "snapshot.json"), []byte("{}"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(store, ids[1], "0.tar"), []byte("x"), 0o600))
	rows, err := d.Verify(t.Context(), nil, "")
	assert.NilError(t, err)
	got := map[string]string{}
	for _, r := range rows {
		got[r.Snapshot] = r.Result
	}
	assert.DeepEqual(t, got, map[string]string{ids[0]: "damaged", ids[1]: "damaged", ids[2]: "ok"})
}

// A restore that starts another image than the snapshot was made with says so,
// and names both.
func TestAnotherImageThanTheSnapshotsIsWarnedOf(t *testing.T) {
	e, _ := shop(t)
	d := open(t, e)
	snap, err := d.Create(t.Context(), journal.NewID(), plan.Create{Project: "shop"})
	assert.NilError(t, err)
	request := plan.RestoreRequest{Snapshot: snap.ID}
	p, err := d.PlanRestore(t.Context(), journal.NewID(), request)
	assert.NilError(t, err)
	assert.Equal(t, len(p.Warnings), 0, "%v", p.Warnings)

	c, _ := e.Get("c1")
	e.Drop("c1")
	c.Image, c.ImageID = "postgres:17", "sha256:17"
	e.AddContainer(t, c, nil)
	p, err = d.PlanRestore(t.Context(), journal.NewID(), request)
	assert.NilError(t, err)
	assert.Equal(t, len(p.Warnings), 1, "%v", p.Warnings)
	for _, word := range []string{"shop-db-1", "postgres:17", "sha256:17", "made with postgres ", "sha256:1)"} {
		assert.Assert(t, strings.Contains(p.Warnings[0], word), "%s: %s", word, p.Warnings[0])
	}
}
