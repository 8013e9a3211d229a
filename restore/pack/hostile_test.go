//go:build linux

package pack

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// forge writes a file whose sums are all right and whose index is records,
// after a frame with content.
func forge(t testing.TB, dir string, content []byte, records func(at frame) []byte, files, bytes int64) copyengine.Content {
	t.Helper()
	data := []byte(head)
	packed, f := encode(content, nil)
	f.offset = int64(len(data))
	data = append(data, packed...)
	packed, x := encode(records(f), nil)
	x.offset = int64(len(data))
	data = append(data, packed...)
	tr := trailer{bytes: bytes, files: files, index: []frame{x}}
	end := tr.encode()
	data = append(data, end...)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, FileName(0)), data, 0o600))
	sum := sha256.Sum256(end)
	return copyengine.Content{File: FileName(0), SHA256: hex.EncodeToString(sum[:]), Bytes: bytes, Files: files, Stored: int64(len(data))}
}

// raw is an entry's record as it stands, whatever it says: type, flags, name,
// no time, and what follows.
func raw(typ tree.Type, flags byte, name string, rest ...byte) []byte {
	b := []byte{tagEntry, byte(typ), flags}
	b = appendString(b, name)
	b = append(b, 0, 0)
	return append(b, rest...)
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

var (
	top = raw(tree.Directory, 0, "")
	end = []byte{tagEnd}
)

// only is a file of n bytes at offset of the last frame.
func only(name string, n, offset uint64) []byte {
	return raw(tree.File, hasFrame, name, join(binary.AppendUvarint(nil, n), []byte{0}, binary.AppendUvarint(nil, offset))...)
}

func TestAnIndexWithRightSumsIsRefusedWhenItBreaksARule(t *testing.T) {
	content := []byte("0123456789")
	file, halves := only("f", 10, 0), join(only("f", 5, 0), only("g", 5, 5))
	large := raw(tree.File, hasParts, "f", 10)
	dir := func(name string) []byte { return raw(tree.Directory, 0, name) }
	for name, records := range map[string]func(f frame) []byte{
		"nothing":           func(f frame) []byte { return nil },
		"no top":            func(f frame) []byte { return join(appendFrame(nil, &f), end) },
		"a name as the top": func(f frame) []byte { return join(appendFrame(nil, &f), dir("a"), file, end) },
		"a file as the top": func(f frame) []byte { return join(appendFrame(nil, &f), only("", 10, 0), end) },
		"a second top":      func(f frame) []byte { return join(appendFrame(nil, &f), top, file, top, end) },
		"dot":               func(f frame) []byte { return join(appendFrame(nil, &f), top, dir("."), file, end) },
		"dot dot":           func(f frame) []byte { return join(appendFrame(nil, &f), top, dir(".."), file, end) },
		"a path as a name":  func(f frame) []byte { return join(appendFrame(nil, &f), top, only("../f", 10, 0), end) },
		"an absolute path":  func(f frame) []byte { return join(appendFrame(nil, &f), top, only("/f", 10, 0), end) },
		"NUL in a name":     func(f frame) []byte { return join(appendFrame(nil, &f), top, only("f\x00", 10, 0), end) },
		"a long name": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, only(strings.Repeat("f", 256), 10, 0), end)
		},
		"a name twice":       func(f frame) []byte { return join(appendFrame(nil, &f), top, dir("f"), []byte{tagUp, 1}, file, end) },
		"names out of order": func(f frame) []byte { return join(appendFrame(nil, &f), top, dir("g"), []byte{tagUp, 1}, file, end) },
		"up from the top":    func(f frame) []byte { return join(appendFrame(nil, &f), top, []byte{tagUp, 1}, file, end) },
		"up by nothing":      func(f frame) []byte { return join(appendFrame(nil, &f), top, dir("a"), []byte{tagUp, 0}, file, end) },
		"up before the top":  func(f frame) []byte { return join([]byte{tagUp, 1}, appendFrame(nil, &f), top, file, end) },
		"an unknown record":  func(f frame) []byte { return join(appendFrame(nil, &f), top, file, []byte{9}, end) },
		"an unknown type":    func(f frame) []byte { return join(appendFrame(nil, &f), top, raw('7', 0, "a"), file, end) },
		"an unknown flag": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.Fifo, knownFlags, "a"), file, end)
		},
		"a mode out of range": func(f frame) []byte { return join(appendFrame(nil, &f), top, raw(tree.Fifo, hasOwner, "a"), file, end) },
		"content of a fifo": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.Fifo, hasFrame, "f", 10, 0, 0), end)
		},
		"a link to nothing": func(f frame) []byte { return join(appendFrame(nil, &f), top, file, raw(tree.Symlink, 0, "g", 0), end) },
		"NUL in a link": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, file, raw(tree.Symlink, 0, "g", 1, 0), end)
		},
		"a hard link to none": func(f frame) []byte { return join(appendFrame(nil, &f), top, file, raw(tree.HardLink, 0, "g", 0), end) },
		"a hard link ahead": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.HardLink, hasNames, "a", 0), file, end)
		},
		"a directory's names": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.Directory, hasNames, "a"), file, end)
		},
		"a device out of range": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, file, raw(tree.CharDevice, 0, "g", 0x80, 0x20, 0), end)
		},
		"more content than its frame": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, only("f", 11, 0), end)
		},
		"content behind its frame": func(f frame) []byte { return join(appendFrame(nil, &f), top, only("f", 10, 1), end) },
		"content of no frame":      func(f frame) []byte { return join(top, file, appendFrame(nil, &f), end) },
		"a file without content":   func(f frame) []byte { return join(appendFrame(nil, &f), top, raw(tree.File, 0, "f", 10), end) },
		"content twice": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, hasFrame|hasParts, "f", 10, 0, 0), []byte{tagSegment, 0}, end)
		},
		"missing segments": func(f frame) []byte { return join(appendFrame(nil, &f), top, large, end) },
		"missing segments before an entry": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, large, raw(tree.Fifo, 0, "g"), []byte{tagSegment, 0}, end)
		},
		"a segment too many": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, large, []byte{tagSegment, 0, tagSegment, 0}, end)
		},
		"a segment of no file": func(f frame) []byte { return join(appendFrame(nil, &f), top, file, []byte{tagSegment, 0}, end) },
		"a segment of another size": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, hasParts, "f", 9), []byte{tagSegment, 0}, end)
		},
		"a segment of no frame": func(f frame) []byte { return join(appendFrame(nil, &f), top, large, []byte{tagSegment, 1}, end) },
		"a large file of nothing": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, hasParts, "a", 0), file, end)
		},
		"a part outside of the file": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, hasFrame|hasHoles, "f", 10, 1, 1, 10, 0, 0), end)
		},
		"a part of nothing": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, hasFrame|hasHoles, "f", 10, 2, 0, 0, 0, 10, 0, 0), end)
		},
		"a time out of range": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, join([]byte{tagEntry, byte(tree.Fifo), 0, 1, 'a', 0}, binary.AppendUvarint(nil, 1e9)), file, end)
		},
		"an endless number": func(f frame) []byte {
			return join(appendFrame(nil, &f), top, raw(tree.File, 0, "a", 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255), file, end)
		},
		"no end":              func(f frame) []byte { return join(appendFrame(nil, &f), top, file) },
		"something behind it": func(f frame) []byte { return join(appendFrame(nil, &f), top, file, end, end) },
		"a frame twice": func(f frame) []byte {
			return join(appendFrame(appendFrame(nil, &f), &frame{offset: f.offset + f.stored}), top, only("a", 10, 0), end)
		},
		"a frame outside":     func(f frame) []byte { f.offset = 1 << 40; return join(appendFrame(nil, &f), top, file, end) },
		"a frame of the head": func(f frame) []byte { f.offset = 0; return join(appendFrame(nil, &f), top, file, end) },
		"a frame with more":   func(f frame) []byte { f.raw = 11; return join(appendFrame(nil, &f), top, halves, end) },
		"a frame with less": func(f frame) []byte {
			f.raw = 9
			return join(appendFrame(nil, &f), top, only("f", 5, 0), only("g", 5, 4), end)
		},
		"a frame too large":     func(f frame) []byte { f.raw = frameSize + 1; return join(appendFrame(nil, &f), top, file, end) },
		"a frame of other sums": func(f frame) []byte { f.sum[0]++; return join(appendFrame(nil, &f), top, halves, end) },
		"a frame of other bits": func(f frame) []byte { f.crc++; return join(appendFrame(nil, &f), top, halves, end) },
		"a frame cut short":     func(f frame) []byte { f.stored--; return join(appendFrame(nil, &f), top, halves, end) },
	} {
		t.Run(name, func(t *testing.T) {
			err := refused(t, content, records, 2, 10)
			assert.Assert(t, !strings.Contains(err.Error(), "were stored"), "it is the count that does not fit: %v", err)
		})
	}
	t.Run("a frame that no record names", func(t *testing.T) {
		err := refused(t, content, func(f frame) []byte { return join(top, raw(tree.Fifo, 0, "f"), end) }, 1, 0)
		assert.ErrorContains(t, err, "describes")
	})
	t.Run("the same without a fault", func(t *testing.T) {
		d := t.TempDir()
		c := forge(t, d, content, func(f frame) []byte { return join(appendFrame(nil, &f), top, file, end) }, 1, 10)
		store := openDir(t, d)
		assert.NilError(t, New().Verify(context.Background(), store, c, nobody))
	})
}

// A frame that says that it has a little and has a lot takes no memory.
func TestAFrameThatUnpacksToMoreIsRefused(t *testing.T) {
	refused(t, make([]byte, 512<<20), func(f frame) []byte {
		f.raw = 10
		return join(appendFrame(nil, &f), top, only("f", 10, 0), end)
	}, 1, 10)
}

func nobody(int64, int64) {}

func openDir(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

// refused expects that neither Verify nor Load takes a forged file, and that
// nothing is touched outside of the target.
func refused(t *testing.T, content []byte, records func(frame) []byte, files, bytes int64) error {
	t.Helper()
	base := t.TempDir()
	for _, name := range []string{"store", "target"} {
		assert.NilError(t, os.Mkdir(filepath.Join(base, name), 0o700))
	}
	c := forge(t, filepath.Join(base, "store"), content, records, files, bytes)
	store, target := openDir(t, filepath.Join(base, "store")), openDir(t, filepath.Join(base, "target"))
	verified := New().Verify(context.Background(), store, c, nobody)
	assert.Assert(t, fault.Is(verified, fault.Corrupt), "verify: %v", verified)
	err := New().Load(context.Background(), store, c, target, nobody)
	assert.Assert(t, fault.Is(err, fault.Corrupt), "load: %v", err)
	there, err := os.ReadDir(base)
	assert.NilError(t, err)
	assert.Equal(t, len(there), 2)
	return verified
}

// filled saves a tree that takes several frames, and gives the file's bytes.
func filled(t *testing.T) (dir string, c copyengine.Content, whole []byte) {
	t.Helper()
	dir = t.TempDir()
	source := filepath.Join(dir, "source")
	assert.NilError(t, os.Mkdir(source, 0o700))
	chunk := make([]byte, 300<<10)
	for i := range chunk {
		chunk[i] = byte(i * i >> 3)
	}
	for _, name := range []string{"a", "b", "c"} {
		assert.NilError(t, os.WriteFile(filepath.Join(source, name), chunk[:200<<10], 0o600))
		assert.NilError(t, os.WriteFile(filepath.Join(source, name+"large"), join(chunk, chunk, chunk, chunk), 0o600))
	}
	c, err := New().Save(context.Background(), openDir(t, source), openDir(t, dir), 0, func(string, string) {}, nobody)
	assert.NilError(t, err)
	whole, err = os.ReadFile(filepath.Join(dir, c.File))
	assert.NilError(t, err)
	return dir, c, whole
}

func TestDamageOfAnyFrameIsFound(t *testing.T) {
	dir, c, whole := filled(t)
	store := openDir(t, dir)
	s, err := open(store, c)
	assert.NilError(t, err)
	spots := []int64{0, int64(len(head)) - 1, s.size, c.Stored - 1}
	frames := append([]frame(nil), s.t.index...)
	x := s.index()
	for {
		k, err := x.next()
		if err != nil {
			break
		}
		if k == atFrame {
			frames = append(frames, x.latest())
		}
	}
	s.close()
	assert.Assert(t, len(frames) > 8, "%d frames", len(frames))
	for _, f := range frames {
		spots = append(spots, f.offset, f.offset+f.stored/2, f.offset+f.stored-1)
	}
	for _, at := range spots {
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= 0x10
		assert.NilError(t, os.WriteFile(filepath.Join(dir, c.File), damaged, 0o600))
		target := filepath.Join(dir, "target")
		assert.NilError(t, os.RemoveAll(target))
		assert.NilError(t, os.Mkdir(target, 0o700))
		err := New().Verify(context.Background(), store, c, nobody)
		assert.Assert(t, fault.Is(err, fault.Corrupt), "byte %d, verify: %v", at, err)
		err = New().Load(context.Background(), store, c, openDir(t, target), nobody)
		assert.Assert(t, fault.Is(err, fault.Corrupt), "byte %d, load: %v", at, err)
	}
}

func FuzzAnIndexIsReadOrRefused(f *testing.F) {
	f.Add([]byte{tagEnd})
	f.Add(join(top, raw(tree.File, 0, "a", 0), raw(tree.Symlink, hasNames, "b", 1, 'x'), raw(tree.HardLink, 0, "c", 0), end))
	f.Add(join(top, raw(tree.Directory, 0, "d"), only("f", 10, 0), []byte{tagUp, 1}, raw(tree.File, hasParts, "g", 10), []byte{tagSegment, 0}, end))
	r := newRecorder()
	b := r.entry(nil, &tree.Entry{Path: ".", Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(1, 2)}, content{}, false, nil)
	b = r.entry(b, &tree.Entry{Path: "x", Type: tree.File, UID: 1, ModTime: time.Unix(-1, 2), Size: 1 << 40, Sparse: true,
		Xattrs: []tree.Xattr{{Name: "user.a", Value: "b"}}}, content{}, true, &mark{5, time.Unix(7, 8)})
	f.Add(append(b, tagEnd))
	f.Fuzz(func(t *testing.T, records []byte) {
		dir := t.TempDir()
		c := forge(t, dir, []byte("0123456789"), func(f frame) []byte { return append(appendFrame(nil, &f), records...) }, 1, 10)
		err := New().Verify(context.Background(), openDir(t, dir), c, nobody)
		assert.Assert(t, err == nil || fault.Is(err, fault.Corrupt), "%v", err)
	})
}
