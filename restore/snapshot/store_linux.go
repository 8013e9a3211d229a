package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// What hides a directory from readers: a snapshot that is being made, and one
// that is being deleted.
const (
	hidden  = "."
	partial = ".partial"
	removed = ".removed"
)

func partialName(id string) string { return hidden + id + partial }
func removedName(id string) string { return hidden + id + removed }

// Store is the directory of all snapshots. It may be used by several
// processes at a time.
type Store struct {
	dir *durable.Dir
}

// Open opens the store in dir, the directory snapshots of the state root. The
// store does not close dir.
func Open(dir *durable.Dir) (*Store, error) {
	if _, err := dir.Names(); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Root opens the store's own directory, for a copy engine to look at its file
// system.
func (s *Store) Root() (*os.Root, error) { return s.dir.Root() }

// exclusive runs do while no other process appears, puts or hides a snapshot,
// so that a name is given once and a sweep never meets a Put half-way. What
// it guards takes a few renames and syncs, so waiting for it is short; the
// lock (flock of the directory itself) ends with its process.
func (s *Store) exclusive(do func() error) error {
	root, err := s.dir.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: s.dir.Path(), Err: err}
	}
	return do()
}

// Draft is a snapshot that is being made. Nobody sees it before Commit.
type Draft struct {
	store *Store
	id    string
	dir   *durable.Dir
	root  *os.Root
}

// New begins the snapshot with this id. The caller holds the operation that
// makes it, until Commit or Discard: Sweep asks for that.
func (s *Store) New(id string) (*Draft, error) {
	if !journal.ValidID(id) {
		return nil, fmt.Errorf("make snapshot: bad id %q", id)
	}
	switch shape, err := s.dir.Shape(id); {
	case err != nil:
		return nil, fmt.Errorf("make snapshot %s: %w", id, err)
	case shape != durable.Missing:
		return nil, fault.New(fault.Failed, "make snapshot %s: it exists already", id).
			WithState("nothing was changed").WithHint("docker snaprestore inspect %s shows it", id)
	}
	if err := s.dir.Mkdir(partialName(id), 0o700); err != nil {
		return nil, fmt.Errorf("make snapshot %s: %w", id, err)
	}
	dir, err := s.dir.OpenDir(partialName(id))
	if err != nil {
		return nil, fmt.Errorf("make snapshot %s: %w", id, err)
	}
	root, err := dir.Root()
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("make snapshot %s: %w", id, err)
	}
	return &Draft{store: s, id: id, dir: dir, root: root}, nil
}

// ID is the id of the snapshot that is being made.
func (d *Draft) ID() string { return d.id }

// Store is the store in which the snapshot is being made.
func (d *Draft) Store() *Store { return d.store }

// Root is the snapshot's directory, into which copy engines write. It is
// closed by Close and by Commit.
func (d *Draft) Root() *os.Root { return d.root }

// Close lets the draft go, without removing what it holds.
func (d *Draft) Close() {
	d.root.Close()
	d.dir.Close()
}

// Commit makes the snapshot appear: it writes snapshot.json, syncs everything,
// renames. On an error of kind fault.InDoubt the snapshot may have appeared,
// and whether it is there (Load) decides; on any other it has not, and Discard
// removes the draft.
func (d *Draft) Commit(snap Snapshot) error {
	defer d.Close()
	if snap.ID != d.id {
		return fmt.Errorf("commit snapshot %s: its description is of %q", d.id, snap.ID)
	}
	if err := snap.validate(); err != nil {
		return fmt.Errorf("commit snapshot %s: %w", d.id, err)
	}
	if snap.Kind == Safety {
		return fmt.Errorf("commit snapshot %s: a safety snapshot has no content to commit", d.id)
	}
	if err := d.complete(snap); err != nil {
		return fmt.Errorf("commit snapshot %s: %w", d.id, err)
	}
	data, err := Encode(snap)
	if err != nil {
		return err
	}
	if err := d.dir.CreateFile(File, data, 0o600); err != nil {
		return fmt.Errorf("commit snapshot %s: %w", d.id, err)
	}
	if err := d.dir.SyncFS(); err != nil {
		return fmt.Errorf("commit snapshot %s: %w", d.id, err)
	}
	return d.store.exclusive(func() error {
		if snap.Name != "" {
			if err := d.store.NameFree(snap.Name); err != nil {
				return err
			}
		}
		return d.store.appear(d.id)
	})
}

// complete checks that everything stored is there, and files whole.
func (d *Draft) complete(snap Snapshot) error {
	for _, v := range snap.Volumes {
		info, err := d.root.Lstat(v.File)
		if err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
		if info.IsDir() {
			continue // a tree: its size is that of many
		}
		if !info.Mode().IsRegular() || info.Size() != v.Stored {
			return fmt.Errorf("volume %s: %s is not the file of %d bytes that was stored", v.Name, v.File, v.Stored)
		}
	}
	return nil
}

// appear renames a partial snapshot to its name, durably.
func (s *Store) appear(id string) error {
	err := s.dir.Rename(partialName(id), id)
	if err != nil {
		// The kernel refused, unless the names say otherwise.
		before, err1 := s.dir.Shape(partialName(id))
		after, err2 := s.dir.Shape(id)
		if err1 == nil && err2 == nil && before == durable.Directory && after == durable.Missing {
			return fmt.Errorf("commit snapshot %s: %w", id, err)
		}
	} else {
		err = s.dir.Sync()
	}
	if err != nil {
		return fault.New(fault.InDoubt, "commit snapshot %s: %w", id, err).
			WithState("the snapshot may have been kept, whole, or not").
			WithHint("docker snaprestore recover decides")
	}
	return nil
}

// Discard removes what is left of the draft of an operation that failed or
// died. It never touches a snapshot that has appeared. Nothing left is no
// error.
func (s *Store) Discard(id string) error {
	if !journal.ValidID(id) {
		return fmt.Errorf("discard snapshot: bad id %q", id)
	}
	if err := s.dir.RemoveAll(partialName(id)); err != nil {
		return fmt.Errorf("discard snapshot %s: %w", id, err)
	}
	return nil
}

// Put keeps a safety snapshot, which has no content of its own. It may be
// called again, after an error or by a recovery: one that keeps the same trees
// for the same operation is there already and stays as it is.
func (s *Store) Put(snap Snapshot) error {
	if err := snap.validate(); err != nil {
		return fmt.Errorf("keep snapshot %s: %w", snap.ID, err)
	}
	if snap.Kind != Safety {
		return fmt.Errorf("keep snapshot %s: it is of kind %s and has content", snap.ID, snap.Kind)
	}
	data, err := Encode(snap)
	if err != nil {
		return err
	}
	return s.exclusive(func() error {
		there, err := s.Load(snap.ID)
		switch {
		case err == nil && same(&there, &snap):
			return s.dir.Sync() // a Put before this one may have died before it
		case err == nil:
			return fault.New(fault.Failed, "keep snapshot %s: another one has this id", snap.ID).
				WithHint("docker snaprestore inspect %s shows it", snap.ID)
		case !fault.Is(err, fault.NotFound):
			return err
		}
		if err := s.put(snap.ID, data); err != nil {
			return fmt.Errorf("keep snapshot %s: %w", snap.ID, err)
		}
		return nil
	})
}

func (s *Store) put(id string, data []byte) error {
	name := partialName(id)
	if err := s.dir.RemoveAll(name); err != nil {
		return err
	}
	if err := s.dir.Mkdir(name, 0o700); err != nil {
		return err
	}
	sub, err := s.dir.OpenDir(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sub.CreateFile(File, data, 0o600); err != nil {
		return err
	}
	if err := sub.Sync(); err != nil {
		return err
	}
	if err := s.dir.Rename(name, id); err != nil {
		return err
	}
	return s.dir.Sync()
}

// Settle makes durable what a process may have done and died before it synced:
// what Load tells after it is not taken back by a power loss. A recovery calls
// it before it rests on a snapshot.
func (s *Store) Settle() error {
	if err := s.dir.Sync(); err != nil {
		return fmt.Errorf("settle snapshots: %w", err)
	}
	return nil
}

// Remove deletes a snapshot, damaged or not: it is hidden first, by a durable
// rename, so that no reader and no crash finds a part of it. A missing one is
// no error. The trees of a safety snapshot are its caller's to delete.
func (s *Store) Remove(id string) error {
	if !journal.ValidID(id) {
		return fmt.Errorf("remove snapshot: bad id %q", id)
	}
	if err := s.remove(id); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

func (s *Store) remove(id string) error {
	shape, err := s.dir.Shape(id)
	if err != nil {
		return err
	}
	if shape != durable.Missing {
		// One of this id that was removed before, in part.
		if err := s.dir.RemoveAll(removedName(id)); err != nil {
			return err
		}
		err := s.dir.Rename(id, removedName(id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.dir.Sync(); err != nil {
		return err
	}
	return s.dir.RemoveAll(removedName(id))
}

// Sweep deletes what crashes left: the rest of removals, and drafts of whose
// snapshot id busy says that nobody works on it.
func (s *Store) Sweep(busy func(id string) bool) error {
	var gone []string
	err := s.exclusive(func() error {
		names, err := s.dir.Names()
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ok := hiddenID(name, removed); ok {
				gone = append(gone, name)
				continue
			}
			id, ok := hiddenID(name, partial)
			if !ok || busy(id) {
				continue
			}
			// Renamed, since a big one takes long to delete and the lock
			// must not: a restore may wait for it with its workload down.
			err := s.dir.Rename(name, removedName(id))
			switch {
			case errors.Is(err, fs.ErrExist): // the next sweep has room for it
			case err != nil:
				return err
			default:
				gone = append(gone, removedName(id))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep snapshots: %w", err)
	}
	for _, name := range gone {
		if err := s.dir.RemoveAll(name); err != nil {
			return fmt.Errorf("sweep snapshots: %w", err)
		}
	}
	return nil
}

// hiddenID gives the id in the name of a hidden directory.
func hiddenID(name, suffix string) (string, bool) {
	id, ok := strings.CutSuffix(strings.TrimPrefix(name, hidden), suffix)
	return id, ok && strings.HasPrefix(name, hidden) && journal.ValidID(id)
}
