package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sort"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// Errors about a record.
var (
	// ErrNotFound: no operation has this id.
	ErrNotFound = errors.New("no such operation")
	// ErrCorrupt: the record does not match its checksum or cannot be read.
	ErrCorrupt = errors.New("journal record is damaged")
	// ErrNewer: a newer version of this tool wrote the record.
	ErrNewer = errors.New("journal record is of a newer format")
	// ErrInDoubt: the decision was tried, and an error hides whether it holds.
	ErrInDoubt = errors.New("decision is in doubt")
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

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is a record as it is written.
type envelope struct {
	Format int             `json:"format"`
	Seq    int             `json:"seq"`
	Epoch  int             `json:"epoch"`
	CRC    string          `json:"crc32c"` // of Body's bytes, 8 hexadecimal digits
	Body   json.RawMessage `json:"body"`
}

// Store is the journal: a directory of operations and their locks.
type Store struct {
	dir   *durable.Dir
	locks *Locks
}

// Open opens the journal in dir, and makes its lock directory where it is
// missing. The store does not close dir.
func Open(dir *durable.Dir) (*Store, error) {
	sub, err := dir.MakeDir(lockDirectory, 0o700)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	defer sub.Close()
	locks, err := OpenLocks(sub)
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir, locks: locks}, nil
}

// Close closes the store; logs stay usable.
func (s *Store) Close() error { return s.locks.Close() }

// Locks gives the journal's locks, for workloads, volumes and snapshots.
func (s *Store) Locks() *Locks { return s.locks }

func (s *Store) load(id string) (*Operation, envelope, error) {
	var env envelope
	if !ValidID(id) {
		return nil, env, fmt.Errorf("operation %q: %w", id, ErrNotFound)
	}
	data, err := s.dir.ReadFile(id+record, recordLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, env, fmt.Errorf("operation %s: %w", id, ErrNotFound)
	case err != nil:
		return nil, env, fmt.Errorf("read operation %s: %w: %w", id, ErrCorrupt, err)
	}
	op, env, err := Decode(data)
	if err != nil {
		return nil, env, fmt.Errorf("read operation %s: %w", id, err)
	}
	if op.ID != id {
		return nil, env, fmt.Errorf("read operation %s: %w: it is the record of %q", id, ErrCorrupt, op.ID)
	}
	return op, env, nil
}

// Decode reads one record and checks its checksum.
func Decode(data []byte) (*Operation, envelope, error) {
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return nil, env, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if env.Format > Format {
		return nil, env, fmt.Errorf("%w: %d, this version reads up to %d", ErrNewer, env.Format, Format)
	}
	if env.Format < 1 || env.CRC != checksum(env.Body) {
		return nil, env, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	op := &Operation{}
	if err := json.Unmarshal(env.Body, op); err != nil {
		return nil, env, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if !known(op.State) {
		return nil, env, fmt.Errorf("%w: unknown state %q", ErrCorrupt, op.State)
	}
	return op, env, nil
}

func known(state State) bool {
	for _, s := range States() {
		if s == state {
			return true
		}
	}
	return false
}

func checksum(body []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli))
}

// encode makes the bytes of op's next record.
func encode(op *Operation, seq, epoch int) ([]byte, error) {
	body, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Format: Format, Seq: seq, Epoch: epoch, CRC: checksum(body), Body: body})
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
		op, err := s.Load(id)
		switch {
		case errors.Is(err, ErrNotFound): // removed since it was listed
		case err != nil:
			bad = append(bad, err)
		default:
			ops = append(ops, op)
		}
	}
	sort.SliceStable(ops, func(i, j int) bool { return ops[i].Created.Before(ops[j].Created) })
	return ops, errors.Join(bad...)
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
	held, err := s.locks.Lock(context.Background(), []Key{{Name: operationKey(id), Shared: true}}, Holder{}, 0)
	var locked *LockedError
	if errors.As(err, &locked) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	held.Release()
	return false, nil
}

func operationKey(id string) string { return "operation:" + id }

// Log writes the records of one operation. Its holder is the only process
// that may change anything in the operation's name.
type Log struct {
	Op *Operation

	store      *Store
	held       *Held
	seq, epoch int
	recorded   State
}

// Begin opens an operation: takes its own lock and writes its first record.
func (s *Store) Begin(ctx context.Context, op *Operation) (*Log, error) {
	if !ValidID(op.ID) {
		return nil, fmt.Errorf("begin operation: bad id %q", op.ID)
	}
	held, err := s.locks.Lock(ctx, Exclusive(operationKey(op.ID)),
		Holder{Operation: op.ID, Kind: op.Kind, Since: time.Now()}, 0)
	if err != nil {
		return nil, err
	}
	log := &Log{Op: op, store: s, held: held}
	if _, err := s.Load(op.ID); !errors.Is(err, ErrNotFound) {
		held.Release()
		return nil, fmt.Errorf("begin operation %s: it exists already", op.ID)
	}
	if err := log.Write(op.State); err != nil {
		held.Release()
		return nil, err
	}
	return log, nil
}

// Takeover continues the operation of a process that died. It is a
// LockedError when that process lives.
func (s *Store) Takeover(ctx context.Context, id string, wait time.Duration) (*Log, error) {
	if !ValidID(id) {
		return nil, fmt.Errorf("operation %q: %w", id, ErrNotFound)
	}
	held, err := s.locks.Lock(ctx, Exclusive(operationKey(id)),
		Holder{Operation: id, Kind: "recover", Since: time.Now()}, wait)
	if err != nil {
		return nil, err
	}
	op, env, err := s.load(id)
	if err != nil {
		held.Release()
		return nil, err
	}
	return &Log{Op: op, store: s, held: held, seq: env.Seq, epoch: env.Epoch + 1, recorded: op.State}, nil
}

// Write records the operation as it is, in the given state, durably. On an
// error Op keeps the state that was last recorded, and the disk has that
// record or the new one.
func (l *Log) Write(state State) error {
	if l.recorded != "" || state != l.Op.State {
		if err := check(l.recorded, state); err != nil {
			return fmt.Errorf("record operation %s: %w", l.Op.ID, err)
		}
	}
	before := l.Op.State
	data, err := l.next(state)
	if err == nil {
		err = l.store.dir.WriteFile(l.Op.ID+record, data, 0o600)
	}
	if err != nil {
		l.Op.State = before
		return fmt.Errorf("record operation %s as %s: %w", l.Op.ID, state, err)
	}
	l.recorded = state
	return nil
}

func (l *Log) next(state State) ([]byte, error) {
	l.Op.State = state
	l.Op.Updated = time.Now().UTC()
	l.seq++
	return encode(l.Op, l.seq, l.epoch)
}

// Prepare records PREPARED, after both records that may follow it lie ready.
func (l *Log) Prepare() error {
	if err := check(l.recorded, Prepared); err != nil {
		return fmt.Errorf("record operation %s: %w", l.Op.ID, err)
	}
	before := l.Op.State
	for _, next := range []struct {
		state  State
		suffix string
	}{{Committed, ifCommitted}, {Aborting, ifAborting}} {
		data, err := l.next(next.state)
		if err == nil {
			err = l.store.dir.WriteFile(l.Op.ID+next.suffix, data, 0o600)
		}
		l.Op.State = before
		if err != nil {
			return fmt.Errorf("prepare operation %s: %w", l.Op.ID, err)
		}
	}
	return l.Write(Prepared)
}

// Decide turns PREPARED into COMMITTED or ABORTING by renaming what Prepare
// wrote: it needs no space. Any error is ErrInDoubt; after it the other
// decision must not be tried.
func (l *Log) Decide(state State) error {
	if err := check(l.recorded, state); err != nil {
		return fmt.Errorf("decide operation %s: %w", l.Op.ID, err)
	}
	suffix := ifCommitted
	if state == Aborting {
		suffix = ifAborting
	}
	err := l.store.dir.Replace(l.Op.ID+suffix, l.Op.ID+record)
	if err == nil {
		err = l.store.dir.Sync()
	}
	if err != nil {
		return fmt.Errorf("decide operation %s as %s: %w: %w", l.Op.ID, state, ErrInDoubt, err)
	}
	l.Op.State, l.recorded = state, state
	return nil
}

// Close records the outcome and ends the operation; the log is released.
// Older closed operations beyond keepClosed are forgotten.
func (l *Log) Close() error {
	if err := l.Write(Closed); err != nil {
		return err
	}
	for _, suffix := range []string{ifCommitted, ifAborting} {
		if err := l.store.dir.Unlink(l.Op.ID + suffix); err != nil {
			return fmt.Errorf("close operation %s: %w", l.Op.ID, err)
		}
	}
	l.Release()
	return l.store.forget()
}

// Release lets the operation go without closing it, as a crash would.
func (l *Log) Release() { l.held.Release() }

// forget removes the oldest closed operations.
func (s *Store) forget() error {
	ops, err := s.List()
	if err != nil {
		return nil // a damaged record elsewhere is not this operation's matter
	}
	var closed []*Operation
	for _, op := range ops {
		if op.State == Closed {
			closed = append(closed, op)
		}
	}
	for len(closed) > keepClosed {
		if err := s.dir.Unlink(closed[0].ID + record); err != nil {
			return fmt.Errorf("forget operation %s: %w", closed[0].ID, err)
		}
		closed = closed[1:]
	}
	return nil
}
