package portable

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
)

// engines are those of the snapshots here.
var engines = copyengine.Set{archive.New()}

var noon = time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)

func openStore(t testing.TB, path string) *snapshot.Store {
	t.Helper()
	dir, err := durable.Open(path, nil)
	assert.NilError(t, err)
	t.Cleanup(func() { dir.Close() })
	s, err := snapshot.Open(dir)
	assert.NilError(t, err)
	return s
}

// item is an entry with its content.
type item struct {
	archive.Entry
	text string
}

func file(path, text string) item {
	return item{archive.Entry{Path: path, Type: archive.File, Mode: 0o640, UID: 7, GID: 8,
		ModTime: time.Unix(-5, 123456789), Size: int64(len(text))}, text}
}

func dir(path string, mode uint32) item {
	return item{archive.Entry{Path: path, Type: archive.Directory, Mode: mode, ModTime: time.Unix(9, 0)}, ""}
}

// trees are two volumes' entries, as an engine stores them.
func trees() [][]item {
	attributed := file("a/attributed", "x")
	attributed.Xattrs = []archive.Xattr{{Name: "user.k", Value: "v\x00="}}
	sparse := item{archive.Entry{Path: "a/sparse", Type: archive.File, Mode: 0o600, ModTime: time.Unix(1, 0), Size: 1 << 30,
		Sparse: true, Data: []archive.Extent{{Offset: 1 << 20, Length: 4}}}, "data"}
	return [][]item{
		{
			dir(".", 0o1700),
			dir("a", 0o2755),
			attributed,
			{archive.Entry{Path: "a/dangling", Type: archive.Symlink, Mode: 0o777, ModTime: time.Unix(2, 0), Link: "/etc/passwd"}, ""},
			sparse,
			file("b", strings.Repeat("b", 100_000)),
			{archive.Entry{Path: "c", Type: archive.HardLink, Mode: 0o640, UID: 7, GID: 8, ModTime: time.Unix(-5, 123456789), Link: "b"}, ""},
			{archive.Entry{Path: "fifo", Type: archive.Fifo, Mode: 0o600, ModTime: time.Unix(3, 0)}, ""},
			{archive.Entry{Path: "null", Type: archive.CharDevice, Mode: 0o666, ModTime: time.Unix(3, 0), Major: 1, Minor: 3}, ""},
			file("odd \xff\n"+strings.Repeat("n", 200), "name"),
		},
		{dir(".", 0), file(Manifest, "the volume's own"), file("0", "")},
	}
}

// keep makes a snapshot of trees in the store.
func keep(t testing.TB, s *snapshot.Store, id string) snapshot.Snapshot {
	t.Helper()
	d, err := s.New(id)
	assert.NilError(t, err)
	snap := snapshot.Snapshot{Format: snapshot.Format, ID: id, Name: "before-upgrade", Kind: snapshot.Made, Created: noon,
		Project: "shop", Operation: id, Labels: map[string]string{"ticket": "7"},
		Containers: []snapshot.Container{{Name: "db", Image: "postgres:16", ImageID: "sha256:1"}}}
	for i, tree := range trees() {
		out, err := archive.Create(d.Root(), i)
		assert.NilError(t, err)
		for _, it := range tree {
			assert.NilError(t, out.WriteEntry(&it.Entry))
			_, err := out.Write([]byte(it.text))
			assert.NilError(t, err)
		}
		c, err := out.Finish()
		assert.NilError(t, err)
		snap.Volumes = append(snap.Volumes, snapshot.Volume{Name: fmt.Sprint("shop_v", i), Scope: "project_named", Key: fmt.Sprint("v", i),
			Uses:   []snapshot.Use{{Container: "db", Target: fmt.Sprint("/data", i)}, {Container: "web", Target: "/elsewhere", ReadOnly: true}},
			Engine: "archive", File: c.File, SHA256: c.SHA256, Bytes: c.Bytes, Files: c.Files, Stored: c.Stored})
	}
	assert.NilError(t, d.Commit(snap))
	return snap
}

// items reads a stored volume back.
func items(t testing.TB, s *snapshot.Store, id string, v snapshot.Volume) (all []item) {
	t.Helper()
	root, err := s.Content(id)
	assert.NilError(t, err)
	defer root.Close()
	in, err := archive.Open(root, copyengine.Content{File: v.File, SHA256: v.SHA256, Bytes: v.Bytes, Files: v.Files, Stored: v.Stored})
	assert.NilError(t, err)
	defer in.Close()
	for {
		e, err := in.Next()
		if err == io.EOF {
			return all
		}
		assert.NilError(t, err)
		text, err := io.ReadAll(in)
		assert.NilError(t, err)
		it := item{*e, string(text)}
		it.ModTime = it.ModTime.UTC()
		all = append(all, it)
	}
}

// same compares two volumes' entries.
func same(t testing.TB, got, want []item) {
	t.Helper()
	assert.Equal(t, len(got), len(want))
	for i := range want {
		w := want[i]
		w.ModTime = w.ModTime.UTC()
		assert.DeepEqual(t, got[i].Entry, w.Entry)
		assert.Assert(t, got[i].text == w.text, w.Path)
	}
}

// bring imports data as snapshot id and commits it. An import that fails must
// leave nothing behind, in the store or beside it.
func bring(t testing.TB, data io.Reader, id string) (*snapshot.Store, snapshot.Snapshot, error) {
	t.Helper()
	top := t.TempDir()
	path := filepath.Join(top, "snapshots")
	assert.NilError(t, os.Mkdir(path, 0o700))
	s := openStore(t, path)
	snap, err := bringInto(t, s, data, id)
	beside, e := os.ReadDir(top)
	assert.NilError(t, e)
	assert.Equal(t, len(beside), 1)
	if err != nil {
		inside, e := os.ReadDir(path)
		assert.NilError(t, e)
		assert.Equal(t, len(inside), 0)
	}
	return s, snap, err
}

func bringInto(t testing.TB, s *snapshot.Store, data io.Reader, id string) (snapshot.Snapshot, error) {
	t.Helper()
	d, err := s.New(id)
	assert.NilError(t, err)
	defer d.Close()
	snap, err := Import(context.Background(), data, d, Watch{})
	if err != nil {
		assert.NilError(t, s.Discard(id))
		return snap, err
	}
	assert.NilError(t, d.Commit(snap))
	got, err := s.Load(id)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, snap)
	return snap, nil
}

func export(t testing.TB, s *snapshot.Store, snap snapshot.Snapshot, gzip bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	assert.NilError(t, Export(context.Background(), s, engines, snap, gzip, &buf, Watch{}))
	return buf.Bytes()
}

func TestWhatIsExportedIsImportedTheSame(t *testing.T) {
	from := openStore(t, t.TempDir())
	want := keep(t, from, idA)
	s, got, err := bring(t, bytes.NewReader(export(t, from, want, false)), idB)
	assert.NilError(t, err)
	for i, tree := range trees() {
		same(t, items(t, s, idB, got.Volumes[i]), tree)
		want.Volumes[i].File, want.Volumes[i].SHA256, want.Volumes[i].Stored = got.Volumes[i].File, got.Volumes[i].SHA256, got.Volumes[i].Stored
	}
	want.ID, want.Kind, want.Operation = idB, snapshot.Imported, ""
	assert.DeepEqual(t, got, want)
}

func TestExportsAreTheSameBytes(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	assert.Assert(t, bytes.Equal(export(t, s, snap, false), export(t, s, snap, false)))
}

func TestTheHeritageLayoutHoldsTheManifestAndDirectoriesAndNothingElse(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	z, err := gzip.NewReader(bytes.NewReader(export(t, s, snap, true)))
	assert.NilError(t, err)
	r := tar.NewReader(z)
	h, err := r.Next()
	assert.NilError(t, err)
	assert.Equal(t, h.Name, "manifest.json")
	var lines []map[string]any
	assert.NilError(t, json.NewDecoder(r).Decode(&lines))
	assert.DeepEqual(t, lines, []map[string]any{
		{"index": 0.0, "target": "/data0", "scope": "project_named", "source": "shop_v0"},
		{"index": 1.0, "target": "/data1", "scope": "project_named", "source": "shop_v1"},
	})
	files := map[string]string{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		assert.NilError(t, err)
		assert.Assert(t, strings.HasPrefix(h.Name, "0/") || strings.HasPrefix(h.Name, "1/"), h.Name)
		if h.Typeflag == tar.TypeReg && h.Size < 1<<20 {
			text, err := io.ReadAll(r)
			assert.NilError(t, err)
			files[h.Name] = string(text)
		}
	}
	assert.Equal(t, files["1/manifest.json"], "the volume's own")
	assert.Equal(t, len(files["0/b"]), 100_000)

	// And this program reads it.
	to, got, err := bring(t, bytes.NewReader(export(t, s, snap, true)), idB)
	assert.NilError(t, err)
	for i, tree := range trees() {
		same(t, items(t, to, idB, got.Volumes[i]), tree)
		assert.Equal(t, got.Volumes[i].Name, fmt.Sprint("/data", i))
		assert.Equal(t, got.Volumes[i].Scope, "project_named")
		assert.DeepEqual(t, got.Volumes[i].Uses, []snapshot.Use{{Target: fmt.Sprint("/data", i)}})
	}
}

func TestTheHeritageLayoutIsRefusedForAVolumeThatItCannotName(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	snap.Volumes[1].Uses = nil
	var buf bytes.Buffer
	err := Export(context.Background(), s, engines, snap, true, &buf, Watch{})
	assert.ErrorContains(t, err, "no container mounts volume shop_v1")
	assert.Check(t, is.Contains(fault.From(err).Hint, "docker snaprestore export"))
	assert.Equal(t, buf.Len(), 0)

	_, got, err := bring(t, bytes.NewReader(export(t, s, snap, false)), idB)
	assert.NilError(t, err)
	assert.Equal(t, got.Volumes[1].Name, "shop_v1")
}

func TestArchivesOfGNUTarAreImported(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("tar is not installed")
	}
	src := t.TempDir()
	for name, text := range map[string]string{"0/sub/file": "zero", "7/file": "seven",
		// Index as a string, a gap, sources that lead elsewhere, a field more.
		Manifest: `[{"index":7,"target":"/seven/","scope":"stage","source":"../../etc"},{"index":"0","target":"/zero","scope":"absolute","source":"/etc","extra":[]}]`} {
		assert.NilError(t, os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755))
		assert.NilError(t, os.WriteFile(filepath.Join(src, name), []byte(text), 0o604))
	}
	assert.NilError(t, os.Chmod(filepath.Join(src, "0"), 0o711))
	for name, args := range map[string][]string{
		"manifest last, gzip":     {"-cz", "0", "7", Manifest},
		"manifest first, plain":   {"-c", Manifest, "7", "0"},
		"the directory, old form": {"-cz", "--format=gnu", "."},
		"the directory, POSIX":    {"-cz", "--format=posix", "."},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("tar", append([]string{"-C", src}, args...)...)
			data, err := cmd.Output()
			assert.NilError(t, err)
			s, got, err := bring(t, bytes.NewReader(data), idA)
			assert.NilError(t, err)
			assert.Equal(t, len(got.Volumes), 2)
			zero, seven := got.Volumes[0], got.Volumes[1]
			assert.Equal(t, zero.Name+" "+zero.Scope+" "+zero.File, "/zero absolute 0.tar.zst")
			assert.Equal(t, seven.Name+" "+seven.Scope+" "+seven.File, "/seven stage 7.tar.zst")
			assert.Equal(t, got.Kind, snapshot.Imported)
			in := items(t, s, idA, zero)
			assert.Equal(t, in[0].Path, ".")
			assert.Equal(t, in[0].Mode, uint32(0o711))
			assert.Equal(t, in[2].Path+" "+in[2].text, "sub/file zero")
			assert.Equal(t, in[2].Mode, uint32(0o604))
			assert.Equal(t, int(in[2].UID), os.Geteuid())
		})
	}
}

// head is an entry of a made-up archive.
func head(name string, kind byte, text string) tar.Header {
	h := tar.Header{Name: name, Typeflag: kind, Mode: 0o644}
	switch kind {
	case tar.TypeReg:
		h.Size = int64(len(text))
		h.Uname = text // carried to pack
	case tar.TypeSymlink, tar.TypeLink:
		h.Linkname = text
	}
	return h
}

func pack(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		text := h.Uname
		h.Uname = ""
		assert.NilError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, text)
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return buf.Bytes()
}

const oneLine = `[{"index":0,"target":"/data","scope":"named","source":"v"}]`

func TestARootThatIsMissingIsMade(t *testing.T) {
	s, snap, err := bring(t, bytes.NewReader(pack(t,
		head("0/file", tar.TypeReg, "x"), head(Manifest, tar.TypeReg, oneLine))), idA)
	assert.NilError(t, err)
	in := items(t, s, idA, snap.Volumes[0])
	assert.Equal(t, in[0].Path, ".")
	assert.Equal(t, in[0].Mode, uint32(0o755))
	assert.Equal(t, in[0].UID+in[0].GID, uint32(0))
	assert.Equal(t, in[1].Path, "file")
	assert.Equal(t, snap.Volumes[0].Files, int64(1))
}

func TestAnEmptyVolumeIsImported(t *testing.T) {
	_, snap, err := bring(t, bytes.NewReader(pack(t,
		head(Manifest, tar.TypeReg, oneLine), head("0/", tar.TypeDir, ""))), idA)
	assert.NilError(t, err)
	assert.Equal(t, snap.Volumes[0].Files, int64(0))
}

// described is a description that goes with one volume of one file, changed.
func described(t testing.TB, change func(*snapshot.Snapshot)) string {
	t.Helper()
	snap := snapshot.Snapshot{Format: snapshot.Format, ID: idA, Kind: snapshot.Made, Created: noon,
		Volumes: []snapshot.Volume{{Name: "v", Engine: "archive", File: "0.tar.zst", SHA256: strings.Repeat("0", 64), Bytes: 1, Files: 1,
			Uses: []snapshot.Use{{Target: "/data"}}}}}
	change(&snap)
	data, err := snapshot.Encode(snap)
	assert.NilError(t, err)
	return string(data)
}

// hostile is archives that must not be stored, with what the error must say.
func hostile(t testing.TB) map[string]struct {
	tar  []byte
	says string
} {
	type bad = struct {
		tar  []byte
		says string
	}
	list := head(Manifest, tar.TypeReg, oneLine)
	lines := func(text string) []byte {
		return pack(t, head(Manifest, tar.TypeReg, text), head("0/", tar.TypeDir, ""))
	}
	with := func(headers ...tar.Header) []byte { return pack(t, append([]tar.Header{list}, headers...)...) }
	root := head("0/", tar.TypeDir, "")
	file := func(name string) tar.Header { return head(name, tar.TypeReg, "x") }
	about := func(change func(*snapshot.Snapshot)) []byte {
		return with(head(snapshot.File, tar.TypeReg, described(t, change)), root, file("0/f"))
	}
	return map[string]bad{
		"nothing":                      {nil, "read archive"},
		"not an archive":               {[]byte("no such thing"), "read archive"},
		"no entry":                     {pack(t), "no manifest.json"},
		"no manifest":                  {pack(t, root, file("0/f")), "no manifest.json"},
		"two manifests":                {with(list, root), "twice"},
		"a manifest that is a link":    {pack(t, head(Manifest, tar.TypeSymlink, "/etc/passwd"), root), "not a plain file"},
		"a manifest that is hard":      {pack(t, root, file("0/f"), head(Manifest, tar.TypeLink, "0/f")), "not a plain file"},
		"a manifest of rubbish":        {lines("{"), "read manifest.json"},
		"an empty manifest":            {lines(""), "read manifest.json"},
		"a manifest of nothing":        {lines("[]"), "lists no volume"},
		"a manifest of null":           {lines("null"), "lists no volume"},
		"a manifest and more":          {lines(oneLine + oneLine), "read manifest.json"},
		"a manifest in capitals":       {pack(t, head("MANIFEST.JSON", tar.TypeReg, oneLine), root), "belongs to no volume"},
		"an index twice":               {lines(`[{"index":0,"target":"/a"},{"index":0,"target":"/b"}]`), "twice"},
		"an index below zero":          {lines(`[{"index":-1,"target":"/a"}]`), "the index"},
		"no index":                     {lines(`[{"target":"/a"}]`), "the index"},
		"a broken index":               {lines(`[{"index":0.5,"target":"/a"}]`), "the index"},
		"a huge index":                 {lines(`[{"index":4096,"target":"/a"}]`), "the index"},
		"no target":                    {lines(`[{"index":0}]`), "no target"},
		"a relative target":            {lines(`[{"index":0,"target":"../etc"}]`), "the target"},
		"a target with a NUL":          {lines(`[{"index":0,"target":"/a\u0000b"}]`), "the target"},
		"a target of two lines":        {lines(`[{"index":0,"target":"/a\nb"}]`), "the target"},
		"a strange scope":              {lines(`[{"index":0,"target":"/a","scope":"A B"}]`), "the scope"},
		"a volume that is missing":     {with(), "volume 0 of manifest.json is not in it"},
		"a volume too many":            {with(root, head("1/", tar.TypeDir, "")), "volume 1 is not in manifest.json"},
		"a file of no volume":          {with(root, file("README")), "belongs to no volume"},
		"another way to write 0":       {with(root, file("00/f")), "belongs to no volume"},
		"an index beyond all":          {with(root, file("4096/f")), "belongs to no volume"},
		"entries apart":                {pack(t, file("0/f"), file("1/f"), file("0/g"), head(Manifest, tar.TypeReg, oneLine)), "do not lie together"},
		"a root after its files":       {with(file("0/f"), root), "comes after"},
		"a volume that is a file":      {with(file("0")), "not a directory"},
		"a volume that is a link":      {with(head("0", tar.TypeSymlink, "/etc")), "not a directory"},
		"a file through a volume link": {with(head("0", tar.TypeSymlink, "/etc"), file("0/passwd")), "not a directory"},
		"a path that climbs":           {with(root, file("0/../../x")), `".."`},
		"an absolute path":             {with(root, file("/etc/passwd")), "absolute"},
		"a file through a link":        {with(root, head("0/l", tar.TypeSymlink, "/etc"), file("0/l/passwd")), "not a directory"},
		"a hard link out":              {with(root, head("0/l", tar.TypeLink, "/etc/passwd")), "absolute"},
		"a hard link to the manifest":  {with(root, head("0/l", tar.TypeLink, Manifest)), "outside of its volume"},
		"a hard link across":           {with(root, file("0/f"), head("1/l", tar.TypeLink, "0/f")), "outside of its volume"},
		"a hard link to 10 from 1":     {with(file("10/f"), head("1/l", tar.TypeLink, "10/f")), "outside of its volume"},
		"a hard link to a volume":      {with(root, head("0/l", tar.TypeLink, "0")), "directory"},
		"an entry twice":               {with(root, file("0/f"), file("0/f")), "twice"},
		"more volumes described":       {about(func(s *snapshot.Snapshot) { v := s.Volumes[0]; v.File = "1.tar.zst"; s.Volumes = append(s.Volumes, v) }), "lists 1 volumes, snapshot.json 2"},
		"another target described":     {about(func(s *snapshot.Snapshot) { s.Volumes[0].Uses[0].Target = "/etc" }), "disagree"},
		"another size described":       {about(func(s *snapshot.Snapshot) { s.Volumes[0].Bytes = 2 }), "1 files of 1 bytes"},
		"a name that moves the cursor": {about(func(s *snapshot.Snapshot) { s.Volumes[0].Name = "v\x1b[2J" }), "control characters"},
		"a description of rubbish":     {with(head(snapshot.File, tar.TypeReg, "{}"), root), "checksum"},
		"a description that is a link": {with(head(snapshot.File, tar.TypeSymlink, "/etc/passwd"), root), "not a plain file"},
	}
}

func TestWhatIsNotAWholeArchiveIsNotStored(t *testing.T) {
	for name, bad := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			_, _, err := bring(t, bytes.NewReader(bad.tar), idA)
			assert.ErrorContains(t, err, bad.says)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			f := fault.From(err)
			assert.Equal(t, f.State, "nothing was imported")
			assert.Check(t, is.Contains(f.Hint, "docker snaprestore"))
			assert.Check(t, !strings.Contains(f.Error(), "\n"))
		})
	}
}

func TestADescriptionOfANewerFormatIsSaidToBeOne(t *testing.T) {
	_, _, err := bring(t, bytes.NewReader(pack(t, head(Manifest, tar.TypeReg, oneLine),
		head(snapshot.File, tar.TypeReg, `{"format":2}`), head("0/", tar.TypeDir, ""))), idA)
	assert.ErrorContains(t, err, "its format is 2 and this version reads up to 1")
	assert.Check(t, is.Contains(fault.From(err).Hint, "newer version"))
}

func TestATornArchiveIsNotStored(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	for _, gzip := range []bool{false, true} {
		whole := export(t, s, snap, gzip)
		for n := 0; n < len(whole); n += 61 {
			_, _, err := bring(t, bytes.NewReader(whole[:n]), idB)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%d of %d: %v", n, len(whole), err)
		}
	}
	// An archive that nobody compressed ends between two entries, too.
	plain := pack(t, head(Manifest, tar.TypeReg, oneLine), head("0/", tar.TypeDir, ""), head("0/f", tar.TypeReg, strings.Repeat("x", 2000)))
	for n := 0; n < len(plain)-1024; n += 512 { // the end is two blocks of zeros
		_, _, err := bring(t, bytes.NewReader(plain[:n]), idB)
		assert.Assert(t, fault.Is(err, fault.Corrupt), "%d of %d: %v", n, len(plain), err)
	}
}

func TestABitFlippedAnywhereInAnExportIsFoundOrChangesNothing(t *testing.T) {
	from := openStore(t, t.TempDir())
	snap := keep(t, from, idA)
	var want [][]item
	for _, v := range snap.Volumes {
		want = append(want, items(t, from, idA, v))
	}
	for _, gzip := range []bool{false, true} {
		whole := export(t, from, snap, gzip)
		found := 0
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 1 << (i % 8)
			s, got, err := bring(t, bytes.NewReader(flipped), idB)
			if err != nil {
				assert.Assert(t, fault.Is(err, fault.Corrupt), "byte %d of %d: %v", i, len(whole), err)
				found++
				continue
			}
			assert.Equal(t, len(got.Volumes), len(want))
			for n, v := range got.Volumes {
				same(t, items(t, s, idB, v), want[n])
			}
		}
		assert.Assert(t, found > len(whole)*9/10, "%d of %d found", found, len(whole))
	}
}

func TestAnErrorOfTheStreamIsNoDamage(t *testing.T) {
	s := openStore(t, t.TempDir())
	whole := export(t, s, keep(t, s, idA), false)
	broken := errors.New("the connection broke")
	_, _, err := bring(t, io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failing{broken}), idB)
	assert.Assert(t, errors.Is(err, broken), "%v", err)
	assert.Assert(t, fault.Is(err, fault.Failed) && !fault.Is(err, fault.Corrupt))
	assert.Equal(t, fault.From(err).State, "nothing was imported")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error)  { return 0, f.err }
func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestExportFailsWithItsWriter(t *testing.T) {
	s := openStore(t, t.TempDir())
	broken := errors.New("the client is gone")
	for _, gzip := range []bool{false, true} {
		err := Export(context.Background(), s, engines, keepOnce(t, s), gzip, failing{broken}, Watch{})
		assert.Assert(t, errors.Is(err, broken), "%v", err)
	}
}

func keepOnce(t *testing.T, s *snapshot.Store) snapshot.Snapshot {
	if snap, err := s.Load(idA); err == nil {
		return snap
	}
	return keep(t, s, idA)
}

func TestDamageInTheStoreIsFoundByExportAndWhatItWroteIsRefused(t *testing.T) {
	path := t.TempDir()
	s := openStore(t, path)
	snap := keep(t, s, idA)
	stored := filepath.Join(path, idA, snap.Volumes[1].File)
	data, err := os.ReadFile(stored)
	assert.NilError(t, err)
	spoil := map[string][]byte{
		"flipped": append(append(bytes.Clone(data[:len(data)/2]), data[len(data)/2]^4), data[len(data)/2+1:]...),
		"torn":    data[:len(data)-1],
		"longer":  append(bytes.Clone(data), 0),
	}
	for name, bad := range spoil {
		for _, gzip := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " gzip ", gzip), func(t *testing.T) {
				assert.NilError(t, os.WriteFile(stored, bad, 0o600))
				var buf bytes.Buffer
				err := Export(context.Background(), s, engines, snap, gzip, &buf, Watch{})
				assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
				assert.ErrorContains(t, err, "shop_v1")
				_, _, err = bring(t, &buf, idB)
				assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			})
		}
	}
}

func TestTheEndOfTheContextEndsBoth(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	whole := export(t, s, snap, false)
	for name, run := range map[string]func(ctx context.Context, w Watch) error{
		"export": func(ctx context.Context, w Watch) error { return Export(ctx, s, engines, snap, false, io.Discard, w) },
		"import": func(ctx context.Context, w Watch) error {
			d, err := s.New(idB)
			assert.NilError(t, err)
			defer func() { d.Close(); assert.NilError(t, s.Discard(idB)) }()
			_, err = Import(ctx, bytes.NewReader(whole), d, w)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			err := run(ctx, Watch{Progress: func(int, int64, int64) { cancel() }})
			assert.Assert(t, errors.Is(err, context.Canceled), "%v", err)
		})
	}
}

func TestProgressAddsUpToWhatTheSnapshotHolds(t *testing.T) {
	s := openStore(t, t.TempDir())
	snap := keep(t, s, idA)
	var bytesOf, filesOf [2]int64
	count := Watch{Progress: func(i int, b, f int64) { bytesOf[i] += b; filesOf[i] += f }}
	var buf bytes.Buffer
	assert.NilError(t, Export(context.Background(), s, engines, snap, false, &buf, count))
	d, err := s.New(idB)
	assert.NilError(t, err)
	defer d.Close()
	_, err = Import(context.Background(), &buf, d, count)
	assert.NilError(t, err)
	for i, v := range snap.Volumes {
		assert.Equal(t, bytesOf[i], 2*v.Bytes)
		assert.Equal(t, filesOf[i], 2*v.Files)
	}
}

func TestWhatAnArchiveSaysOfItselfDoesNotReachOut(t *testing.T) {
	bringDescribed := func(s *snapshot.Store, change func(*snapshot.Snapshot)) snapshot.Snapshot {
		t.Helper()
		snap, err := bringInto(t, s, bytes.NewReader(pack(t, head(Manifest, tar.TypeReg, oneLine),
			head(snapshot.File, tar.TypeReg, described(t, change)), head("0/", tar.TypeDir, ""), head("0/f", tar.TypeReg, "x"))), idB)
		assert.NilError(t, err)
		assert.NilError(t, s.Remove(idB))
		return snap
	}
	s := openStore(t, t.TempDir())
	t.Run("driver options are dropped and said", func(t *testing.T) {
		snap := bringDescribed(s, func(snap *snapshot.Snapshot) {
			snap.Volumes[0].Options = map[string]string{"type": "none", "o": "bind", "device": "/etc"}
		})
		assert.Equal(t, len(snap.Volumes[0].Options), 0)
		assert.DeepEqual(t, snap.Skipped, []snapshot.Skipped{{What: "driver options of volume v", Reason: "they were those of another engine"}})
	})
	t.Run("a safety snapshot's tree and name are dropped", func(t *testing.T) {
		snap := bringDescribed(s, func(snap *snapshot.Snapshot) {
			snap.Kind, snap.Operation, snap.Name = snapshot.Safety, idA, snapshot.SafetyName("restore", idA)
			v := &snap.Volumes[0]
			v.Engine, v.Tree, v.File, v.SHA256, v.Bytes, v.Files = snapshot.Tree, "/etc", "", "", 0, 0
		})
		assert.Equal(t, snap.Volumes[0].Tree+snap.Name+snap.Operation, "")
		assert.Equal(t, snap.Kind, snapshot.Imported)
	})
	t.Run("a date to come is today's", func(t *testing.T) {
		before := time.Now()
		snap := bringDescribed(s, func(snap *snapshot.Snapshot) { snap.Created = noon.AddDate(7000, 0, 0) })
		assert.Check(t, !snap.Created.Before(before) && !snap.Created.After(time.Now()), "%v", snap.Created)
	})
	t.Run("a name is kept where it is free", func(t *testing.T) {
		named := func(snap *snapshot.Snapshot) { snap.Name = "before-upgrade" }
		assert.Equal(t, bringDescribed(s, named).Name, "before-upgrade")
		keep(t, s, idA)
		assert.Equal(t, bringDescribed(s, named).Name, "")
	})
}

func FuzzImport(f *testing.F) {
	s := openStore(f, f.TempDir())
	snap := keep(f, s, idA)
	f.Add(export(f, s, snap, false))
	f.Add(export(f, s, snap, true))
	for _, bad := range hostile(f) {
		f.Add(bad.tar)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, snap, err := bring(t, bytes.NewReader(data), idB)
		if err != nil {
			return
		}
		// What was accepted can be read whole, and travel on.
		for _, v := range snap.Volumes {
			items(t, s, idB, v)
		}
		_, _, err = bring(t, bytes.NewReader(export(t, s, snap, false)), idA)
		assert.NilError(t, err)
	})
}

// Whatever manifest.json says, an archive with it is imported with what it
// says, or is not stored.
func FuzzManifest(f *testing.F) {
	for _, text := range []string{
		oneLine, "[]", "null", "{", `[{"index":"0","target":"/data"}]`, `[{"INDEX":0,"Target":"/a","target":"/b"}]`,
		`[{"index":0,"target":"/a"},{"index":1,"target":"/b"}]`, `[{"index":1e0,"target":"/a"}]`, `[{"index":-0,"scope":"stage"}]`,
		`[{"index":0,"target":"/a/../../b","scope":"project","source":"../../etc"}]`, `[{"index":0,"target":"/a\u0000"}]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_, snap, err := bring(t, bytes.NewReader(pack(t, head(Manifest, tar.TypeReg, string(text)), head("0/", tar.TypeDir, ""))), idA)
		if err != nil {
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			return
		}
		assert.Equal(t, len(snap.Volumes), 1)
		for _, use := range snap.Volumes[0].Uses {
			assert.Assert(t, filepath.IsAbs(use.Target) && filepath.Clean(use.Target) == use.Target, "%q", use.Target)
		}
	})
}
