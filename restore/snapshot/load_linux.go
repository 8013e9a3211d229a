package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
)

func notFound(ref string) *fault.Error {
	return fault.New(fault.NotFound, "find snapshot %s: no such snapshot", ref).
		WithHint("docker snaprestore ls shows the snapshots")
}

// damaged says that the snapshot with this id cannot be believed.
func damaged(id string, cause error) *fault.Error {
	return fault.New(fault.Corrupt, "read snapshot %s: %w", id, cause).
		WithState("the snapshot is not used").
		WithHint("docker snaprestore ls shows the other snapshots; docker snaprestore rm %s removes this one", id)
}

// unreadable sorts the errors of reading: what the kernel could not do is a
// failure, anything else is damage.
func unreadable(id string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != unix.ELOOP && errno != unix.ENOTDIR && errno != unix.ENOENT {
		return fault.New(fault.Failed, "read snapshot %s: %w", id, err).
			WithHint("docker snaprestore doctor checks the engine host")
	}
	return damaged(id, err)
}

// Load reads the description of the snapshot with this id. Errors are of kind
// fault.NotFound; fault.Corrupt, also for a file that another user owns or may
// write; fault.Failed for a newer format, or where it cannot be read.
func (s *Store) Load(id string) (Snapshot, error) {
	if !journal.ValidID(id) {
		return Snapshot{}, notFound(fmt.Sprintf("%q", id))
	}
	dir, err := s.dir.OpenDir(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Snapshot{}, notFound(id)
	case err != nil:
		return Snapshot{}, unreadable(id, err)
	}
	defer dir.Close()
	data, err := dir.ReadFile(File, FileLimit)
	if err != nil {
		// Removed since it was opened, which hides the directory first?
		if shape, err := s.dir.Shape(id); err == nil && shape == durable.Missing {
			return Snapshot{}, notFound(id)
		}
		return Snapshot{}, unreadable(id, err)
	}
	snap, err := Decode(data)
	switch {
	case fault.Is(err, fault.Corrupt):
		return Snapshot{}, damaged(id, err)
	case err != nil:
		return Snapshot{}, fmt.Errorf("read snapshot %s: %w", id, err)
	case snap.ID != id:
		return Snapshot{}, damaged(id, fmt.Errorf("its %s is that of %s", File, snap.ID))
	}
	return snap, nil
}

// Content opens the directory of the snapshot with this id, for a copy engine
// to read.
func (s *Store) Content(id string) (*os.Root, error) {
	if !journal.ValidID(id) {
		return nil, notFound(fmt.Sprintf("%q", id))
	}
	dir, err := s.dir.OpenDir(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, notFound(id)
	case err != nil:
		return nil, unreadable(id, err)
	}
	defer dir.Close()
	return dir.Root()
}

// List reads all snapshots, newest first. Those that cannot be read are in the
// joined error, each with its id; the others are returned all the same.
func (s *Store) List() ([]Snapshot, error) {
	snaps, bad, err := s.scan()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, b := range bad {
		errs = append(errs, b.err)
	}
	return snaps, errors.Join(errs...)
}

// unread is a snapshot that cannot be read.
type unread struct {
	id  string
	err error
}

func (s *Store) scan() (snaps []Snapshot, bad []unread, err error) {
	names, err := s.dir.Names()
	if err != nil {
		return nil, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, id := range names {
		if !journal.ValidID(id) {
			continue
		}
		snap, err := s.Load(id)
		switch {
		case fault.Is(err, fault.NotFound): // removed since it was listed
		case err != nil:
			bad = append(bad, unread{id, err})
		default:
			snaps = append(snaps, snap)
		}
	}
	sort.SliceStable(snaps, func(i, j int) bool { return snaps[i].Created.After(snaps[j].Created) })
	return snaps, bad, nil
}

// IDs lists the ids of all snapshots, damaged ones too, newest first as far as
// that can be told.
func (s *Store) IDs() ([]string, error) {
	snaps, bad, err := s.scan()
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, snap := range snaps {
		ids = append(ids, snap.ID)
	}
	for _, b := range bad {
		ids = append(ids, b.id)
	}
	return ids, nil
}

// NameFree refuses a name that a snapshot has already. Two operations that ask
// at one time may both hear yes: Commit refuses the later one.
func (s *Store) NameFree(name string) error {
	snaps, _, err := s.scan()
	if err != nil {
		return err
	}
	for _, snap := range snaps {
		if snap.Name == name {
			return fault.New(fault.Failed, "name snapshot: snapshot %s is named %q already", snap.ID, name).
				WithState("nothing was changed").
				WithHint("choose another --name, or docker snaprestore rm %s first", name)
		}
	}
	return nil
}
