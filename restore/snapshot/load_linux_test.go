package snapshot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/restore/fault"
)

func TestADescriptionWithAnyBitFlippedOrTornIsNotBelieved(t *testing.T) {
	want := made(idA, "before-upgrade", "shop", 0)
	data, err := Encode(want)
	assert.NilError(t, err)
	check := func(what string, data []byte) {
		got, err := Decode(data)
		if err != nil {
			assert.Assert(t, fault.Is(err, fault.Corrupt) || strings.Contains(err.Error(), "this version reads up to"), "%s: %v", what, err)
			return
		}
		// Only the case of a field's name may go unnoticed.
		assert.DeepEqual(t, got, want)
	}
	for i := range data {
		check(fmt.Sprintf("torn after %d bytes", i), data[:i])
		_, err := Decode(data[:i])
		assert.Assert(t, err != nil, "torn after %d bytes", i)
		for bit := range 8 {
			flipped := bytes.Clone(data)
			flipped[i] ^= 1 << bit
			check(fmt.Sprintf("bit %d of byte %d flipped", bit, i), flipped)
		}
	}
}

func TestADescriptionThatBreaksARuleIsNotBelieved(t *testing.T) {
	tree := func(snap *Snapshot) *Volume { *snap = safety(idA, idB); return &snap.Volumes[0] }
	for name, breaks := range map[string]func(*Snapshot){
		"no id":                      func(s *Snapshot) { s.ID = "" },
		"an id that is a path":       func(s *Snapshot) { s.ID = "../aaaaaaaaa" },
		"no date":                    func(s *Snapshot) { s.Created = time.Time{} },
		"an unknown kind":            func(s *Snapshot) { s.Kind = "other" },
		"a name that is reserved":    func(s *Snapshot) { s.Name = Latest },
		"safety without operation":   func(s *Snapshot) { tree(s); s.Operation = "" },
		"safety with a common name":  func(s *Snapshot) { tree(s); s.Name = "mine" },
		"safety of another one":      func(s *Snapshot) { tree(s); s.Operation = idC },
		"safety with an archive":     func(s *Snapshot) { v := s.Volumes; tree(s); s.Volumes = v },
		"a volume without a name":    func(s *Snapshot) { s.Volumes[0].Name = "" },
		"a volume without an engine": func(s *Snapshot) { s.Volumes[0].Engine = "" },
		"a size below zero":          func(s *Snapshot) { s.Volumes[0].Stored = -1 },
		"a tree in a made one":       func(s *Snapshot) { v := tree(s); *s = made(idA, "", "", 0); s.Volumes[0] = *v },
		"a tree beside a file":       func(s *Snapshot) { s.Volumes[0].Tree = "/etc" },
		"a file beside a tree":       func(s *Snapshot) { tree(s).File = "0.tar.zst" },
		"a tree that is relative":    func(s *Snapshot) { tree(s).Tree = "etc" },
		"a tree that climbs":         func(s *Snapshot) { tree(s).Tree = "/volumes/../etc" },
		"a tree with a NUL":          func(s *Snapshot) { tree(s).Tree = "/a\x00b" },
		"no file":                    func(s *Snapshot) { s.Volumes[0].File = "" },
		"a file that climbs":         func(s *Snapshot) { s.Volumes[0].File = ".." },
		"a file that is a path":      func(s *Snapshot) { s.Volumes[0].File = "/etc/passwd" },
		"a file below":               func(s *Snapshot) { s.Volumes[0].File = "a/b" },
		"a file that is hidden":      func(s *Snapshot) { s.Volumes[0].File = ".a" },
		"the description as a file":  func(s *Snapshot) { s.Volumes[0].File = File },
		"one file for two volumes":   func(s *Snapshot) { s.Volumes = append(s.Volumes, s.Volumes[0]) },
		"a checksum that is none":    func(s *Snapshot) { s.Volumes[0].SHA256 = "abc" },
	} {
		t.Run(name, func(t *testing.T) {
			snap := made(idA, "", "", 0)
			breaks(&snap)
			data, err := Encode(snap)
			assert.NilError(t, err)
			_, err = Decode(data)
			assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
		})
	}
}

func TestWhatIsNotASnapshotOfOursIsRefusedAndTheOthersListed(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, nil)
	good := made(idC, "", "", 0)
	assert.NilError(t, commit(s, good))
	dir, file := filepath.Join(path, idA), filepath.Join(path, idA, File)

	newer := func() {
		data, err := json.Marshal(envelope{Format: Format + 1, Body: json.RawMessage(`{"another":"layout"}`)})
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(file, data, 0o600))
	}
	elsewhere := filepath.Join(t.TempDir(), File)
	for name, test := range map[string]struct {
		spoil func()
		kind  fault.Kind
		says  string
	}{
		"no description":       {func() { assert.NilError(t, os.Remove(file)) }, fault.Corrupt, "no such file"},
		"an empty description": {func() { assert.NilError(t, os.Truncate(file, 0)) }, fault.Corrupt, "JSON"},
		"a huge description":   {func() { assert.NilError(t, os.Truncate(file, FileLimit+1)) }, fault.Corrupt, "too large"},
		"writable by others":   {func() { assert.NilError(t, os.Chmod(file, 0o620)) }, fault.Corrupt, "another user"},
		"of another snapshot":  {func() { assert.NilError(t, os.Rename(filepath.Join(path, idA), filepath.Join(path, idB))) }, fault.NotFound, "no such snapshot"},
		"a link": {func() {
			assert.NilError(t, os.Rename(file, elsewhere))
			assert.NilError(t, os.Symlink(elsewhere, file))
		}, fault.Corrupt, "symbolic links"},
		"a directory for a link": {func() { assert.NilError(t, os.RemoveAll(dir)); assert.NilError(t, os.Symlink(idC, dir)) }, fault.Corrupt, "symbolic links"},
		"a file":                 {func() { assert.NilError(t, os.RemoveAll(dir)); assert.NilError(t, os.WriteFile(dir, nil, 0o600)) }, fault.Corrupt, "not a directory"},
		"of a newer format":      {newer, fault.Failed, "its format is 2 and this version reads up to 1"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.NilError(t, commit(s, made(idA, "", "", time.Hour)))
			test.spoil()
			_, err := s.Load(idA)
			assert.Assert(t, fault.Is(err, test.kind), "%v", err)
			assert.ErrorContains(t, err, test.says)
			assert.Check(t, fault.From(err).Hint != "")

			snaps, err := s.List()
			assert.Assert(t, err != nil)
			assert.Check(t, is.Contains(err.Error(), "read snapshot "))
			assert.DeepEqual(t, snaps, []Snapshot{good})

			for _, id := range []string{idA, idB} {
				assert.NilError(t, s.Remove(id), "what is damaged can be removed")
			}
			snaps, err = s.List()
			assert.NilError(t, err)
			assert.DeepEqual(t, snaps, []Snapshot{good})
		})
	}
}

func TestAForeignOwnersDescriptionIsNotBelieved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := t.TempDir()
	s := open(t, path, nil)
	assert.NilError(t, commit(s, made(idA, "", "", 0)))
	assert.NilError(t, os.Chown(filepath.Join(path, idA, File), 1000, 0))
	_, err := s.Load(idA)
	assert.Assert(t, fault.Is(err, fault.Corrupt), "%v", err)
	assert.ErrorContains(t, err, "another user")
}

func TestListIsNewestFirst(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	var want []string
	for _, id := range []string{idB, idC, idA} {
		assert.NilError(t, commit(s, made(id, "", "", time.Duration(len(want))*time.Minute)))
		want = append(want, id)
	}
	snaps, err := s.List()
	assert.NilError(t, err)
	var got []string
	for _, snap := range snaps {
		got = append(got, snap.ID)
	}
	assert.DeepEqual(t, got, want)
}

func FuzzDecode(f *testing.F) {
	for _, snap := range []Snapshot{made(idA, "name", "shop", 0), safety(idA, idB)} {
		data, err := Encode(snap)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"format":1,"crc32c":"00000000","body":null}`))
	f.Add([]byte(`{"format":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		snap, err := Decode(data)
		if err != nil {
			return
		}
		// What is believed keeps the rules and survives another writing.
		assert.NilError(t, snap.validate())
		again, err := Encode(snap)
		assert.NilError(t, err)
		same, err := Decode(again)
		assert.NilError(t, err)
		assert.Equal(t, same.ID, snap.ID)
		for _, v := range snap.Volumes {
			assert.Assert(t, v.File == "" || filepath.Base(v.File) == v.File)
		}
	})
}
