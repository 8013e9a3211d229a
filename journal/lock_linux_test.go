package journal

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// holderVariable makes the test binary a process that holds locks: its value
// is the request below.
const holderVariable = "JOURNAL_TEST_HOLD"

type holdRequest struct {
	Dir    string
	Keys   []Key
	Holder Holder
}

func TestMain(m *testing.M) {
	if request := os.Getenv(holderVariable); request != "" {
		if err := hold(request); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hold locks, says so, and holds until its standard input ends.
func hold(request string) error {
	var r holdRequest
	if err := json.Unmarshal([]byte(request), &r); err != nil {
		return err
	}
	dir, err := durable.Open(r.Dir, nil)
	if err != nil {
		return err
	}
	locks, err := OpenLocks(dir)
	if err != nil {
		return err
	}
	held, err := locks.Lock(context.Background(), r.Keys, r.Holder, 0)
	if err != nil {
		return err
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	held.Release()
	return err
}

// process is another process that holds locks.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func holding(t *testing.T, r holdRequest) *process {
	t.Helper()
	request, err := json.Marshal(r)
	assert.NilError(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holderVariable+"="+string(request))
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	p := &process{cmd: cmd, in: in}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "held\n")
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill() // SIGKILL
	p.cmd.Wait()
}

func openLocks(t *testing.T, path string) *Locks {
	t.Helper()
	dir, err := durable.Open(path, nil)
	assert.NilError(t, err)
	defer dir.Close()
	locks, err := OpenLocks(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { locks.Close() })
	return locks
}

var me = Holder{Operation: "0123456789ab", Kind: Restore, Since: time.Unix(1700000000, 0)}

// A child has a copy of each descriptor from its fork to its exec.
func TestAReleasedLockIsFreeWhoeverHasACopyOfItsDescriptor(t *testing.T) {
	locks := openLocks(t, tempDir(t))
	keys := Exclusive("volume:shop_db")
	held, err := locks.Lock(context.Background(), keys, me, 0)
	assert.NilError(t, err)
	kept, err := unix.Dup(int(held.files[0].Fd()))
	assert.NilError(t, err)
	defer unix.Close(kept)
	held.Release()
	held, err = locks.Lock(context.Background(), keys, me, 0)
	assert.NilError(t, err)
	held.Release()
}

func TestALockExcludesOtherProcessesUntilTheyEndOrAreKilled(t *testing.T) {
	path := tempDir(t)
	locks := openLocks(t, path)
	keys := Exclusive("volume:shop_db", "workload:shop")
	for what, end := range map[string]func(*process){
		"released": func(p *process) { p.in.Close() },
		"killed":   (*process).kill,
	} {
		other := holding(t, holdRequest{Dir: path, Keys: keys, Holder: me})
		for _, key := range keys {
			_, err := locks.Lock(context.Background(), []Key{key}, Holder{}, 0)
			var locked *LockedError
			assert.Assert(t, errors.As(err, &locked), "%v", err)
			assert.Equal(t, locked.Key, key.Name)
			assert.Equal(t, locked.Holder.Operation, me.Operation)
			assert.Equal(t, locked.Holder.Kind, me.Kind)
			assert.Check(t, locked.Holder.Since.Equal(me.Since))
			for _, part := range []string{key.Name, me.Operation, string(me.Kind)} {
				assert.ErrorContains(t, err, part)
			}
		}
		end(other)
		held, err := locks.Lock(context.Background(), keys, Holder{}, time.Minute)
		assert.NilError(t, err, what)
		held.Release()
	}
}

func TestSharedHoldersExcludeOnlyAnExclusiveOne(t *testing.T) {
	path := tempDir(t)
	locks := openLocks(t, path)
	ctx := context.Background()
	shared, exclusive := []Key{{Name: "snapshot:x", Shared: true}}, Exclusive("snapshot:x")
	other := holding(t, holdRequest{Dir: path, Keys: shared, Holder: me})
	mine, err := locks.Lock(ctx, shared, Holder{Operation: "me"}, 0)
	assert.NilError(t, err)
	var locked *LockedError
	_, err = locks.Lock(ctx, exclusive, Holder{}, 0)
	assert.Assert(t, errors.As(err, &locked), "%v", err)
	mine.Release()
	_, err = locks.Lock(ctx, exclusive, Holder{}, 0)
	assert.Assert(t, errors.As(err, &locked), "the other process still holds it: %v", err)
	other.kill()
	alone, err := locks.Lock(ctx, exclusive, Holder{}, time.Minute)
	assert.NilError(t, err)
	_, err = locks.Lock(ctx, shared, Holder{}, 0)
	assert.Assert(t, errors.As(err, &locked), "%v", err)
	alone.Release()
}

// Who is named holds the lock, or nobody is named.
func TestAHolderThatIsGoneIsNotNamed(t *testing.T) {
	locks := openLocks(t, tempDir(t))
	ctx := context.Background()
	first, err := locks.Lock(ctx, Exclusive("k"), Holder{Operation: "first"}, 0)
	assert.NilError(t, err)
	first.Release()
	shared := []Key{{Name: "k", Shared: true}}
	second, err := locks.Lock(ctx, shared, Holder{Operation: "second"}, 0)
	assert.NilError(t, err)
	third, err := locks.Lock(ctx, shared, Holder{Operation: "third"}, 0)
	assert.NilError(t, err)
	named := func() string {
		_, err := locks.Lock(ctx, Exclusive("k"), Holder{}, 0)
		var locked *LockedError
		assert.Assert(t, errors.As(err, &locked), "%v", err)
		return locked.Holder.Operation
	}
	assert.Equal(t, named(), "third")
	third.Release()
	assert.Equal(t, named(), "")
	assert.ErrorContains(t, &LockedError{Key: "k"}, "k is held by another operation")
	second.Release()
}

func TestOfSeveralKeysAllAreHeldOrNone(t *testing.T) {
	locks := openLocks(t, tempDir(t))
	ctx := context.Background()
	last, err := locks.Lock(ctx, Exclusive("c"), Holder{}, 0)
	assert.NilError(t, err)
	_, err = locks.Lock(ctx, Exclusive("c", "a", "b"), Holder{}, 0)
	assert.Assert(t, err != nil)
	rest, err := locks.Lock(ctx, Exclusive("b", "a", "b", "a"), Holder{}, 0)
	assert.NilError(t, err)
	rest.Add(last)
	_, err = locks.Lock(ctx, Exclusive("c"), Holder{}, 0)
	assert.Assert(t, err != nil)
	rest.Release()
	rest.Release()
	all, err := locks.Lock(ctx, Exclusive("a", "b", "c"), Holder{}, 0)
	assert.NilError(t, err)
	all.Release()
	var none *Held
	none.Release()
}

func TestKeysAreTakenSortedAndOnceTheStrongerWay(t *testing.T) {
	got := ordered([]Key{{"c", false}, {"a", true}, {"b", true}, {"a", false}, {"b", true}})
	assert.DeepEqual(t, got, []Key{{"a", false}, {"b", true}, {"c", false}})
}

func TestWaitingForALockEndsWithItsReleaseTheTimeoutOrTheContext(t *testing.T) {
	locks := openLocks(t, tempDir(t))
	held, err := locks.Lock(context.Background(), Exclusive("k"), me, 0)
	assert.NilError(t, err)

	begin := time.Now()
	_, err = locks.Lock(context.Background(), Exclusive("k"), Holder{}, 50*time.Millisecond)
	var locked *LockedError
	assert.Assert(t, errors.As(err, &locked), "%v", err)
	assert.Check(t, time.Since(begin) >= 50*time.Millisecond, "gave up before the timeout")

	ctx, cancel := context.WithCancel(context.Background())
	cancelled := make(chan error)
	go func() {
		_, err := locks.Lock(ctx, Exclusive("k"), Holder{}, time.Hour)
		cancelled <- err
	}()
	cancel()
	assert.ErrorIs(t, <-cancelled, context.Canceled)

	got := make(chan error)
	go func() {
		held, err := locks.Lock(context.Background(), Exclusive("k"), Holder{}, time.Minute)
		held.Release()
		got <- err
	}()
	held.Release()
	assert.NilError(t, <-got)
}

func TestAnyKeyMakesOneFileOfItsOwn(t *testing.T) {
	path := tempDir(t)
	locks := openLocks(t, path)
	long := "volume:" + strings.Repeat("v", 255)
	keys := []string{
		"volume:shop_db", "volume:shop/db", "volume:shop%2Fdb", "bind:/srv/data", "../../etc/passwd",
		long, long + "x", "volume:" + strings.Repeat("ä", 255), "volume:naïve\nname",
	}
	held, err := locks.Lock(context.Background(), Exclusive(keys...), me, 0)
	assert.NilError(t, err)
	defer held.Release()
	entries, err := os.ReadDir(path)
	assert.NilError(t, err)
	assert.Equal(t, len(entries), len(keys))
	for _, bad := range []string{"", ".", ".."} {
		_, err := locks.Lock(context.Background(), Exclusive(bad), me, 0)
		assert.Check(t, err != nil, "%q", bad)
	}
	parent, err := os.ReadDir(filepath.Dir(path))
	assert.NilError(t, err)
	assert.Equal(t, len(parent), 1)
}

// contend lets many take overlapping sets of keys, and fails when two hold
// what excludes them or when somebody is left waiting.
func contend(t *testing.T, contenders int, each func(n int, random *rand.Rand, enter func(keys []Key) func())) {
	t.Helper()
	var mu sync.Mutex
	inside := map[string]int{} // shared holders, or -1
	enter := func(keys []Key) func() {
		mu.Lock()
		defer mu.Unlock()
		for _, key := range keys {
			switch {
			case key.Shared && inside[key.Name] < 0, !key.Shared && inside[key.Name] != 0:
				t.Errorf("%+v is held by two", key)
			case key.Shared:
				inside[key.Name]++
			default:
				inside[key.Name] = -1
			}
		}
		return func() {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				if key.Shared {
					inside[key.Name]--
				} else {
					inside[key.Name] = 0
				}
			}
		}
	}
	var all sync.WaitGroup
	for n := range contenders {
		all.Go(func() { each(n, rand.New(rand.NewPCG(uint64(n), 1)), enter) })
	}
	all.Wait()
}

func TestAHundredContendersForOverlappingSetsAllGetThrough(t *testing.T) {
	path := tempDir(t)
	contend(t, 100, func(n int, random *rand.Rand, enter func([]Key) func()) {
		locks := openLocks(t, path)
		var keys []Key
		for _, name := range random.Perm(6)[:3] {
			keys = append(keys, Key{Name: fmt.Sprint("key", name), Shared: random.IntN(3) == 0})
		}
		held, err := locks.Lock(context.Background(), keys, Holder{Operation: fmt.Sprint(n)}, 2*time.Minute)
		if err != nil {
			t.Error(err)
			return
		}
		leave := enter(keys)
		leave()
		held.Release()
	})
}

// An operation's lock file goes with its record; while that happens nobody may
// come to hold the file that has no name.
func TestAForgottenLockFileHasNoTwoHolders(t *testing.T) {
	path := tempDir(t)
	contend(t, 20, func(n int, _ *rand.Rand, enter func([]Key) func()) {
		locks := openLocks(t, path)
		for range 20 {
			held, err := locks.Lock(context.Background(), Exclusive("k"), Holder{Operation: fmt.Sprint(n)}, 2*time.Minute)
			if err != nil {
				t.Error(err)
				return
			}
			leave := enter(Exclusive("k"))
			leave()
			locks.forget("k")
			held.Release()
		}
	})
	_, err := os.Lstat(filepath.Join(path, "k"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestExclusiveMakesExclusiveKeys(t *testing.T) {
	assert.Check(t, slices.Equal(Exclusive("a", "b"), []Key{{Name: "a"}, {Name: "b"}}))
}
