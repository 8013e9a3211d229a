package restore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/portable"
	"github.com/snaprestore/snaprestore/restore/snapshot"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// section gives the lines of a document from a heading, which may have more in
// brackets, to the next one.
func section(t *testing.T, file, heading string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", file))
	assert.NilError(t, err)
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		title, _, _ := strings.Cut(strings.TrimLeft(line, "# "), " (")
		if !strings.HasPrefix(line, "#") || title != heading {
			continue
		}
		end := slices.IndexFunc(lines[i+1:], func(l string) bool { return strings.HasPrefix(l, "#") })
		if end < 0 {
			end = len(lines) - i - 1
		}
		return lines[i+1 : i+1+end]
	}
	t.Fatalf("%s has no section %q", file, heading)
	return nil
}

// table gives the rows of the last table of a section, without its head and
// without the marks of code.
func table(t *testing.T, file, heading string) (rows [][]string) {
	t.Helper()
	for _, line := range section(t, file, heading) {
		line = strings.ReplaceAll(line, "`", "")
		switch {
		case strings.HasPrefix(line, "|---"):
			rows = nil // what came before was the head
		case strings.HasPrefix(line, "|"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			rows = append(rows, cells)
		}
	}
	assert.Assert(t, len(rows) > 0, "%s: no table in %q", file, heading)
	return rows
}

// example gives the block of JSON with this mark.
func example(t *testing.T, mark string) []byte {
	t.Helper()
	data, err := os.ReadFile("../FORMAT.md")
	assert.NilError(t, err)
	_, after, found := strings.Cut(string(data), "```json "+mark+"\n")
	assert.Assert(t, found, "FORMAT.md has no example %q", mark)
	text, _, _ := strings.Cut(after, "\n```")
	return []byte(text)
}

func TestDesignHasTheMovesOfTheSwap(t *testing.T) {
	var want [][]string
	for _, row := range moves {
		want = append(want, []string{string(row.goal), row.shape, string(row.move)})
	}
	assert.DeepEqual(t, table(t, "DESIGN.md", "Moves"), want)
}

func TestDesignHasTheActionsOfRecovery(t *testing.T) {
	var got, want [][]string
	for _, row := range table(t, "DESIGN.md", "Recovery") {
		got = append(got, row[:2])
	}
	for _, row := range recoveries {
		name := runtime.FuncForPC(reflect.ValueOf(row.Action).Pointer()).Name()
		want = append(want, []string{string(row.State), name[strings.LastIndex(name, ".")+1:]})
	}
	assert.DeepEqual(t, got, want)
}

func TestDesignHasTheGatesOfMounts(t *testing.T) {
	var want [][]string
	for _, row := range gates {
		var open []string
		for _, m := range row.open {
			open = append(open, string(m))
		}
		if row.goal == "" {
			open = []string{"any"}
		}
		goal := string(row.goal)
		want = append(want, []string{string(row.state), goal, strings.Join(open, ", ")})
	}
	assert.DeepEqual(t, table(t, "DESIGN.md", "Gates"), want)
}

func TestDocumentsHaveTheExitStatuses(t *testing.T) {
	var want [][]string
	for _, row := range fault.Table() {
		want = append(want, row[:])
	}
	assert.DeepEqual(t, table(t, "DESIGN.md", "Exit status"), want)
	assert.DeepEqual(t, table(t, "README.md", "Commands"), want)
}

// TestFormatHasEveryField holds the tables of FORMAT.md against the types that
// are written: names, and which of them are always there.
func TestFormatHasEveryField(t *testing.T) {
	for heading, value := range map[string]any{
		"Envelope":                journal.Envelope{},
		"Operation":               journal.Operation{},
		"Volume of an operation":  journal.Volume{},
		"Container":               journal.Container{},
		"Remake":                  journal.Remake{},
		"Spec":                    journal.Spec{},
		"Policy":                  journal.Policy{},
		"Outcome":                 journal.Outcome{},
		"Snapshot":                snapshot.Snapshot{},
		"Volume of a snapshot":    snapshot.Volume{},
		"Use":                     snapshot.Use{},
		"Container of a snapshot": snapshot.Container{},
		"Skipped":                 snapshot.Skipped{},
		"Volume of a registry":    volume.Volume{},
	} {
		var got []string
		for _, row := range table(t, "FORMAT.md", heading) {
			got = append(got, row[0])
		}
		assert.Check(t, is.DeepEqual(got, written(reflect.TypeOf(value))), heading)
	}
}

// written lists the JSON names of a type's fields, those that are always
// written with " *" behind.
func written(t reflect.Type) (names []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case f.Anonymous:
			names = append(names, written(f.Type)...)
		case options == "":
			names = append(names, name+" *")
		default:
			names = append(names, name)
		}
	}
	return names
}

func TestFormatExamplesAreRead(t *testing.T) {
	op, _, err := journal.Decode(example(t, "record"))
	assert.NilError(t, err)
	assert.Equal(t, op.State, journal.Prepared)
	v := op.Volumes[0]
	assert.Equal(t, v.Stage, stageName(op.ID, v.Live))
	assert.Equal(t, v.Fence, fenceName(op.ID, v.Live))
	assert.Equal(t, v.Old, oldName(op.ID, v.Live))

	snap, err := snapshot.Decode(example(t, "snapshot"))
	assert.NilError(t, err)
	assert.Equal(t, snap.Volumes[0].Name, "shop_db")

	var holder journal.Holder
	assert.NilError(t, json.Unmarshal(example(t, "holder"), &holder))
	assert.Equal(t, holder.Operation, op.ID)

	var list allowed
	assert.NilError(t, json.Unmarshal(example(t, "allow"), &list))
	assert.DeepEqual(t, list.Prefixes, []string{"/srv/shop"})
}

func TestFormatExampleOfAVolumeIsRead(t *testing.T) {
	dir, err := durable.Open(t.TempDir(), nil)
	assert.NilError(t, err)
	defer dir.Close()
	sub, err := dir.MakeDir("stage@shop@live", 0o700)
	assert.NilError(t, err)
	defer sub.Close()
	assert.NilError(t, sub.WriteFile("volume.json", example(t, "volume"), 0o600))
	v, err := volume.Open(dir).Get("web")
	assert.NilError(t, err)
	assert.Equal(t, v.Key(), "stage@shop@live")
}

// TestFormatOfAnExport writes the snapshot of the example and looks for what
// FORMAT.md says of the portable archive and of the stored one.
func TestFormatOfAnExport(t *testing.T) {
	tree, err := os.OpenRoot(t.TempDir())
	assert.NilError(t, err)
	defer tree.Close()
	assert.NilError(t, tree.WriteFile("b", []byte("data"), 0o600))
	assert.NilError(t, tree.Mkdir("a", 0o700))

	dir, err := durable.Open(t.TempDir(), nil)
	assert.NilError(t, err)
	defer dir.Close()
	store, err := snapshot.Open(dir)
	assert.NilError(t, err)
	snap, err := snapshot.Decode(example(t, "snapshot"))
	assert.NilError(t, err)
	draft, err := store.New(snap.ID)
	assert.NilError(t, err)
	ignore := func(int64, int64) {}
	content, err := archive.New().Save(context.Background(), tree, draft.Root(), 0, func(string, string) {}, ignore)
	assert.NilError(t, err)
	v := &snap.Volumes[0]
	assert.Equal(t, v.File, content.File)
	v.SHA256, v.Bytes, v.Files, v.Stored = content.SHA256, content.Bytes, content.Files, content.Stored
	assert.NilError(t, draft.Commit(snap))

	stored, err := os.Open(filepath.Join(dir.Path(), snap.ID, "0.tar.zst"))
	assert.NilError(t, err)
	defer stored.Close()
	z, err := zstd.NewReader(stored)
	assert.NilError(t, err)
	defer z.Close()
	names, _ := entries(t, z)
	assert.DeepEqual(t, names, []string{"./", "a/", "b"})

	var out bytes.Buffer
	assert.NilError(t, portable.Export(context.Background(), store, copyengine.Set{archive.New()}, snap, false, &out, portable.Watch{}))
	assert.NilError(t, z.Reset(&out))
	names, files := entries(t, z)
	assert.DeepEqual(t, names, []string{"manifest.json", "snapshot.json", "0/", "0/a/", "0/b"})
	assert.Equal(t, files["manifest.json"], string(example(t, "manifest")))

	out.Reset()
	assert.NilError(t, portable.Export(context.Background(), store, copyengine.Set{archive.New()}, snap, true, &out, portable.Watch{}))
	g, err := gzip.NewReader(&out)
	assert.NilError(t, err)
	names, files = entries(t, g)
	assert.DeepEqual(t, names, []string{"manifest.json", "0/", "0/a/", "0/b"})
	assert.Equal(t, files["manifest.json"], string(example(t, "manifest")))
}

// entries lists a tar stream by means of the standard library.
func entries(t *testing.T, r io.Reader) (names []string, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return names, files
		}
		assert.NilError(t, err)
		data, err := io.ReadAll(in)
		assert.NilError(t, err)
		names = append(names, h.Name)
		files[h.Name] = string(data)
	}
}

// TestReliabilityNamesTestsThatExist looks for every test that RELIABILITY.md
// rests a promise on.
func TestReliabilityNamesTestsThatExist(t *testing.T) {
	data, err := os.ReadFile("../RELIABILITY.md")
	assert.NilError(t, err)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(data), -1)
	assert.Assert(t, len(named) > 0)
	exist := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\([tf] \*testing\.[TF]\)`)
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range declared.FindAllStringSubmatch(string(source), -1) {
			exist[match[1]] = true
		}
		return err
	})
	assert.NilError(t, err)
	for _, match := range named {
		assert.Check(t, exist[match[1]], "there is no test %s", match[1])
	}
}
