package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Log writes the records of one operation. Its holder is the only process
// that may change anything in the operation's name.
type Log struct {
	Op *Operation

	store      *Store
	held       *Held
	seq, epoch int
	recorded   State
}

// ownWait bounds the wait for an operation's own lock: nobody holds it for
// longer than a look (Alive) but the process that works on the operation.
const ownWait = 250 * time.Millisecond

// Begin opens an operation: takes its own lock and writes its first record.
func (s *Store) Begin(ctx context.Context, op *Operation) (*Log, error) {
	if !ValidID(op.ID) {
		return nil, fmt.Errorf("begin operation: bad id %q", op.ID)
	}
	held, err := s.locks.Lock(ctx, Exclusive(operationKey(op.ID)),
		Holder{Operation: op.ID, Kind: op.Kind, Since: time.Now()}, ownWait)
	if err != nil {
		return nil, err
	}
	log := &Log{Op: op, store: s, held: held}
	switch _, err := s.Load(op.ID); {
	case err == nil:
		held.Release()
		return nil, fmt.Errorf("begin operation %s: it exists already", op.ID)
	case !errors.Is(err, ErrNotFound):
		held.Release()
		return nil, fmt.Errorf("begin operation: %w", err)
	}
	s.Tidy()
	if err := log.Write(op.State); err != nil {
		// Nothing was done in the operation's name: it never was. Should the
		// record come back after a power loss, it is one of nothing done.
		_ = s.dir.Unlink(op.ID + record)
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
		Holder{Operation: id, Kind: "recover", Since: time.Now()}, max(wait, ownWait))
	if err != nil {
		return nil, err
	}
	// The record may have been renamed into place and not synced. What is
	// acted on must not be taken back by a power loss.
	if err := s.dir.Sync(); err != nil {
		held.Release()
		return nil, fmt.Errorf("take over operation %s: %w", id, err)
	}
	op, env, err := s.load(id)
	if err != nil {
		held.Release()
		return nil, err
	}
	return &Log{Op: op, store: s, held: held, seq: env.Seq, epoch: env.Epoch + 1, recorded: op.State}, nil
}

// Taken reports whether another process began the operation.
func (l *Log) Taken() bool { return l.epoch > 0 }

// Write records the operation as it is, in the given state, durably. On an
// error Op keeps the state that was last recorded, and the disk has that
// record or the new one.
func (l *Log) Write(state State) error {
	if err := check(l.recorded, state); err != nil {
		return fmt.Errorf("record operation %s: %w", l.Op.ID, err)
	}
	l.seq++
	err := l.put(record, state, l.seq)
	if err == nil {
		err = l.store.dir.Sync()
	}
	if err != nil {
		return fmt.Errorf("record operation %s as %s: %w", l.Op.ID, state, err)
	}
	l.Op.State, l.recorded = state, state
	return nil
}

// put writes one of the operation's files; its caller syncs the directory.
func (l *Log) put(suffix string, state State, seq int) error {
	l.Op.Updated = time.Now().UTC()
	data, err := encode(*l.Op, state, seq, l.epoch)
	if err != nil {
		return err
	}
	return l.store.dir.PlaceFile(l.Op.ID+suffix, data, 0o600)
}

// Prepare records PREPARED, after both records that may follow it lie ready.
// Doing it again replaces all three by the operation as it is now: what is
// changed in Op is decided with only after that. A crash in between leaves
// records that differ in what was changed and in nothing else.
func (l *Log) Prepare() error {
	if err := check(l.recorded, Prepared); err != nil {
		return fmt.Errorf("record operation %s: %w", l.Op.ID, err)
	}
	for _, row := range decisions {
		if err := l.put(row.suffix, row.state, l.seq+2); err != nil {
			return fmt.Errorf("prepare operation %s: %w", l.Op.ID, err)
		}
	}
	if err := l.store.dir.Sync(); err != nil {
		return fmt.Errorf("prepare operation %s: %w", l.Op.ID, err)
	}
	return l.Write(Prepared)
}

// decisions are the records that may follow PREPARED, and where they wait.
var decisions = []struct {
	state  State
	suffix string
}{{Committed, ifCommitted}, {Aborting, ifAborting}}

// Decide turns PREPARED into COMMITTED or ABORTING by renaming what Prepare
// wrote: it needs no space. Any error of the rename or its sync is
// ErrInDoubt; after it the other decision must not be tried.
func (l *Log) Decide(state State) error {
	for _, row := range decisions {
		if row.state != state || l.recorded != Prepared {
			continue
		}
		err := l.store.dir.Replace(l.Op.ID+row.suffix, l.Op.ID+record)
		if err == nil {
			err = l.store.dir.Sync()
		}
		if err != nil {
			return fmt.Errorf("decide operation %s as %s: %w: %w", l.Op.ID, state, ErrInDoubt, err)
		}
		l.seq += 2 // or one too many, when a second Prepare was cut short
		l.Op.State, l.recorded = state, state
		return nil
	}
	return fmt.Errorf("decide operation %s: it is %s and cannot be decided as %s", l.Op.ID, l.recorded, state)
}

// Close records the outcome and ends the operation; the log is released, and
// the oldest closed operations beyond keepClosed are forgotten. On an error
// the operation is still open and held.
func (l *Log) Close() error {
	if err := l.Write(Closed); err != nil {
		return err
	}
	l.Release()
	l.store.Tidy()
	return nil
}

// Release lets the operation go without closing it, as a crash would.
func (l *Log) Release() { l.held.Release() }

// Tidy removes what nobody reads: temporary files and pre-written decisions of
// operations that are over or gone, and the oldest closed operations. What it
// cannot remove now, the next operation's will try again: nothing rests
// on it, so no error of it may fail an operation.
func (s *Store) Tidy() {
	names, err := s.dir.Names()
	if err != nil {
		return
	}
	for _, name := range names {
		id, extra := leftover(name)
		if !extra {
			continue
		}
		s.alone(id, func() {
			op, err := s.Load(id)
			over := errors.Is(err, ErrNotFound) || err == nil && op.State == Closed
			if over || strings.HasPrefix(name, ".") {
				_ = s.dir.Unlink(name)
			}
		})
	}
	ops, err := s.List()
	if err != nil {
		return // which ones are the oldest is not known
	}
	var closed []*Operation
	for _, op := range ops {
		if op.State == Closed {
			closed = append(closed, op)
		}
	}
	for ; len(closed) > keepClosed; closed = closed[1:] {
		id := closed[0].ID
		s.alone(id, func() {
			if s.dir.Unlink(id+record) == nil {
				s.locks.forget(operationKey(id))
			}
		})
	}
}

// leftover tells whether name is a file that is only of use while its
// operation is under way, and whose.
func leftover(name string) (id string, is bool) {
	id, suffix, _ := strings.Cut(strings.TrimPrefix(name, ".tmp-"), ".")
	suffix = "." + suffix
	temporary := strings.HasPrefix(name, ".tmp-")
	return id, ValidID(id) && (temporary || suffix == ifCommitted || suffix == ifAborting)
}

// alone runs do while no process works on the operation, and not at all where
// one does.
func (s *Store) alone(id string, do func()) {
	held, err := s.locks.Lock(context.Background(), Exclusive(operationKey(id)), Holder{Operation: id, Since: time.Now()}, 0)
	if err != nil {
		return
	}
	defer held.Release()
	do()
}
