package volume

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
)

var errCrash = errors.New("crash")

func registry(t *testing.T, root string, fail durable.Failpoint) *Registry {
	t.Helper()
	dir, err := durable.Open(root, fail)
	assert.NilError(t, err)
	t.Cleanup(func() { dir.Close() })
	return Open(dir)
}

func spec(t *testing.T, name string, opts ...string) Spec {
	t.Helper()
	m := map[string]string{}
	for _, o := range opts {
		key, value, _ := strings.Cut(o, "=")
		m[key] = value
	}
	s, err := Parse(name, m)
	assert.NilError(t, err)
	return s
}

func put(t *testing.T, v Volume, text string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(filepath.Join(v.Dir, Live, "f"), []byte(text), 0o600))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestCreateIsIdempotentAndKeepsData(t *testing.T) {
	root := t.TempDir()
	r := registry(t, root, nil)
	v, err := r.Create(spec(t, "db"))
	assert.NilError(t, err)
	assert.Equal(t, v.Dir, filepath.Join(root, "db"))
	put(t, v, "data")
	again, err := r.Create(spec(t, "db"))
	assert.NilError(t, err)
	assert.DeepEqual(t, again, v)
	assert.Assert(t, exists(filepath.Join(v.Dir, Live, "f")))

	_, err = r.Create(spec(t, "db", "scope=project", "project=p"))
	assert.ErrorContains(t, err, "it exists with scope named")
}

func TestVolumesOfASharedScopeHaveOneTreeUntilTheLastGoes(t *testing.T) {
	root := t.TempDir()
	r := registry(t, root, nil)
	a, err := r.Create(spec(t, "a", "scope=project", "project=p"))
	assert.NilError(t, err)
	b, err := r.Create(spec(t, "b", "scope=project", "project=p"))
	assert.NilError(t, err)
	assert.Equal(t, a.Dir, b.Dir)
	names, err := r.Sharing(a)
	assert.NilError(t, err)
	assert.DeepEqual(t, names, []string{"a", "b"})
	put(t, a, "data")

	assert.NilError(t, r.Remove("a"))
	_, err = r.Get("a")
	assert.ErrorIs(t, err, ErrNotFound)
	assert.Assert(t, exists(filepath.Join(b.Dir, Live, "f")))
	assert.NilError(t, r.Remove("b"))
	assert.Assert(t, !exists(b.Dir))
	assert.ErrorIs(t, r.Remove("b"), ErrNotFound)
}

func TestTreesOfSafetySnapshotsOutliveTheVolume(t *testing.T) {
	r := registry(t, t.TempDir(), nil)
	v, err := r.Create(spec(t, "db"))
	assert.NilError(t, err)
	old := filepath.Join(v.Dir, ".snaprestore-0123456789ab.old")
	assert.NilError(t, os.Mkdir(old, 0o755))
	put(t, v, "data")
	assert.NilError(t, r.Remove("db"))
	assert.NilError(t, r.Sweep(func(string) bool { return false }))
	assert.Assert(t, exists(old))
	all, err := r.List()
	assert.NilError(t, err)
	assert.Equal(t, len(all), 0)

	v, err = r.Create(spec(t, "db"))
	assert.NilError(t, err)
	assert.Assert(t, exists(old))
	assert.Assert(t, !exists(filepath.Join(v.Dir, Live, "f")))
}

// TestCrashAnywhereLeavesAVolumeOrNone walks every durable step of create and
// remove, dies before or after it, and looks at what a new process finds.
func TestCrashAnywhereLeavesAVolumeOrNone(t *testing.T) {
	type act func(t *testing.T, r *Registry) error
	create := func(t *testing.T, r *Registry) error { _, err := r.Create(spec(t, "db")); return err }
	remove := func(t *testing.T, r *Registry) error { return r.Remove("db") }
	for _, c := range []struct {
		name   string
		before bool // the volume exists before, with data
		do     act
		steps  int // fewest that the walk must meet
	}{
		{"create", false, create, 8},
		{"remove", true, remove, 8},
		{"create after remove", true, func(t *testing.T, r *Registry) error {
			if err := remove(t, r); err != nil {
				return err
			}
			return create(t, r)
		}, 16},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := 0
			for ended := false; !ended; at++ {
				root := t.TempDir()
				if c.before {
					v, err := registry(t, root, nil).Create(spec(t, "db"))
					assert.NilError(t, err)
					put(t, v, "data")
				}
				n := 0
				err := c.do(t, registry(t, root, func(durable.Step) error {
					if n++; n > at {
						return errCrash
					}
					return nil
				}))
				ended = err == nil
				if !ended {
					assert.ErrorIs(t, err, errCrash)
				}
				checkWhole(t, root, c.before)
			}
			assert.Assert(t, at/2 >= c.steps, "only %d steps", at/2)
		})
	}
}

func checkWhole(t *testing.T, root string, before bool) {
	t.Helper()
	r := registry(t, root, nil)
	v, err := r.Get("db")
	if err != nil {
		assert.ErrorIs(t, err, ErrNotFound)
	} else {
		assert.Assert(t, exists(filepath.Join(v.Dir, Live)), "a volume without a tree")
		if text, err := os.ReadFile(filepath.Join(v.Dir, Live, "f")); err == nil {
			assert.Assert(t, before && string(text) == "data")
		}
	}
	known := err == nil
	// A removed volume's data never comes back under its name.
	if !known {
		fresh, err := r.Create(spec(t, "db"))
		assert.NilError(t, err)
		assert.Assert(t, !exists(filepath.Join(fresh.Dir, Live, "f")), "deleted data came back")
		assert.NilError(t, r.Remove("db"))
	}
	assert.NilError(t, r.Sweep(func(string) bool { return false }))
	left, err := os.ReadDir(root)
	assert.NilError(t, err)
	assert.Equal(t, len(left) == 1, known, "%v", left)
}

func TestSweepAloneEndsARemovalAndKeepsWhatItDoesNotKnow(t *testing.T) {
	root := t.TempDir()
	r := registry(t, root, nil)
	v, err := r.Create(spec(t, "db"))
	assert.NilError(t, err)
	put(t, v, "data")
	// The record is gone, whoever took it away: the data stays.
	assert.NilError(t, os.Remove(filepath.Join(v.Dir, recordFile)))
	assert.NilError(t, r.Sweep(func(string) bool { return false }))
	assert.Assert(t, exists(filepath.Join(v.Dir, Live, "f")))
	// A record without names: the data goes, unless somebody works there.
	dir, err := durable.Open(v.Dir, nil)
	assert.NilError(t, err)
	defer dir.Close()
	assert.NilError(t, write(dir, record{Key: "db"}))
	assert.NilError(t, r.Sweep(func(dir string) bool { return dir == v.Dir }))
	assert.Assert(t, exists(v.Dir))
	assert.NilError(t, r.Sweep(func(string) bool { return false }))
	assert.Assert(t, !exists(v.Dir))
}

func TestDamagedRecordIsNeverTakenForNoVolume(t *testing.T) {
	root := t.TempDir()
	r := registry(t, root, nil)
	v, err := r.Create(spec(t, "db", "scope=project", "project=p"))
	assert.NilError(t, err)
	path := filepath.Join(v.Dir, recordFile)
	good, err := os.ReadFile(path)
	assert.NilError(t, err)
	check := func(data []byte, mode os.FileMode, want error) {
		t.Helper()
		assert.NilError(t, os.WriteFile(path, data, 0o600))
		assert.NilError(t, os.Chmod(path, mode))
		_, err := r.Get("db")
		assert.ErrorIs(t, err, want)
		_, err = r.Get("unheard-of") // it might be the one that cannot be read
		assert.ErrorIs(t, err, want)
		_, err = r.List()
		assert.ErrorIs(t, err, want)
		assert.ErrorIs(t, r.Sweep(func(string) bool { return false }), want)
	}
	for cut := range good {
		check(good[:cut], 0o600, ErrCorrupt)
	}
	check(good, 0o622, ErrCorrupt)
	check([]byte(strings.Replace(string(good), `"format":1`, `"format":2`, 1)), 0o600, ErrNewer)
	for _, body := range []record{
		{Key: "project@q", Volumes: []Volume{{Spec: spec(t, "db", "scope=project", "project=q")}}},
		{Key: "project@p", Volumes: []Volume{{Spec: spec(t, "db")}}},
		{Key: "project@p", Volumes: []Volume{{Spec: Spec{Name: "../db"}}}},
	} {
		raw, err := json.Marshal(body)
		assert.NilError(t, err)
		data, err := json.Marshal(envelope{Format: Format, CRC: checksum(raw), Body: raw})
		assert.NilError(t, err)
		check(data, 0o600, ErrCorrupt)
	}
}

func FuzzDecode(f *testing.F) {
	body := []byte(`{"key":"db","volumes":[{"name":"db","scope":"named","created":"2025-01-01T00:00:00Z"}]}`)
	good, err := json.Marshal(envelope{Format: Format, CRC: checksum(body), Body: body})
	assert.NilError(f, err)
	f.Add(good)
	f.Add([]byte(`{"format":1,"crc32c":"00000000","body":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decode(data)
		if err != nil {
			return
		}
		for _, v := range rec.Volumes {
			assert.Equal(t, v.Key(), rec.Key)
			assert.Equal(t, filepath.Base(v.Key()), v.Key())
		}
	})
}
