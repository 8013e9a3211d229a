package archive

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// A Writer never writes what a Reader would refuse.
func TestWriterRefusesWhatCannotBeRead(t *testing.T) {
	for says, e := range map[string]Entry{
		"not clean":              {Path: "a/../b", Type: File},
		"is not clean":           {Path: "a/", Type: Directory},
		"path is not clean":      {Path: "/a", Type: File},
		"mode":                   {Path: "a", Type: File, Mode: 0o10000},
		"unknown type":           {Path: "a", Type: 'Z'},
		"without a target":       {Path: "a", Type: Symlink},
		"the other way round":    {Path: "a", Type: File, Link: "b"},
		"not a file":             {Path: "a", Type: Directory, Size: 1},
		"negative":               {Path: "a", Type: File, Size: -1},
		"do not fit":             {Path: "a", Type: CharDevice, Major: 1 << 30},
		"overlap":                {Path: "a", Type: File, Size: 9, Sparse: true, Data: []Extent{{Offset: 4, Length: 4}, {Offset: 0, Length: 4}}},
		"overlap or lie outside": {Path: "a", Type: File, Size: 9, Sparse: true, Data: []Extent{{Offset: 4, Length: 6}}},
	} {
		t.Run(says, func(t *testing.T) {
			w := NewWriter(io.Discard)
			err := w.WriteEntry(&e)
			assert.ErrorContains(t, err, says)
			assert.ErrorContains(t, err, strconv.Quote(e.Path))
			assert.Equal(t, w.WriteEntry(&Entry{Path: "b", Type: File}), err, "the error stays")
		})
	}
}

func TestWriterHoldsContentToTheSize(t *testing.T) {
	e := Entry{Path: "a", Type: File, Size: 3}
	for name, c := range map[string]struct {
		content string
		then    func(*Writer) error
	}{
		"too much":                  {"four", func(*Writer) error { return nil }},
		"too little":                {"x", func(w *Writer) error { return w.WriteEntry(&Entry{Path: "b", Type: File}) }},
		"too little at the end":     {"x", (*Writer).Close},
		"an entry after the end":    {"xxx", func(w *Writer) error { return errors.Join(w.Close(), w.WriteEntry(&e)) }},
		"the end, and then the end": {"xxx", func(w *Writer) error { return errors.Join(w.Close(), w.Close()) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(io.Discard)
			assert.NilError(t, w.WriteEntry(&e))
			_, err := io.WriteString(w, c.content)
			if err == nil {
				err = c.then(w)
			}
			assert.ErrorContains(t, err, "write archive")
		})
	}
}

func TestWriterPassesErrorsOn(t *testing.T) {
	var buf bytes.Buffer
	write(t, &buf, nasty())
	boom := errors.New("boom")
	for n := 0; n < buf.Len(); n += 4099 {
		w := NewWriter(&short{left: n, err: boom})
		var err error
		for _, it := range nasty() {
			if err = w.WriteEntry(&it.Entry); err != nil {
				break
			}
			if _, err = io.WriteString(w, it.Content); err != nil {
				break
			}
		}
		if err == nil {
			err = w.Close()
		}
		assert.ErrorIs(t, err, boom)
	}
}

// Compression in the background does not swallow what the stream below says.
func TestCompressionPassesErrorsOn(t *testing.T) {
	boom := errors.New("boom")
	z := Compress(&short{left: 100, err: boom}, Zstd)
	page := make([]byte, 64<<10)
	var err error
	for range 1000 {
		if _, err = z.Write(page); err != nil {
			break
		}
	}
	assert.ErrorIs(t, errors.Join(err, z.Close()), boom)
	assert.NilError(t, z.Close(), "a second close does nothing")
}

// short takes a number of bytes and then fails.
type short struct {
	left int
	err  error
}

func (s *short) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return max(0, s.left+len(p)), s.err
	}
	return len(p), nil
}

// records makes a stream of one file with extended records.
func records(pairs ...string) []byte {
	w := NewWriter(nil)
	for i := 0; i < len(pairs); i += 2 {
		w.recs = appendRecord(w.recs, pairs[i], pairs[i+1])
	}
	e := &Entry{Path: "entry", Type: File, ModTime: time.Unix(1, 0)}
	w.extended(e)
	head := append([]byte(nil), w.buf...)
	var buf bytes.Buffer
	file := NewWriter(&buf)
	if err := errors.Join(file.WriteEntry(e), file.Close()); err != nil {
		panic(err)
	}
	return append(head, buf.Bytes()...)
}

func TestBadRecordsAreRefused(t *testing.T) {
	long := strings.Repeat("1", 40)
	for name, pairs := range map[string][]string{
		"size":                    {"size", "x"},
		"negative size":           {"size", "-1"},
		"large size":              {"size", long},
		"owner":                   {"uid", "-1"},
		"owner nobody can be":     {"uid", "4294967295"},
		"group":                   {"gid", "1e3"},
		"time":                    {"mtime", "now"},
		"time with two points":    {"mtime", "1.2.3"},
		"time too large":          {"mtime", long},
		"path with NUL":           {"path", "a\x00b"},
		"attribute twice":         {"SCHILY.xattr.user.a", "1", "SCHILY.xattr.user.a", "2"},
		"attribute without name":  {"SCHILY.xattr.", "1"},
		"attribute name with NUL": {"SCHILY.xattr.user.\x00", "1"},
		"attribute too long":      {"SCHILY.xattr.user.a", strings.Repeat("x", 1<<16+1)},
		"ACL of two fields":       {"SCHILY.acl.access", "user:rwx"},
		"ACL of unknown tag":      {"SCHILY.acl.access", "everybody::rwx"},
		"ACL of bad rights":       {"SCHILY.acl.access", "user::rwX"},
		"mask with a number":      {"SCHILY.acl.access", "mask:5:rwx"},
		"sparse, unknown version": {"GNU.sparse.major", "2", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1"},
		"sparse, unknown record":  {"GNU.sparse.new", "2"},
		"sparse without a size":   {"GNU.sparse.map", "0,1"},
		"sparse, bad size":        {"GNU.sparse.size", "-1", "GNU.sparse.map", ""},
		"sparse, odd map":         {"GNU.sparse.size", "9", "GNU.sparse.map", "0,0,1"},
		"sparse, bad map":         {"GNU.sparse.size", "9", "GNU.sparse.map", "0,x"},
		"sparse, outside":         {"GNU.sparse.size", "9", "GNU.sparse.map", "10,0"},
		"sparse, negative":        {"GNU.sparse.size", "9", "GNU.sparse.map", "0,-1"},
		"sparse, overflow":        {"GNU.sparse.size", "9", "GNU.sparse.map", "1,9223372036854775807"},
		"sparse, data missing":    {"GNU.sparse.size", "9", "GNU.sparse.map", "0,5"},
		"sparse, out of order":    {"GNU.sparse.size", "9", "GNU.sparse.numbytes", "1"},
		"sparse 1.0, no map":      {"GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.realsize", "1"},
		"sparse, huge":            {"GNU.sparse.size", "9223372036854775807", "GNU.sparse.map", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(bytes.NewReader(records(pairs...)), Limits{})
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
			assert.ErrorContains(t, err, "entry")
		})
	}
}

// What the restored tree would not show is passed over.
func TestRecordsWithoutConsequenceAreIgnored(t *testing.T) {
	items, err := read(bytes.NewReader(records("comment", "x", "atime", "1.5", "uname", "eve", "path", "", "uid", "",
		"LIBARCHIVE.xattr.user.a", "YQ==", "SCHILY.xattr.user.a", "a", "SCHILY.fflags", "extents")), Limits{})
	assert.NilError(t, err)
	assert.Equal(t, len(items), 1)
	assert.Equal(t, items[0].Path, "entry")
	assert.DeepEqual(t, items[0].Xattrs, []Xattr{{Name: "user.a", Value: "a"}})
}

func TestTextACLsBecomeTheKernelsForm(t *testing.T) {
	want := "\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x05\x00\x05\x00\x00\x00" + "\x02\x00\x06\x00\xd2\x04\x00\x00" +
		"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x08\x00\x00\x00\x07\x00\x00\x00" +
		"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x01\x00\xff\xff\xff\xff"
	for name, text := range map[string]string{
		"GNU tar":    "user::rwx\nuser:1234:rw-\nuser:5:r-x\ngroup::r-x\ngroup:7:---\nmask::rwx\nother::--x\n",
		"star":       "user::rwx,group::r-x,mask::rwx,other::--x,user:eve:rw-:1234,user:bob:r-x:5,group:staff:---:7",
		"libarchive": "u::rwx,u:eve:rw-:1234,u:bob:r-x:5,g::r-x,g:staff:---:7,m::rwx,o::--x",
		"getfacl":    "user::rwx\nuser:1234:rw-\t#effective:rw-\nuser:5:r-x\ngroup::r-x\ngroup:7:---\nmask::rwx\nother::--x\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, which := range []string{"access", "default"} {
				items, err := read(bytes.NewReader(records("SCHILY.acl."+which, text)), Limits{})
				assert.NilError(t, err)
				assert.DeepEqual(t, items[0].Xattrs, []Xattr{{Name: "system.posix_acl_" + which, Value: want}})
			}
		})
	}
}

func TestTimesAreExact(t *testing.T) {
	for text, want := range map[string]time.Time{
		"0": time.Unix(0, 0), "1.5": time.Unix(1, 5e8), "-0.5": time.Unix(-1, 5e8), "-1": time.Unix(-1, 0),
		"-1.000000001": time.Unix(-2, 999_999_999), "12.000000001": time.Unix(12, 1), "-0.000000001": time.Unix(-1, 999_999_999),
		"9223372036": time.Unix(9223372036, 0),
	} {
		got, err := parseTime(text)
		assert.NilError(t, err)
		assert.Assert(t, got.Equal(want), "%s: %v", text, got)
		assert.Equal(t, formatTime(want), text)
	}
	got, err := parseTime("1.1234567899")
	assert.NilError(t, err)
	assert.Assert(t, got.Equal(time.Unix(1, 123456789)))
}

// Global headers give defaults, but nothing that would rename an entry.
func TestGlobalHeaders(t *testing.T) {
	global := func(key, value string) []byte {
		stream := records(key, value)
		stream[fType.at] = 'g'
		h := (*header)(stream)
		sum, _ := h.sums()
		h.octal(field{fSum.at, fSum.n - 1}, sum)
		return stream
	}
	items, err := read(bytes.NewReader(global("uid", "77")), Limits{})
	assert.NilError(t, err)
	assert.Equal(t, items[0].UID, uint32(77))
	_, err = read(bytes.NewReader(global("comment", "made by")), Limits{})
	assert.NilError(t, err)
	for _, key := range []string{"path", "size", "linkpath", "GNU.sparse.map", "SCHILY.xattr.user.a"} {
		_, err = read(bytes.NewReader(global(key, "1")), Limits{})
		assert.ErrorContains(t, err, "global header")
		assert.Assert(t, fault.Is(err, fault.Corrupt))
	}
}

func TestMalformedExtendedHeadersAreRefused(t *testing.T) {
	for _, raw := range []string{"x", "5 a=", "99 a=b\n", "6 a=b\n6", "3 \n", "6 =ab\n", "7 a=bc ", "-6 a=b\n", "0 a=b\n"} {
		_, err := parseRecords([]byte(raw))
		assert.Assert(t, err != nil, "%q", raw)
	}
	for n := range 1200 { // lengths around each power of ten
		value := strings.Repeat("v", n)
		got, err := parseRecords(appendRecord(nil, "k", value))
		assert.NilError(t, err)
		assert.Equal(t, len(got), 1)
		assert.Equal(t, got[0], record{"k", value})
	}
}
