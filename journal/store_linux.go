package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sort"
	"strings"
	"sync"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// recordLimit bounds what is read of a record, in bytes.
const recordLimit = 64 << 20

// keepClosed is how many closed operations the journal keeps for status.
const keepClosed = 100

// Suffixes of an operation's files.
const (
	record        = ".json"
	ifCommitted   = ".committed"
	ifAborting    = ".aborting"
	lockDirectory = "lock"
)

// Store is the journal: a directory of operations and their locks.
type Store struct {
	dir   *durable.Dir
	locks *Locks

	mu sync.Mutex
	// closed has the closed operations that List has met, by id. A driver
	// lists the journal several times for each mount, and a hundred records of
	// fifty volumes take 100 ms to decode (measured).
	closed map[string]decoded
}

// decoded is a record and the digest of the bytes that it was read from.
type decoded struct {
	sum [sha256.Size]byte
	op  *Operation
}

// Open opens the journal in dir, and makes its lock directory where it is
// missing. A directory in which another user may write is refused. The store
// does not close dir.
func Open(dir *durable.Dir) (*Store, error) {
	if err := dir.Private(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	sub, err := dir.MakeDir(lockDirectory, 0o700)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	defer sub.Close()
	locks, err := OpenLocks(sub)
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir, locks: locks, closed: map[string]decoded{}}, nil
}

// Close closes the store; logs stay usable.
func (s *Store) Close() error { return s.locks.Close() }

// Locks gives the journal's locks, for workloads, volumes and snapshots.
func (s *Store) Locks() *Locks { return s.locks }

func (s *Store) load(id string) (*Operation, Envelope, error) {
	data, err := s.read(id)
	if err != nil {
		return nil, Envelope{}, err
	}
	return decode(id, data)
}

// read gives the bytes of a record.
func (s *Store) read(id string) ([]byte, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("operation %q: %w", id, ErrNotFound)
	}
	data, err := s.dir.ReadFile(id+record, recordLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("operation %s: %w", id, ErrNotFound)
	case errors.Is(err, durable.ErrForeign), errors.Is(err, durable.ErrNotFile), errors.Is(err, durable.ErrTooLarge):
		return nil, fmt.Errorf("read operation %s: %w: %w", id, ErrCorrupt, err)
	case err != nil:
		return nil, fmt.Errorf("read operation %s: %w", id, err)
	}
	return data, nil
}

func decode(id string, data []byte) (*Operation, Envelope, error) {
	op, env, err := Decode(data)
	if err != nil {
		return nil, env, fmt.Errorf("read operation %s: %w", id, err)
	}
	if op.ID != id {
		return nil, env, fmt.Errorf("read operation %s: %w: it is the record of %q", id, ErrCorrupt, op.ID)
	}
	return op, env, nil
}

// known is load for a list: a record that is byte for byte one that was met
// before, and closed, is not decoded again.
func (s *Store) known(id string) (*Operation, error) {
	data, err := s.read(id)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.closed[id]; ok && was.sum == sum {
		same := *was.op
		return &same, nil
	}
	op, _, err := decode(id, data)
	if err != nil {
		return nil, err
	}
	if op.State == Closed {
		same := *op
		s.closed[id] = decoded{sum: sum, op: &same}
	}
	return op, nil
}

// Load reads the operation with this id.
func (s *Store) Load(id string) (*Operation, error) {
	op, _, err := s.load(id)
	return op, err
}

// List reads all operations, oldest first. Records that cannot be read are in
// the joined error; the others are returned all the same.
func (s *Store) List() ([]*Operation, error) {
	names, err := s.dir.Names()
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	var ops []*Operation
	var bad []error
	for _, name := range names {
		id, ok := strings.CutSuffix(name, record)
		if !ok || !ValidID(id) {
			continue
		}
		op, err := s.known(id)
		switch {
		case errors.Is(err, ErrNotFound): // removed since it was listed
		case err != nil:
			bad = append(bad, err)
		default:
			ops = append(ops, op)
		}
	}
	s.forget(ops)
	sort.SliceStable(ops, func(i, j int) bool { return ops[i].Created.Before(ops[j].Created) })
	return ops, errors.Join(bad...)
}

// forget drops what is known of records that are gone.
func (s *Store) forget(there []*Operation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.closed) <= len(there) {
		return
	}
	ids := map[string]bool{}
	for _, op := range there {
		ids[op.ID] = true
	}
	maps.DeleteFunc(s.closed, func(id string, _ decoded) bool { return !ids[id] })
}

// Open lists the operations that are not closed, oldest first. Any record
// that cannot be read is an error: what it holds is not known.
func (s *Store) Open() ([]*Operation, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var open []*Operation
	for _, op := range all {
		if op.State != Closed {
			open = append(open, op)
		}
	}
	return open, nil
}

// Alive reports whether a process works on the operation.
func (s *Store) Alive(id string) (bool, error) {
	return s.locks.taken(operationKey(id))
}

func operationKey(id string) string { return "operation:" + id }
