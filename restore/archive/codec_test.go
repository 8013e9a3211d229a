package archive

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// item is an entry with its content.
type item struct {
	Entry
	Content string
}

// nasty is one of everything that an archive can hold.
func nasty() []item {
	at := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }
	random := make([]byte, 100_000)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(random)
	long := strings.Repeat("n", 255)
	deep := strings.TrimSuffix(strings.Repeat("d/", 3000), "/")
	return []item{
		{Entry: Entry{Path: ".", Type: Directory, Mode: 0, UID: 70, GID: 4_000_000_000, ModTime: at(-1, 999_999_999)}},
		{Entry: Entry{Path: "empty", Type: File, Mode: 0o7777, ModTime: at(0, 0)}},
		{Entry: Entry{Path: "file", Type: File, Mode: 0o640, UID: 1 << 21, ModTime: at(1<<33, 1), Size: 100_000}, Content: string(random)},
		{Entry: Entry{Path: "hard", Type: HardLink, Mode: 0o640, Link: "file", ModTime: at(1, 0)}},
		{Entry: Entry{Path: "link", Type: Symlink, Mode: 0o777, Link: "/absolute/../" + strings.Repeat("x", 200), ModTime: at(-7, 5)}},
		{Entry: Entry{Path: "hard to link", Type: HardLink, Mode: 0o777, Link: "link", ModTime: at(-7, 5)}},
		{Entry: Entry{Path: "char", Type: CharDevice, Mode: 0o600, Major: 4095, Minor: 1<<20 - 1, ModTime: at(-62135596800, 0)}},
		{Entry: Entry{Path: "block", Type: BlockDevice, Mode: 0o600, Major: 7, Minor: 3, ModTime: at(1, 0)}},
		{Entry: Entry{Path: "fifo", Type: Fifo, Mode: 0o1600, ModTime: at(1, 100)}},
		{Entry: Entry{Path: "not utf-8 \xff\xfe", Type: File, Mode: 0o600, ModTime: at(1, 0), Size: 1}, Content: "x"},
		{Entry: Entry{Path: "ünïcode", Type: Directory, Mode: 0o3755, ModTime: at(1, 0)}},
		{Entry: Entry{Path: "ünïcode/new\nline", Type: File, Mode: 0o600, ModTime: at(1, 0), Size: 512}, Content: string(random[:512])},
		{Entry: Entry{Path: long, Type: Directory, Mode: 0o755, ModTime: at(1, 0)}},
		{Entry: Entry{Path: long + "/" + long, Type: File, Mode: 0o644, ModTime: at(1, 0)}},
		{Entry: Entry{Path: deep, Type: File, Mode: 0o644, ModTime: at(1, 0), Size: 513}, Content: string(random[:513])},
		{Entry: Entry{Path: "attributes", Type: File, Mode: 0o644, ModTime: at(1, 0), Xattrs: []Xattr{
			{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
			{Name: "user.big", Value: string(random[:60000])}, {Name: "user.empty", Value: ""}, {Name: "user.a=b%3Dc", Value: "1\n=2"}}}},
		{Entry: Entry{Path: "holes", Type: File, Mode: 0o644, ModTime: at(1, 0), Size: 1 << 40, Sparse: true,
			Data: []Extent{{Offset: 0, Length: 7}, {Offset: 4096, Length: 4096}, {Offset: 1 << 39, Length: 5}}}, Content: string(random[:7+4096+5])},
		{Entry: Entry{Path: "one hole", Type: File, Mode: 0o644, ModTime: at(1, 0), Size: 4097, Sparse: true}},
		{Entry: Entry{Path: "full", Type: File, Mode: 0o644, ModTime: at(1, 0), Size: 10, Sparse: true,
			Data: []Extent{{Offset: 9, Length: 1}}}, Content: "!"},
	}
}

func write(t testing.TB, w io.Writer, items []item) {
	t.Helper()
	tw := NewWriter(w)
	for _, it := range items {
		assert.NilError(t, tw.WriteEntry(&it.Entry))
		_, err := io.WriteString(tw, it.Content)
		assert.NilError(t, err)
	}
	assert.NilError(t, tw.Close())
}

func read(r io.Reader, limits Limits) (items []item, err error) {
	ar, err := NewReader(r, limits)
	if err != nil {
		return nil, err
	}
	defer ar.Close()
	for {
		e, err := ar.Next()
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		it := item{Entry: *e}
		content, err := io.ReadAll(ar)
		if err != nil {
			return items, err
		}
		it.Content = string(content)
		items = append(items, it)
	}
}

// describe puts items in a form that compares: times by value.
func describe(items []item) (out []string) {
	for _, it := range items {
		when := it.ModTime
		it.ModTime = time.Time{}
		if len(it.Data) == 0 {
			it.Data = nil
		}
		out = append(out, fmt.Sprintf("%d.%09d %+v", when.Unix(), when.Nanosecond(), it))
	}
	return out
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	for _, form := range []string{"plain", "zstd", "gzip"} {
		t.Run(form, func(t *testing.T) {
			var buf bytes.Buffer
			switch form {
			case "plain":
				write(t, &buf, nasty())
			default:
				z := Compress(&buf, map[string]Form{"zstd": Zstd, "gzip": Gzip}[form])
				write(t, z, nasty())
				assert.NilError(t, z.Close())
			}
			got, err := read(&buf, Limits{})
			assert.NilError(t, err)
			assert.DeepEqual(t, describe(got), describe(nasty()))
		})
	}
}

// The standard library's reader is the second opinion on what is written.
func TestStandardLibraryReadsTheSame(t *testing.T) {
	var buf bytes.Buffer
	write(t, &buf, nasty())
	tr := tar.NewReader(&buf)
	for _, want := range nasty() {
		h, err := tr.Next()
		assert.NilError(t, err, "%q", want.Path)
		assert.Equal(t, strings.TrimSuffix(h.Name, "/"), want.Path)
		assert.Equal(t, h.Typeflag, byte(want.Type))
		assert.Equal(t, h.Linkname, want.Link)
		assert.Equal(t, h.Size, want.Size)
		assert.Equal(t, uint32(h.Mode), want.Mode)
		assert.Assert(t, h.ModTime.Equal(want.ModTime), "%q", want.Path)
		assert.Equal(t, h.Devmajor, int64(want.Major))
		assert.Equal(t, h.Devminor, int64(want.Minor))
		if want.Size > 1<<30 {
			continue
		}
		content, err := io.ReadAll(tr)
		assert.NilError(t, err)
		if !want.Sparse {
			assert.Equal(t, string(content), want.Content)
		}
	}
	_, err := tr.Next()
	assert.Equal(t, err, io.EOF)
}

// GNU tar is the third.
func TestGNUTarReadsWhatIsWritten(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes devices and gives files away, which only root may")
	}
	gnu, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("there is no tar")
	}
	var items []item
	for _, it := range nasty() {
		if it.Size < 1<<30 && len(it.Path) < 4096 && it.ModTime.Year() > 1900 && !strings.HasPrefix(it.Path, "attributes") {
			items = append(items, it)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.tar")
	var buf bytes.Buffer
	write(t, &buf, items)
	assert.NilError(t, os.WriteFile(file, buf.Bytes(), 0o600))
	into := filepath.Join(dir, "out")
	assert.NilError(t, os.Mkdir(into, 0o700))
	out, err := exec.Command(gnu, "-xpf", file, "--numeric-owner", "-C", into).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	for _, it := range items {
		st, err := os.Lstat(filepath.Join(into, it.Path))
		assert.NilError(t, err)
		if it.Type == File {
			assert.Equal(t, st.Size(), it.Size)
			assert.Assert(t, st.ModTime().Equal(it.ModTime))
		}
	}
	back, err := exec.Command(gnu, "--format=gnu", "-S", "-cf", "-", "-C", into, ".").Output()
	assert.NilError(t, err)
	again, err := read(bytes.NewReader(back), Limits{})
	assert.NilError(t, err)
	assert.Equal(t, len(again), len(items))
}
