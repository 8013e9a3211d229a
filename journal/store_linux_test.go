package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
)

func tempDir(t *testing.T) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	assert.NilError(t, os.Chmod(path, 0o700))
	return path
}

func openStore(t *testing.T, path string, fail durable.Failpoint) *Store {
	t.Helper()
	dir, err := durable.Open(path, fail)
	assert.NilError(t, err)
	s, err := Open(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { s.Close(); dir.Close() })
	return s
}

func files(t *testing.T, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	assert.NilError(t, err)
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// bring writes records until the operation is in the state.
func bring(t *testing.T, s *Store, state State) *Log {
	t.Helper()
	ctx := context.Background()
	op := example()
	op.ID = NewID()
	if state == Working {
		op.Kind, op.State = Create, Working
	}
	if state == Drilling {
		op.Kind, op.State = Drill, Drilling
	}
	log, err := s.Begin(ctx, op)
	assert.NilError(t, err)
	t.Cleanup(log.Release)
	if state == Working || state == Drilling || state == Staging {
		return log
	}
	assert.NilError(t, log.Write(Stopping))
	if state == Stopping {
		return log
	}
	assert.NilError(t, log.Prepare())
	switch state {
	case Prepared:
	case Aborting:
		assert.NilError(t, log.Decide(Aborting))
	default:
		assert.NilError(t, log.Decide(Committed))
		for _, next := range []State{Starting, Closed} {
			if state != Committed && log.Op.State != state {
				assert.NilError(t, log.Write(next))
			}
		}
	}
	assert.Equal(t, log.Op.State, state)
	return log
}

func TestTheTableIsWalkedAndNothingElseIsRecorded(t *testing.T) {
	s := openStore(t, tempDir(t), nil)
	for _, row := range transitions {
		for _, to := range append(States(), "", "unheard-of") {
			allowed := slices.Contains(row.to, to)
			if row.from == "" {
				op := example()
				op.ID, op.State = NewID(), to
				log, err := s.Begin(context.Background(), op)
				assert.Assert(t, (err == nil) == allowed, "begin as %q: %v", to, err)
				if err == nil {
					log.Release()
				} else {
					_, err := s.Load(op.ID)
					assert.ErrorIs(t, err, ErrNotFound)
				}
				continue
			}
			log := bring(t, s, row.from)
			err := log.Write(to)
			assert.Assert(t, (err == nil) == allowed, "%s to %q: %v", row.from, to, err)
			want := row.from
			if allowed {
				want = to
			}
			assert.Equal(t, log.Op.State, want)
			got, err := s.Load(log.Op.ID)
			assert.NilError(t, err)
			assert.Equal(t, got.State, want)
			log.Release()
		}
	}
}

func TestADamagedRecordStopsEverythingThatRestsOnIt(t *testing.T) {
	path := tempDir(t)
	s := openStore(t, path, nil)
	whole, bad := bring(t, s, Staging), bring(t, s, Staging)
	whole.Release()
	bad.Release()
	name := filepath.Join(path, bad.Op.ID+record)
	data, err := os.ReadFile(name)
	assert.NilError(t, err)

	for what, spoil := range map[string]func(){
		"torn":           func() { assert.NilError(t, os.WriteFile(name, data[:len(data)/2], 0o600)) },
		"empty":          func() { assert.NilError(t, os.WriteFile(name, nil, 0o600)) },
		"group-writable": func() { assert.NilError(t, os.Chmod(name, 0o620)) },
		"a link": func() {
			assert.NilError(t, os.Rename(name, name+".away"))
			assert.NilError(t, os.Symlink(name+".away", name))
		},
		"a fifo":     func() { assert.NilError(t, os.Remove(name)); assert.NilError(t, unix.Mkfifo(name, 0o600)) },
		"another's":  func() { assert.NilError(t, os.WriteFile(name, encoded(t, example()), 0o600)) },
		"a new form": func() { assert.NilError(t, os.WriteFile(name, forge(t, Format+1, `{}`), 0o600)) },
		"foreign": func() {
			if os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			assert.NilError(t, os.Chown(name, 1000, 1000))
		},
	} {
		t.Run(what, func(t *testing.T) {
			os.Remove(name)
			assert.NilError(t, os.WriteFile(name, data, 0o600))
			_, err := s.Load(bad.Op.ID)
			assert.NilError(t, err)
			spoil()

			_, err = s.Load(bad.Op.ID)
			assert.Assert(t, err != nil && !errors.Is(err, ErrNotFound), "%v", err)
			if what != "a link" && what != "a new form" {
				assert.ErrorIs(t, err, ErrCorrupt)
			}
			_, err = s.Takeover(context.Background(), bad.Op.ID, 0)
			assert.Assert(t, err != nil)
			_, err = s.Open()
			assert.Assert(t, err != nil, "open operations were listed without the damaged one")
			ops, err := s.List()
			assert.ErrorContains(t, err, bad.Op.ID)
			assert.Equal(t, len(ops), 1)
			assert.Equal(t, ops[0].ID, whole.Op.ID)
			again := example()
			again.ID = bad.Op.ID
			_, err = s.Begin(context.Background(), again)
			assert.Assert(t, err != nil, "a damaged operation was begun anew")
		})
	}
}

// A closed operation is decoded once; what becomes of its record later is
// noticed all the same.
func TestAListNoticesWhatBecameOfAClosedRecordThatItKnows(t *testing.T) {
	path := tempDir(t)
	s := openStore(t, path, nil)
	log := bring(t, s, Closed)
	log.Release()
	id := log.Op.ID
	name := filepath.Join(path, id+record)
	data, err := os.ReadFile(name)
	assert.NilError(t, err)
	for range 2 {
		all, err := s.List()
		assert.NilError(t, err)
		assert.Equal(t, len(all), 1)
		assert.DeepEqual(t, all[0], log.Op)
		all[0].State = Staging // a list is its caller's
	}
	spoilt := bytes.Clone(data)
	spoilt[len(spoilt)/2] ^= 1
	assert.NilError(t, os.WriteFile(name, spoilt, 0o600))
	_, err = s.Open()
	assert.ErrorIs(t, err, ErrCorrupt)
	assert.NilError(t, os.Remove(name))
	all, err := s.List()
	assert.NilError(t, err)
	assert.Equal(t, len(all), 0)
	assert.NilError(t, os.WriteFile(name, data, 0o600))
	all, err = s.List()
	assert.NilError(t, err)
	assert.Equal(t, len(all), 1)
}

func TestAJournalThatOthersMayWriteIsRefused(t *testing.T) {
	path := tempDir(t)
	assert.NilError(t, os.Chmod(path, 0o720))
	dir, err := durable.Open(path, nil)
	assert.NilError(t, err)
	defer dir.Close()
	_, err = Open(dir)
	assert.ErrorIs(t, err, durable.ErrForeign)
}

func TestIdsThatAreNoneNameNothing(t *testing.T) {
	s := openStore(t, tempDir(t), nil)
	for _, id := range []string{"", "..", "lock", "0123456789AB", "0123456789abc", "../0123456789"} {
		_, err := s.Load(id)
		assert.ErrorIs(t, err, ErrNotFound, "%q", id)
		_, err = s.Takeover(context.Background(), id, 0)
		assert.ErrorIs(t, err, ErrNotFound, "%q", id)
		op := example()
		op.ID = id
		_, err = s.Begin(context.Background(), op)
		assert.ErrorContains(t, err, "bad id")
	}
	assert.Equal(t, len(files(t, s.dir.Path())), 0)
}

// A decision is one rename of what lies ready: it holds on a full disk, where
// nothing else can be recorded.
func TestADecisionNeedsNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	for _, decision := range []State{Committed, Aborting} {
		path := tempDir(t)
		assert.NilError(t, unix.Mount("tmpfs", path, "tmpfs", 0, "size=256k,nr_inodes=64,mode=700"))
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		s := openStore(t, path, nil)
		log := bring(t, s, Prepared)
		other := bring(t, s, Staging)

		filler, err := os.Create(filepath.Join(path, "filler"))
		assert.NilError(t, err)
		defer filler.Close()
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		assert.ErrorIs(t, err, unix.ENOSPC)
		for n, err := 0, error(nil); err == nil; n++ {
			err = unix.Mknod(filepath.Join(path, fmt.Sprint("node", n)), unix.S_IFIFO|0o600, 0)
		}
		assert.ErrorIs(t, other.Write(Stopping), unix.ENOSPC)

		assert.NilError(t, log.Decide(decision))
		got, err := s.Load(log.Op.ID)
		assert.NilError(t, err)
		assert.Equal(t, got.State, decision)
		got, err = s.Load(other.Op.ID)
		assert.NilError(t, err)
		assert.Equal(t, got.State, Staging)
	}
}

func TestADecisionThatFailsIsInDoubtAndOneThatCannotBeIsNot(t *testing.T) {
	for _, op := range []durable.Op{durable.OpRename, durable.OpSyncDir} {
		for _, done := range []bool{false, true} {
			broken := errors.New("broken")
			armed := false
			s := openStore(t, tempDir(t), func(step durable.Step) error {
				if armed && step.Op == op && step.Done == done {
					return broken
				}
				return nil
			})
			log := bring(t, s, Prepared)
			armed = true
			err := log.Decide(Committed)
			assert.ErrorIs(t, err, ErrInDoubt)
			assert.ErrorIs(t, err, broken)
			got, err := s.Load(log.Op.ID)
			assert.NilError(t, err)
			assert.Check(t, got.State == Prepared || got.State == Committed, "%s", got.State)
			assert.Equal(t, log.Op.State, Prepared)
		}
	}
	s := openStore(t, tempDir(t), nil)
	for _, state := range States() {
		log := bring(t, s, state)
		for _, decision := range States() {
			if state == Prepared && (decision == Committed || decision == Aborting) {
				continue
			}
			err := log.Decide(decision)
			assert.Check(t, err != nil && !errors.Is(err, ErrInDoubt), "%s decided as %s: %v", state, decision, err)
			got, err := s.Load(log.Op.ID)
			assert.NilError(t, err)
			assert.Equal(t, got.State, state)
		}
		log.Release()
	}
}

// life is all that can happen to an operation, with the states that are
// promised after each call.
func life(decision State) []func(s *Store, op *Operation, log **Log) error {
	write := func(state State) func(*Store, *Operation, **Log) error {
		return func(_ *Store, _ *Operation, log **Log) error { return (*log).Write(state) }
	}
	return []func(*Store, *Operation, **Log) error{
		func(s *Store, op *Operation, log **Log) (err error) {
			*log, err = s.Begin(context.Background(), op)
			return err
		},
		write(Staging),
		write(Stopping),
		func(_ *Store, _ *Operation, log **Log) error { return (*log).Prepare() },
		func(_ *Store, op *Operation, log **Log) error {
			op.Containers = append(op.Containers, Container{ID: "c2", Name: "late"})
			return (*log).Prepare()
		},
		func(_ *Store, _ *Operation, log **Log) error { return (*log).Decide(decision) },
		write(decision),
		write(Starting),
		func(_ *Store, _ *Operation, log **Log) error {
			(*log).Op.Outcome = &Outcome{Result: ResultDone}
			return (*log).Close()
		},
	}
}

// A process that dies before or after any step leaves a journal that can be
// read, with the record that was acknowledged last or the one being written;
// whoever takes over ends the operation, and nothing else stays behind.
func TestACrashAnywhereLeavesTheOldRecordOrTheNew(t *testing.T) {
	for _, decision := range []State{Committed, Aborting} {
		states := []State{"", Staging, Staging, Stopping, Prepared, Prepared, decision, decision, Starting, Closed}
		points := 0
		for k := 0; ; k++ {
			path := tempDir(t)
			dead := errors.New("dead")
			n := 0
			s := openStore(t, path, nil)
			s.dir.Close()
			var err error
			s.dir, err = durable.Open(path, func(durable.Step) error {
				if n++; n > k {
					return dead
				}
				return nil
			})
			assert.NilError(t, err)
			op := example()
			var log *Log
			acknowledged := 0
			for _, call := range life(decision) {
				if err = call(s, op, &log); err != nil {
					break
				}
				acknowledged++
			}
			log.release()
			if err == nil && n <= k {
				points = k
				break
			}
			if err != nil {
				assert.ErrorIs(t, err, dead)
			}

			after := openStore(t, path, nil)
			got, err := after.Load(op.ID)
			state := State("")
			if !errors.Is(err, ErrNotFound) {
				assert.NilError(t, err, "at point %d", k)
				state = got.State
			}
			may := states[acknowledged:min(acknowledged+2, len(states))]
			assert.Assert(t, slices.Contains(may, state), "at point %d: %q, acknowledged %d, may be %q", k, state, acknowledged, may)
			_, err = after.List()
			assert.NilError(t, err)
			finish(t, after, op.ID, state, decision)
			for _, name := range files(t, path) {
				id, is := strings.CutSuffix(name, record)
				assert.Assert(t, is && ValidID(id), "point %d left %s", k, name)
			}
		}
		t.Logf("%s: %d points", decision, points)
		assert.Assert(t, points > 60, "%d points", points)
	}
}

func (l *Log) release() {
	if l != nil {
		l.Release()
	}
}

// finish takes the operation over and ends it; another operation, as the next
// command would, clears away what is left.
func finish(t *testing.T, s *Store, id string, state, decision State) {
	t.Helper()
	if state != "" && state != Closed {
		log, err := s.Takeover(context.Background(), id, 0)
		assert.NilError(t, err)
		assert.Equal(t, log.Op.State, state)
		for log.Op.State != Starting {
			switch log.Op.State {
			case Staging, Stopping:
				assert.NilError(t, log.Write(Aborting))
			case Prepared:
				assert.NilError(t, log.Decide(decision))
			default:
				assert.NilError(t, log.Write(Starting))
			}
		}
		assert.NilError(t, log.Close())
		got, err := s.Load(id)
		assert.NilError(t, err)
		assert.Equal(t, got.State, Closed)
	}
	open, err := s.Open()
	assert.NilError(t, err)
	assert.Equal(t, len(open), 0)
	log, err := s.Begin(context.Background(), &Operation{ID: NewID(), Kind: Create, State: Working})
	assert.NilError(t, err)
	assert.NilError(t, log.Close())
}

func TestRecordsAreNumberedUpwardsThroughADecision(t *testing.T) {
	for _, decision := range []State{Committed, Aborting} {
		s := openStore(t, tempDir(t), nil)
		op := example()
		var log *Log
		last := 0
		for _, call := range life(decision) {
			assert.NilError(t, call(s, op, &log))
			got, env, err := s.load(op.ID)
			assert.NilError(t, err)
			assert.Assert(t, env.Seq > last, "%d after %d", env.Seq, last)
			last = env.Seq
			assert.Equal(t, env.Epoch, 0)
			assert.DeepEqual(t, got.Containers, op.Containers)
		}
	}
}

func TestATakeoverRaisesTheEpoch(t *testing.T) {
	s := openStore(t, tempDir(t), nil)
	log := bring(t, s, Stopping)
	log.Release()
	for epoch := 1; epoch < 4; epoch++ {
		next, err := s.Takeover(context.Background(), log.Op.ID, 0)
		assert.NilError(t, err)
		assert.NilError(t, next.Write(Stopping))
		next.Release()
		_, env, err := s.load(log.Op.ID)
		assert.NilError(t, err)
		assert.Equal(t, env.Epoch, epoch)
		assert.Equal(t, env.Seq, 2+epoch)
	}
}

// What a takeover acts on must not be taken back by a power loss.
func TestATakeoverSyncsBeforeItReads(t *testing.T) {
	path := tempDir(t)
	log := bring(t, openStore(t, path, nil), Prepared)
	log.Release()
	broken := errors.New("broken")
	armed := false
	s := openStore(t, path, func(step durable.Step) error {
		if armed && step.Op == durable.OpSyncDir && !step.Done {
			return broken
		}
		return nil
	})
	armed = true
	_, err := s.Takeover(context.Background(), log.Op.ID, 0)
	assert.ErrorIs(t, err, broken)
	armed = false
	log, err = s.Takeover(context.Background(), log.Op.ID, 0)
	assert.NilError(t, err)
	log.Release()
}

func TestALivingOperationIsNeitherTakenOverNorBegunAgain(t *testing.T) {
	path := tempDir(t)
	s, other := openStore(t, path, nil), openStore(t, path, nil)
	log := bring(t, s, Staging)
	id := log.Op.ID
	alive, err := other.Alive(id)
	assert.NilError(t, err)
	assert.Check(t, alive)
	var locked *LockedError
	_, err = other.Takeover(context.Background(), id, 0)
	assert.Assert(t, errors.As(err, &locked), "%v", err)
	assert.Equal(t, locked.Holder.Operation, id)
	assert.Equal(t, locked.Holder.Kind, Restore)
	again := example()
	again.ID = id
	_, err = other.Begin(context.Background(), again)
	assert.Assert(t, errors.As(err, &locked), "%v", err)

	log.Release()
	alive, err = other.Alive(id)
	assert.NilError(t, err)
	assert.Check(t, !alive)
	_, err = other.Begin(context.Background(), again)
	assert.ErrorContains(t, err, "it exists already")
	taken, err := other.Takeover(context.Background(), id, 0)
	assert.NilError(t, err)
	taken.Release()
}

// Looking whether an operation lives must not make a takeover fail.
func TestLookingDisturbsNoTakeover(t *testing.T) {
	s := openStore(t, tempDir(t), nil)
	log := bring(t, s, Staging)
	log.Release()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Alive(log.Op.ID); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 50 {
		taken, err := s.Takeover(context.Background(), log.Op.ID, time.Minute)
		if err != nil {
			t.Error(err)
			break
		}
		taken.Release()
	}
	close(stop)
	<-done
}

func TestAnOperationNobodyKnowsIsNotAlive(t *testing.T) {
	path := tempDir(t)
	s := openStore(t, path, nil)
	alive, err := s.Alive(NewID())
	assert.NilError(t, err)
	assert.Check(t, !alive)
	entries, err := os.ReadDir(filepath.Join(path, lockDirectory))
	assert.NilError(t, err)
	assert.Equal(t, len(entries), 0, "a look left a lock file")
}

func TestOldClosedOperationsAreForgottenAndOpenOnesAreNot(t *testing.T) {
	path := tempDir(t)
	s := openStore(t, path, nil)
	open := bring(t, s, Prepared)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var ids []string
	for i := range keepClosed + 5 {
		op := &Operation{ID: NewID(), Kind: Create, State: Working, Created: begin.Add(time.Duration(i) * time.Hour)}
		log, err := s.Begin(context.Background(), op)
		assert.NilError(t, err)
		assert.NilError(t, log.Close())
		ids = append(ids, op.ID)
	}
	ops, err := s.List()
	assert.NilError(t, err)
	var closed []string
	for _, op := range ops {
		if op.State == Closed {
			closed = append(closed, op.ID)
		}
	}
	assert.DeepEqual(t, closed, ids[5:])
	_, err = s.Load(open.Op.ID)
	assert.NilError(t, err)
	locks, err := os.ReadDir(filepath.Join(path, lockDirectory))
	assert.NilError(t, err)
	assert.Equal(t, len(locks), keepClosed+1)
}

func TestWhatALivingOperationNeedsIsNotTidiedAway(t *testing.T) {
	path := tempDir(t)
	s, other := openStore(t, path, nil), openStore(t, path, nil)
	log := bring(t, s, Prepared)
	dead := bring(t, s, Prepared)
	dead.Release()
	for _, id := range []string{log.Op.ID, dead.Op.ID} {
		assert.NilError(t, os.WriteFile(filepath.Join(path, ".tmp-"+id+record), nil, 0o600))
	}
	next := bring(t, other, Working)
	assert.NilError(t, next.Close())
	want := []string{
		".tmp-" + log.Op.ID + record, next.Op.ID + record,
		log.Op.ID + record, log.Op.ID + ifCommitted, log.Op.ID + ifAborting,
		dead.Op.ID + record, dead.Op.ID + ifCommitted, dead.Op.ID + ifAborting,
	}
	slices.Sort(want)
	assert.DeepEqual(t, files(t, path), want)
	assert.NilError(t, log.Decide(Aborting))
}

func TestAnErrorThatIsNotTheRecordsIsNotCalledDamage(t *testing.T) {
	s := openStore(t, tempDir(t), nil)
	log := bring(t, s, Staging)
	s.dir.Close()
	_, err := s.Load(log.Op.ID)
	assert.Assert(t, err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, fs.ErrNotExist), "%v", err)
}
