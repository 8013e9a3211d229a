package volplugin

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

func TestMountShowsTheTreeAtAConstantPathUntilTheLastUnmount(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	first := mustMount(t, d, "db", "one")
	assert.Equal(t, first, filepath.Join(d.config.Points, "db"))
	assert.Equal(t, text(first), "data")
	assert.Equal(t, mustMount(t, d, "db", "two"), first)
	d.unmount("db", "one")
	assert.Equal(t, text(first), "data")
	d.unmount("db", "two")
	assert.Equal(t, text(first), "")
	assert.Assert(t, !isBound(t, d, "db"))
	d.unmount("db", "two") // an engine may say it twice
	assert.Equal(t, mustMount(t, d, "db", "three"), first)
}

func TestOneIdMountedTwiceNeedsTwoUnmounts(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "same")
	mustMount(t, d, "db", "same") // docker cp beside a running container
	d.unmount("db", "same")
	assert.Equal(t, text(path), "data")
	d.unmount("db", "same")
	assert.Assert(t, !isBound(t, d, "db"))
}

func TestMountsOfADeadEngineAreTakenAway(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	engine := exec.Command("sleep", "1000")
	engine.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	assert.NilError(t, engine.Start())
	_, err := d.mount(context.Background(), "db", "lost", look(engine.Process.Pid))
	assert.NilError(t, err)
	d.Reap()
	assert.Assert(t, isBound(t, d, "db"), "a living engine's mount was taken away")
	assert.NilError(t, engine.Process.Kill())
	_ = engine.Wait()
	d.Reap()
	assert.Assert(t, !isBound(t, d, "db"))
}

func TestPathWithoutAMountCannotBeWrittenTo(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "one")
	d.unmount("db", "one")
	err := os.WriteFile(filepath.Join(path, "lost"), nil, 0o600)
	assert.ErrorIs(t, err, unix.EROFS)
	assert.ErrorIs(t, os.Mkdir(path+"2", 0o700), unix.EROFS)
}

func TestNextDriverStartsWithoutTheMountsOfTheLast(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "one")
	c := startContainer(t, path)
	for range 3 {
		d = s.open(t)
		assert.Assert(t, !isBound(t, d, "db"))
		assert.Equal(t, c.read(t, "f"), "data") // a running container keeps its mount
		assert.Equal(t, text(mustMount(t, d, "db", "two")), "data")
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(t, err)
	assert.Equal(t, strings.Count(string(data), " "+path+" "), 1, "mounts pile up")
}

// TestServiceOfTheHostMakesItsOwnPaths: nothing but the state root is there,
// as when the machine starts, and the driver may be started again at will.
func TestServiceOfTheHostMakesItsOwnPaths(t *testing.T) {
	s := newStage(t)
	s.config.Points = filepath.Join(filepath.Dir(s.config.Root), "run", "snaprestore", "mnt")
	d := s.open(t)
	makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "one")
	assert.Equal(t, text(path), "data")
	c := startContainer(t, path)
	d = s.open(t)
	assert.Assert(t, !isBound(t, d, "db"))
	assert.Equal(t, text(mustMount(t, d, "db", "two")), "data")
	assert.Equal(t, c.read(t, "f"), "data")
}

// TestMountInEveryState walks the states of an operation and how far its swap
// has come: a Mount gives the tree that the operation is bound to end with, or
// it fails and names the operation, and never shows anything else.
func TestMountInEveryState(t *testing.T) {
	for _, c := range []struct {
		state  journal.State
		fenced bool
		in     bool // the new tree is in place
		want   string
	}{
		{state: journal.Staging, want: "old"},
		{state: journal.Stopping, want: "old"},
		{state: journal.Prepared},
		{state: journal.Prepared, fenced: true},
		{state: journal.Committed, fenced: true},
		{state: journal.Committed, fenced: true, in: true, want: "new"},
		{state: journal.Aborting, fenced: true},
		{state: journal.Aborting, want: "old"},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			s := newStage(t)
			s.config.Wait = 200 * time.Millisecond
			d := s.open(t)
			v := makeVolume(t, d, "db", "old", nil)
			j := swapOf(t, v, "new")
			begin(t, d, c.state, j) // it stays alive
			if c.fenced {
				raise(t, j)
			}
			if c.in {
				assert.NilError(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(v.Dir, j.Live),
					unix.AT_FDCWD, filepath.Join(v.Dir, j.Stage), unix.RENAME_EXCHANGE))
			}
			path, err := d.mount(context.Background(), "db", "id", me())
			if c.want == "" {
				assert.ErrorContains(t, err, opID)
				assert.Assert(t, fault.Is(err, fault.Locked))
				assert.Assert(t, fault.From(err).Hint != "")
				assert.Assert(t, !isBound(t, d, "db"))
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, text(path), c.want)
		})
	}
}

func TestMountWaitsForTheOperationAndShowsItsResult(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "old", nil)
	j := swapOf(t, v, "new")
	l := begin(t, d, journal.Prepared, j)
	raise(t, j)
	type answer struct {
		path string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		path, err := d.mount(context.Background(), "db", "id", me())
		answers <- answer{path, err}
	}()
	// The operation dies undecided; whoever comes first decides, here the
	// waiting mount itself.
	l.Release()
	a := <-answers
	assert.NilError(t, a.err)
	assert.Equal(t, text(a.path), "new")
	op, err := d.journal.Load(opID)
	assert.NilError(t, err)
	assert.Equal(t, op.State, journal.Committed)
}

func TestMountThatTheEngineGivesUpLeavesNothing(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "old", nil)
	begin(t, d, journal.Prepared, swapOf(t, v, "new"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := d.mount(ctx, "db", "id", me())
	assert.ErrorIs(t, err, context.Canceled)
	assert.Assert(t, !isBound(t, d, "db"))
	assert.Equal(t, len(d.leases), 0)
}

func TestMountFailsSoonWhenTheOperationWaitsForTheSameContainer(t *testing.T) {
	s := newStage(t)
	s.config.Wait = time.Minute
	d := s.open(t)
	a, b := makeVolume(t, d, "a", "old", nil), makeVolume(t, d, "b", "old", nil)
	mustMount(t, d, "a", "id") // a container is on its way, and wants b next
	ja, jb := swapOf(t, a, "new"), swapOf(t, b, "new")
	begin(t, d, journal.Prepared, ja, jb)
	raise(t, ja)
	raise(t, jb)
	_, err := d.mount(context.Background(), "b", "id2", me())
	assert.ErrorContains(t, err, "waits for a container that is being started")
}

// TestOperationThatFencesDuringTheMount prepares and fences, or fences and
// dies, just after the tree was bound.
func TestOperationThatFencesDuringTheMount(t *testing.T) {
	for _, fence := range []bool{false, true} {
		s := newStage(t)
		s.config.Wait = 200 * time.Millisecond
		d := s.open(t)
		v := makeVolume(t, d, "db", "old", nil)
		j := swapOf(t, v, "new")
		l := begin(t, d, journal.Stopping, j)
		d.afterBind = func() {
			d.afterBind = nil
			assert.Assert(t, text(d.points.path("db")) == "old", "the tree is not bound yet")
			assert.Check(t, l.Prepare())
			if fence {
				raise(t, j)
			}
		}
		_, err := d.mount(context.Background(), "db", "id", me())
		assert.ErrorContains(t, err, opID)
		assert.Assert(t, !isBound(t, d, "db"))
	}
}

func TestTreeThatContainersStillUseIsNotMixedWithTheNewOne(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "old", nil)
	c := startContainer(t, mustMount(t, d, "db", "one"))
	j := swapOf(t, v, "new")
	// Somebody swaps without asking.
	raise(t, j)
	assert.NilError(t, os.Remove(filepath.Join(v.Dir, volume.Live)))
	assert.NilError(t, os.Rename(filepath.Join(v.Dir, j.Stage), filepath.Join(v.Dir, volume.Live)))
	_, err := d.mount(context.Background(), "db", "two", me())
	assert.ErrorContains(t, err, "still runs on data that was replaced")
	assert.Equal(t, c.read(t, "f"), "old")
	c.kill()
	assert.Equal(t, text(mustMount(t, d, "db", "two")), "new")
}

func TestFenceThatNoOperationExplainsIsToldWithItsText(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "old", nil)
	raise(t, journal.Volume{Dir: v.Dir, Live: volume.Live, Fence: "x"})
	_, err := d.mount(context.Background(), "db", "id", me())
	assert.ErrorContains(t, err, "dangling")
	assert.Assert(t, fault.Is(err, fault.Interrupted))
}

func TestDamagedJournalShutsEveryVolume(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	assert.NilError(t, os.WriteFile(filepath.Join(d.config.Root, "journal", opID+".json"), []byte("{"), 0o600))
	_, err := d.mount(context.Background(), "db", "id", me())
	assert.ErrorIs(t, err, journal.ErrCorrupt)
	d.Settle(context.Background())
	assert.Assert(t, !isBound(t, d, "db"))
}

func TestEngineThatDoesNotSeeTheMountGetsNoPath(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	far := exec.Command("sleep", "1000")
	far.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	assert.NilError(t, far.Start())
	defer func() { _ = far.Process.Kill(); _ = far.Wait() }()
	own, err := os.Readlink("/proc/self/ns/mnt")
	assert.NilError(t, err)
	eventually(t, "the other namespace", func() bool {
		theirs, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(far.Process.Pid), "ns", "mnt"))
		return err == nil && theirs != own
	})
	_, err = d.mount(context.Background(), "db", "id", look(far.Process.Pid))
	assert.ErrorIs(t, err, errUnseen)
	assert.Assert(t, !isBound(t, d, "db"))
}

// TestLossOfTheMountPathsIsNoticedBeforeAMount: an engine that takes the
// shared mount away is noticed without a call.
func TestLossOfTheMountPathsIsNoticedBeforeAMount(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	engine := &contact{process: me(), since: time.Now().Add(-time.Hour)}
	assert.NilError(t, watched(d, nil))
	assert.NilError(t, watched(d, engine))
	unmountBelow(t, filepath.Dir(s.config.Points))
	assert.NilError(t, watched(d, &contact{process: me(), since: time.Now()}), "too early for the engine")
	assert.ErrorIs(t, watched(d, engine), errUnseen)
}

func TestRemoveRefusesWhatIsInUse(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "data", nil)
	path := mustMount(t, d, "db", "one")
	assert.ErrorContains(t, d.remove("db"), "it is mounted")
	c := startContainer(t, path)
	d.unmount("db", "one")
	c.kill()
	held, err := d.journal.Locks().Lock(context.Background(), journal.Exclusive(v.LockKey()),
		journal.Holder{Operation: opID, Kind: journal.Create, Since: time.Now()}, 0)
	assert.NilError(t, err)
	err = d.remove("db")
	assert.ErrorContains(t, err, "create "+opID+" is at work")
	assert.Assert(t, fault.Is(err, fault.Locked))
	held.Release()
	l := begin(t, d, journal.Staging, swapOf(t, v, "new"))
	l.Release() // dead, but it still is open
	assert.ErrorContains(t, d.remove("db"), "restore "+opID+" is at work")
	assert.Equal(t, text(filepath.Join(v.Dir, volume.Live)), "data")
}

func TestRemoveTakesTheDataAndKeepsSnapshots(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "data", nil)
	kept := filepath.Join(v.Dir, ".snaprestore-"+opID+".old")
	assert.NilError(t, os.Mkdir(kept, 0o755))
	assert.NilError(t, d.remove("db"))
	assert.NilError(t, d.remove("db")) // it is gone, which was wanted
	_, err := d.find("db")
	assert.ErrorIs(t, err, volume.ErrNotFound)
	_, err = os.Stat(kept)
	assert.NilError(t, err)
	makeVolume(t, d, "db", "again", nil)
	_, err = os.Stat(kept)
	assert.NilError(t, err)
}

func TestOperationThatGoesBackMayRemoveTheVolumeItMade(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "db", "data", nil)
	j := swapOf(t, v, "new")
	j.Created = true
	held, err := d.journal.Locks().Lock(context.Background(), journal.Exclusive(v.LockKey()), journal.Holder{}, 0)
	assert.NilError(t, err)
	defer held.Release()
	l := begin(t, d, journal.Stopping, j)
	assert.Assert(t, fault.Is(d.remove("db"), fault.Locked))
	assert.NilError(t, l.Write(journal.Aborting))
	assert.NilError(t, d.remove("db"))
}

// An adoption has the engine remove the volume whose tree it has parked, and
// nobody may before.
func TestAdoptionMayRemoveTheVolumeWhoseTreeItParked(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	v := makeVolume(t, d, "db", "data", nil)
	held, err := d.journal.Locks().Lock(context.Background(), journal.Exclusive(v.LockKey()), journal.Holder{}, 0)
	assert.NilError(t, err)
	defer held.Release()
	l, err := d.journal.Begin(context.Background(), &journal.Operation{
		ID: opID, Kind: journal.Adopt, State: journal.Working, Created: time.Now().UTC(),
		Volumes: []journal.Volume{{Name: "db", Dir: v.Dir, Live: volume.Live}},
		Remake:  &journal.Remake{From: journal.Spec{Driver: volume.Driver}, To: journal.Spec{Driver: "local"}},
	})
	assert.NilError(t, err)
	defer l.Release()
	assert.Assert(t, fault.Is(d.remove("db"), fault.Locked))
	parking := filepath.Join(s.config.Root, restore.Parking)
	assert.NilError(t, os.Mkdir(parking, 0o700))
	assert.NilError(t, os.Rename(filepath.Join(v.Dir, volume.Live), filepath.Join(parking, opID)))
	assert.Assert(t, fault.Is(d.remove("db"), fault.Locked), "it is not on record as parked")
	l.Op.Remake.Parked = true
	assert.NilError(t, l.Write(journal.Working))
	assert.NilError(t, d.remove("db"))
	assert.Equal(t, text(filepath.Join(parking, opID)), "data")
}

func TestStatusTellsScopeGenerationAndOperation(t *testing.T) {
	d := newStage(t).open(t)
	v := makeVolume(t, d, "a", "data", map[string]string{"scope": "project", "project": "p"})
	makeVolume(t, d, "b", "data", map[string]string{"scope": "project", "project": "p"})
	_, status, err := d.describe("a")
	assert.NilError(t, err)
	assert.Equal(t, status["scope"], "project")
	assert.Equal(t, status["generation"], initial)
	assert.DeepEqual(t, status["shared_with"], []string{"b"})
	assert.Equal(t, len(status["snapshots"].([]map[string]any)), 0)
	assert.Assert(t, status["operation"] == nil)

	l := begin(t, d, journal.Prepared, swapOf(t, v, "new"))
	_, status, err = d.describe("b") // the tree is shared, and so is the operation
	assert.NilError(t, err)
	assert.Equal(t, status["operation"].(map[string]any)["id"], opID)
	assert.NilError(t, l.Decide(journal.Committed))
	assert.NilError(t, l.Write(journal.Starting))
	l.Op.Outcome = &journal.Outcome{Result: journal.ResultDone}
	assert.NilError(t, l.Close())
	_, status, err = d.describe("a")
	assert.NilError(t, err)
	assert.Equal(t, status["generation"], opID)
	assert.Assert(t, status["operation"] == nil)
}

// TestStartsRacingARestoreSeeOneSetOfData lets containers mount two volumes,
// one after the other, while both are swapped: all old or all new, or the
// start fails.
func TestStartsRacingARestoreSeeOneSetOfData(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	met := map[string]int{}
	for round := range 40 {
		a, b := makeVolume(t, d, "a", "old", nil), makeVolume(t, d, "b", "old", nil)
		l := begin(t, d, journal.Stopping, swapOf(t, a, "new"), swapOf(t, b, "new"))
		starts := make(chan string, 1)
		begun := make(chan struct{})
		start := func(at int) {
			if round%4 == at {
				close(begun)
			}
		}
		go func() {
			<-begun
			seen := ""
			for _, name := range []string{"a", "b"} {
				path, err := d.mount(context.Background(), name, "id", me())
				if err != nil {
					seen = "failed"
					break
				}
				seen += text(path)
			}
			d.unmount("a", "id")
			d.unmount("b", "id")
			starts <- seen
		}()
		start(0)
		assert.NilError(t, l.Prepare())
		start(1)
		l.Release()
		start(2)
		// The driver's own settling is the restore: it fences, looks for
		// mounts, and gives way to them.
		settled := func() bool {
			op, err := d.journal.Load(opID)
			assert.NilError(t, err)
			if op.State == journal.Prepared {
				d.settle(context.Background(), op)
			}
			return op.State == journal.Committed
		}
		settled()
		start(3)
		eventually(t, "the decision", settled)
		seen := <-starts
		met[seen]++
		assert.Assert(t, seen == "oldold" || seen == "newnew" || seen == "failed", seen)
		assert.Equal(t, text(filepath.Join(a.Dir, volume.Live))+text(filepath.Join(b.Dir, volume.Live)), "newnew")

		l, err := d.journal.Takeover(context.Background(), opID, 5*time.Second)
		assert.NilError(t, err)
		assert.NilError(t, l.Write(journal.Starting))
		assert.NilError(t, l.Close())
		assert.NilError(t, os.Remove(filepath.Join(d.config.Root, "journal", opID+".json")))
		for _, v := range []volume.Volume{a, b} {
			assert.NilError(t, os.RemoveAll(filepath.Join(v.Dir, ".snaprestore-"+opID+".old")))
			assert.NilError(t, d.remove(v.Name))
		}
	}
	assert.Assert(t, met["newnew"] > 0, "no start came late: %v", met)
}
