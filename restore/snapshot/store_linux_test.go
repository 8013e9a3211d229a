package snapshot

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
	idC = "cccccccccccc"
)

// errCrash is what every step of a dead process gives.
var errCrash = errors.New("the process died")

// crash makes a failpoint that lets n calls pass and fails all others.
func crash(n int) durable.Failpoint {
	return func(durable.Step) error {
		if n--; n < 0 {
			return errCrash
		}
		return nil
	}
}

// calls counts how often do, on a good store, comes to a failpoint.
func calls(t *testing.T, prepare, do func(t *testing.T, s *Store) error) (n int) {
	t.Helper()
	path := t.TempDir()
	assert.NilError(t, prepare(t, open(t, path, nil)))
	assert.NilError(t, do(t, open(t, path, func(durable.Step) error { n++; return nil })))
	assert.Assert(t, n > 0)
	return n
}

// crashes runs do in a store made by prepare, once for each of its failpoints
// (before and after every durable step), where it dies; check then sees what
// the next process finds.
func crashes(t *testing.T, prepare, do func(t *testing.T, s *Store) error, check func(t *testing.T, s *Store)) {
	t.Helper()
	for n := range calls(t, prepare, do) {
		t.Run(fmt.Sprint("failpoint ", n), func(t *testing.T) {
			path := t.TempDir()
			assert.NilError(t, prepare(t, open(t, path, nil)))
			err := do(t, open(t, path, crash(n)))
			assert.Assert(t, errors.Is(err, errCrash), "%v", err)
			check(t, open(t, path, nil))
		})
	}
}

func nothing(*testing.T, *Store) error { return nil }

func open(t testing.TB, path string, fail durable.Failpoint) *Store {
	t.Helper()
	dir, err := durable.Open(path, fail)
	assert.NilError(t, err)
	t.Cleanup(func() { dir.Close() })
	s, err := Open(dir)
	assert.NilError(t, err)
	return s
}

// content of the one volume of made snapshots.
var content = []byte("stored bytes")

func made(id, name, project string, age time.Duration) Snapshot {
	return Snapshot{
		Format: Format, ID: id, Name: name, Kind: Made, Project: project, Created: noon.Add(-age),
		Labels: map[string]string{"ticket": "7"}, Consistency: Pause, Operation: id,
		Volumes: []Volume{{
			Name: "shop_db", Engine: "archive", File: "0.tar.zst", SHA256: fmt.Sprintf("%x", sha256.Sum256(content)),
			Bytes: 4, Files: 1, Stored: int64(len(content)), Uses: []Use{{Container: "db", Target: "/data"}},
		}},
	}
}

func safety(id, operation string) Snapshot {
	return Snapshot{
		Format: Format, ID: id, Name: SafetyName(journal.Restore, operation), Kind: Safety, Created: noon, Operation: operation,
		Volumes: []Volume{{Name: "shop_db", Engine: Tree, Tree: "/volumes/shop_db/.snaprestore-" + operation + ".old"}},
	}
}

// commit makes snap in the store, with its content.
func commit(s *Store, snap Snapshot) error {
	d, err := s.New(snap.ID)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, v := range snap.Volumes {
		if err := d.Root().WriteFile(v.File, content, 0o600); err != nil {
			return err
		}
	}
	return d.Commit(snap)
}

// whole checks that the snapshot is in the store with all of its content.
func whole(t *testing.T, s *Store, want Snapshot) {
	t.Helper()
	got, err := s.Load(want.ID)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
	root, err := s.Content(want.ID)
	assert.NilError(t, err)
	defer root.Close()
	for _, v := range want.Volumes {
		if v.File == "" {
			continue
		}
		data, err := root.ReadFile(v.File)
		assert.NilError(t, err)
		assert.DeepEqual(t, data, content)
	}
}

// absent checks that nobody sees the snapshot.
func absent(t *testing.T, s *Store, id string) {
	t.Helper()
	_, err := s.Load(id)
	assert.Assert(t, fault.Is(err, fault.NotFound), "%v", err)
	_, err = s.Content(id)
	assert.Assert(t, fault.Is(err, fault.NotFound), "%v", err)
	snaps, err := s.List()
	assert.NilError(t, err)
	for _, snap := range snaps {
		assert.Assert(t, snap.ID != id)
	}
}

// wholeOrAbsent checks that there is no third state, and tells which it is.
func wholeOrAbsent(t *testing.T, s *Store, want Snapshot) bool {
	t.Helper()
	if _, err := s.Load(want.ID); fault.Is(err, fault.NotFound) {
		absent(t, s, want.ID)
		return false
	}
	whole(t, s, want)
	return true
}

func names(t *testing.T, s *Store) []string {
	t.Helper()
	all, err := s.dir.Names()
	assert.NilError(t, err)
	return all
}

func nobody(string) bool { return false }

func TestACrashOfCommitLeavesTheSnapshotWholeOrHidden(t *testing.T) {
	want := made(idA, "before-upgrade", "shop", 0)
	crashes(t, nothing, func(_ *testing.T, s *Store) error { return commit(s, want) },
		func(t *testing.T, s *Store) {
			there := wholeOrAbsent(t, s, want)
			assert.NilError(t, s.Discard(idA))
			assert.NilError(t, s.Discard(idA), "a second time")
			if there {
				whole(t, s, want)
				return
			}
			assert.Check(t, is.Len(names(t, s), 0))
			assert.NilError(t, commit(s, want))
			whole(t, s, want)
		})
}

func TestAnErrorOfCommitIsInDoubtOnlyWhereTheSnapshotMayBeThere(t *testing.T) {
	want := made(idA, "", "shop", 0)
	do := func(_ *testing.T, s *Store) error { return commit(s, want) }
	total := calls(t, nothing, do)
	doubts := 0
	for n := range total {
		path := t.TempDir()
		left := n
		s := open(t, path, func(durable.Step) error { // a full disk, once
			if left--; left == -1 {
				return unix.ENOSPC
			}
			return nil
		})
		err := do(t, s)
		assert.Assert(t, errors.Is(err, unix.ENOSPC), "%v", err)
		s = open(t, path, nil)
		if fault.Is(err, fault.InDoubt) {
			doubts++
			whole(t, s, want)
			assert.Check(t, fault.From(err).Hint != "")
			continue
		}
		absent(t, s, idA)
		assert.NilError(t, s.Discard(idA))
		assert.Check(t, is.Len(names(t, s), 0))
	}
	assert.Assert(t, doubts > 0 && doubts < total, "%d of %d", doubts, total)
}

func TestCommitRefusesWhatItsDraftDoesNotHold(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	for name, change := range map[string]func(*Snapshot){
		"another id":         func(snap *Snapshot) { snap.ID = idB },
		"a missing file":     func(snap *Snapshot) { snap.Volumes[0].File = "1.tar.zst" },
		"another size":       func(snap *Snapshot) { snap.Volumes[0].Stored++ },
		"a path":             func(snap *Snapshot) { snap.Volumes[0].File = "../0.tar.zst" },
		"the description":    func(snap *Snapshot) { snap.Volumes[0].File = File },
		"no checksum":        func(snap *Snapshot) { snap.Volumes[0].SHA256 = "" },
		"no kind":            func(snap *Snapshot) { snap.Kind = "" },
		"a safety snapshot":  func(snap *Snapshot) { *snap = safety(idA, idB) },
		"a tree":             func(snap *Snapshot) { snap.Volumes[0].Tree = "/etc" },
		"a name that is bad": func(snap *Snapshot) { snap.Name = "latest" },
		"one file twice":     func(snap *Snapshot) { snap.Volumes = append(snap.Volumes, snap.Volumes[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			d, err := s.New(idA)
			assert.NilError(t, err)
			assert.NilError(t, d.Root().WriteFile("0.tar.zst", content, 0o600))
			snap := made(idA, "", "", 0)
			change(&snap)
			assert.Assert(t, d.Commit(snap) != nil)
			absent(t, s, idA)
			assert.NilError(t, s.Discard(idA))
		})
	}
}

func TestAnIDIsUsedOnce(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	_, err := s.New("../etc")
	assert.ErrorContains(t, err, "bad id")
	d, err := s.New(idA)
	assert.NilError(t, err)
	defer d.Close()
	_, err = s.New(idA)
	assert.Assert(t, errors.Is(err, fs.ErrExist), "%v", err)

	assert.NilError(t, commit(s, made(idB, "", "", 0)))
	_, err = s.New(idB)
	assert.ErrorContains(t, err, "exists already")
	whole(t, s, made(idB, "", "", 0))
}

func TestANameIsGivenOnceThoughManyAskAtATime(t *testing.T) {
	path := t.TempDir()
	const contenders = 8
	errs := make([]error, contenders)
	var group sync.WaitGroup
	for i := range contenders {
		s := open(t, path, nil)
		group.Go(func() { errs[i] = commit(s, made(fmt.Sprintf("%012x", i), "nightly", "shop", 0)) })
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		assert.ErrorContains(t, err, `is named "nightly" already`)
		assert.Check(t, strings.Contains(fault.From(err).Hint, "docker snaprestore"))
	}
	assert.Equal(t, won, 1)
	snaps, err := open(t, path, nil).List()
	assert.NilError(t, err)
	assert.Equal(t, len(snaps), 1)
}

func TestACrashOfPutLeavesTheSafetySnapshotWholeOrAbsent(t *testing.T) {
	want := safety(idA, idB)
	put := func(_ *testing.T, s *Store) error { return s.Put(want) }
	crashes(t, nothing, put, func(t *testing.T, s *Store) {
		wholeOrAbsent(t, s, want)
		assert.NilError(t, s.Put(want), "the recovery's")
		whole(t, s, want)
		assert.DeepEqual(t, names(t, s), []string{idA})
	})
	// A recovery's Put that finds it there dies too.
	crashes(t, put, put, func(t *testing.T, s *Store) { whole(t, s, want) })
}

func TestPutAgainKeepsTheFirstAndRefusesAnother(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	first := safety(idA, idB)
	assert.NilError(t, s.Put(first))
	later := safety(idA, idB)
	later.Tool, later.Created = "another version", noon.Add(time.Hour)
	assert.NilError(t, s.Put(later))
	whole(t, s, first)

	other := safety(idA, idB)
	other.Volumes[0].Tree = "/volumes/elsewhere"
	assert.ErrorContains(t, s.Put(other), "another one has this id")
	whole(t, s, first)

	assert.ErrorContains(t, s.Put(made(idC, "", "", 0)), "has content")
	absent(t, s, idC)
}

func TestASweepMeetsNoPutHalfWay(t *testing.T) {
	path := t.TempDir()
	met := 0
	s := open(t, path, func(durable.Step) error {
		// What Sweep asks for, without waiting.
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
			return fmt.Errorf("the store is not locked: %w", err)
		}
		met++
		return nil
	})
	assert.NilError(t, s.Put(safety(idA, idB)))
	assert.Assert(t, met > 0)
	assert.NilError(t, open(t, path, nil).Sweep(nobody))
	whole(t, open(t, path, nil), safety(idA, idB))
}

func TestACrashOfRemoveLeavesTheSnapshotWholeOrAbsent(t *testing.T) {
	for _, want := range []Snapshot{made(idA, "", "", 0), safety(idA, idB)} {
		t.Run(string(want.Kind), func(t *testing.T) {
			other := made(idC, "other", "", 0)
			prepare := func(_ *testing.T, s *Store) error {
				if want.Kind == Safety {
					return errors.Join(commit(s, other), s.Put(want))
				}
				return errors.Join(commit(s, other), commit(s, want))
			}
			crashes(t, prepare, func(_ *testing.T, s *Store) error { return s.Remove(idA) },
				func(t *testing.T, s *Store) {
					if !wholeOrAbsent(t, s, want) {
						assert.NilError(t, s.Sweep(nobody))
						assert.DeepEqual(t, names(t, s), []string{idC})
					}
					assert.NilError(t, s.Remove(idA))
					assert.NilError(t, s.Remove(idA), "a second time")
					assert.DeepEqual(t, names(t, s), []string{idC})
					whole(t, s, other)
				})
		})
	}
}

func TestAnIDThatCameBackAfterATornRemovalIsRemovedAgain(t *testing.T) {
	path := t.TempDir()
	s := open(t, path, nil)
	assert.NilError(t, os.MkdirAll(filepath.Join(path, removedName(idA), "rest"), 0o700))
	assert.NilError(t, s.Put(safety(idA, idB)))
	assert.NilError(t, s.Remove(idA))
	assert.Check(t, is.Len(names(t, s), 0))
}

func TestSweepDeletesLeftoversAndNothingElse(t *testing.T) {
	prepare := func(t *testing.T, s *Store) error {
		path := s.dir.Path()
		for _, name := range []string{removedName(idA), partialName(idB), partialName(idC), removedName(idC), ".unknown", "lost+found"} {
			assert.NilError(t, os.MkdirAll(filepath.Join(path, name, "0"), 0o700))
			assert.NilError(t, os.WriteFile(filepath.Join(path, name, "0", "file"), content, 0o600))
		}
		return commit(s, made("dddddddddddd", "", "", 0))
	}
	busy := func(id string) bool { return id == idC }
	sweep := func(_ *testing.T, s *Store) error { return s.Sweep(busy) }
	check := func(t *testing.T, s *Store) {
		whole(t, s, made("dddddddddddd", "", "", 0))
		assert.NilError(t, s.Sweep(busy))
		assert.DeepEqual(t, names(t, s), []string{partialName(idC), ".unknown", "dddddddddddd", "lost+found"})
		whole(t, s, made("dddddddddddd", "", "", 0))
	}
	crashes(t, prepare, sweep, check)

	// A draft and the rest of a removal with one id: two sweeps are enough.
	s := open(t, t.TempDir(), nil)
	assert.NilError(t, prepare(t, s))
	assert.NilError(t, s.Sweep(nobody))
	assert.NilError(t, s.Sweep(nobody))
	assert.DeepEqual(t, names(t, s), []string{".unknown", "dddddddddddd", "lost+found"})
}
