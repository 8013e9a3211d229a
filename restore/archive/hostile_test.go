package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// hostile is archives that no honest program writes, each with what the error
// must say.
func hostile(t testing.TB) map[string]struct {
	tar  []byte
	says string
} {
	t.Helper()
	make := func(headers ...tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range headers {
			if h.Mode == 0 {
				h.Mode = 0o644
			}
			assert.NilError(t, w.WriteHeader(&h))
			if h.Size > 0 && h.Typeflag == tar.TypeReg {
				_, err := w.Write(bytes.Repeat([]byte{'x'}, int(h.Size)))
				assert.NilError(t, err)
			}
		}
		assert.NilError(t, w.Close())
		return buf.Bytes()
	}
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 5} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}
	}
	type c = struct {
		tar  []byte
		says string
	}
	pax := func(records map[string]string) tar.Header {
		return tar.Header{Name: "f", Typeflag: tar.TypeReg, PAXRecords: records, Format: tar.FormatPAX}
	}
	return map[string]c{
		"absolute":                  {make(file("/etc/passwd")), "absolute"},
		"parent":                    {make(file("../x")), `".."`},
		"parent inside":             {make(dir("a"), file("a/../../x")), `".."`},
		"parent at the end":         {make(dir("a/..")), `".."`},
		"twice":                     {make(file("a"), file("./a")), "twice"},
		"directory twice":           {make(dir("a"), dir("a/")), "twice"},
		"link over a directory":     {make(dir("a"), link("a", "/etc")), "twice"},
		"link over implied":         {make(file("a/b"), link("a", "/etc")), "twice"},
		"through a link":            {make(link("a", "/etc"), file("a/passwd")), "not a directory"},
		"through a link, deep":      {make(link("a", "/etc"), file("a/b/c/d")), "not a directory"},
		"below a file":              {make(file("a"), file("a/b")), "not a directory"},
		"hard link outside":         {make(hard("a", "/etc/passwd")), "absolute"},
		"hard link above":           {make(hard("a", "../x")), `".."`},
		"hard link to nothing":      {make(hard("a", "b")), "not in the archive"},
		"hard link to itself":       {make(hard("a", "a")), "not in the archive"},
		"hard link ahead":           {make(hard("a", "b"), file("b")), "not in the archive"},
		"hard link to a directory":  {make(dir("b"), hard("a", "b")), "directory"},
		"hard link through a link":  {make(link("l", "/etc"), hard("a", "l/passwd")), "not in the archive"},
		"top is a link":             {make(link(".", "/etc")), "the top is not a directory"},
		"top is a device":           {make(tar.Header{Name: ".", Typeflag: tar.TypeBlock, Devmajor: 8}), "the top is not a directory"},
		"below a device":            {make(tar.Header{Name: "d", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}, file("d/x")), "not a directory"},
		"hard link through a file":  {make(file("f"), hard("a", "f/../f")), `".."`},
		"empty symbolic link":       {make(link("a", "")), "bad target"},
		"long name":                 {make(file(strings.Repeat("n", 256))), "longer than 255"},
		"unknown type":              {make(tar.Header{Name: "a", Typeflag: 'Z'}), "unknown type"},
		"unknown record":            {make(pax(map[string]string{"VENDOR.secret": "1"})), "unknown extended record"},
		"attribute without a space": {make(pax(map[string]string{"SCHILY.xattr.x": "1"})), "bad attribute name"},
		"ACL by name":               {make(pax(map[string]string{"SCHILY.acl.access": "user::rw-,user:eve:rwx,group::r--,mask::rwx,other::r--"})), "not given by number"},
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	for name, c := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			_, err := read(bytes.NewReader(c.tar), Limits{})
			assert.ErrorContains(t, err, c.says)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
		})
	}
}

func TestLimitsHold(t *testing.T) {
	for name, c := range map[string]struct {
		limits Limits
		says   string
	}{
		"entries": {Limits{Entries: 5}, "more than 5 entries"},
		"bytes":   {Limits{Bytes: 100_000}, "more than 100000 bytes"},
		"size":    {Limits{Size: 1 << 39}, "file of more than"},
		"header":  {Limits{Header: 50_000}, "extended header of more than"},
		"depth":   {Limits{Depth: 2999}, "more than 2999 directories"},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			write(t, &buf, nasty())
			_, err := read(&buf, c.limits)
			assert.ErrorContains(t, err, c.says)
			assert.Assert(t, fault.Is(err, fault.Corrupt))
		})
	}
}

// torn gives the archive of nasty entries in one form.
func torn(t *testing.T, form string) []byte {
	var buf bytes.Buffer
	switch form {
	case "plain":
		write(t, &buf, nasty())
	default:
		z := Compress(&buf, map[string]Form{"zstd": Zstd, "gzip": Gzip}[form])
		write(t, z, nasty())
		assert.NilError(t, z.Close())
	}
	return buf.Bytes()
}

func TestTruncatedArchivesAreRefused(t *testing.T) {
	for _, form := range []string{"plain", "zstd", "gzip"} {
		t.Run(form, func(t *testing.T) {
			whole := torn(t, form)
			for n := 0; n < len(whole); n += 509 {
				_, err := read(bytes.NewReader(whole[:n]), Limits{})
				assert.Assert(t, fault.Is(err, fault.Corrupt), "%d of %d: %v", n, len(whole), err)
			}
		})
	}
}

// A flipped bit is found wherever there is a checksum; in a plain archive it
// is, or changes an entry and no more: what is read is never out of bounds.
func TestABitFlippedAnywhereIsFoundOrStaysInBounds(t *testing.T) {
	for _, form := range []string{"plain", "zstd", "gzip"} {
		t.Run(form, func(t *testing.T) {
			whole := torn(t, form)
			step := 1 + len(whole)/250
			for i := 0; i < len(whole); i += step {
				flipped := bytes.Clone(whole)
				flipped[i] ^= 1 << (i / step % 8)
				_, err := read(bytes.NewReader(flipped), Limits{Bytes: 1 << 30})
				assert.Assert(t, err == nil || fault.Is(err, fault.Corrupt), "byte %d of %d: %v", i, len(whole), err)
			}
		})
	}
}

// Names that differ in case are different names, on every file system that
// volumes lie on.
func TestNamesThatDifferInCaseAreKeptApart(t *testing.T) {
	var buf bytes.Buffer
	in := []item{
		{Entry: Entry{Path: ".", Type: Directory, Mode: 0o755}}, {Entry: Entry{Path: "A", Type: Directory, Mode: 0o700}},
		{Entry: Entry{Path: "a", Type: Symlink, Mode: 0o777, Link: "/etc"}}, {Entry: Entry{Path: "A/passwd", Type: File, Mode: 0o600}},
	}
	write(t, &buf, in)
	out, err := read(&buf, Limits{})
	assert.NilError(t, err)
	assert.DeepEqual(t, describe(out), describe(in))
}

func TestAnythingBehindTheEndIsRefused(t *testing.T) {
	for _, form := range []string{"plain", "zstd", "gzip"} {
		t.Run(form, func(t *testing.T) {
			_, err := read(bytes.NewReader(append(torn(t, form), "more"...)), Limits{})
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
		})
	}
}

// A source that fails is not a damaged archive.
func TestErrorsOfTheSourceComeThrough(t *testing.T) {
	for _, form := range []string{"plain", "zstd", "gzip"} {
		t.Run(form, func(t *testing.T) {
			whole := torn(t, form)
			boom := errors.New("boom")
			for n := 0; n < len(whole); n += 1013 {
				r := io.MultiReader(bytes.NewReader(whole[:n]), failing{boom})
				_, err := read(r, Limits{})
				assert.ErrorIs(t, err, boom)
				assert.Assert(t, !fault.Is(err, fault.Corrupt))
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
