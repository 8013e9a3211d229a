//go:build e2e && linux

package crashes

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/enginetest"
)

// perFileSystem is how many images of each file system are checked at least.
const perFileSystem = 1000

// disks is one file system under test.
type disks struct {
	kind
	t   *testing.T
	dir string // of the run, in memory
	at  string // where it is mounted
}

func newDisks(t *testing.T, k kind) *disks {
	dir := filepath.Join(scratch, strings.ReplaceAll(t.Name(), "/", "-"))
	at := filepath.Join(dir, "mounted")
	assert.NilError(t, os.MkdirAll(at, 0o755))
	t.Cleanup(func() { assert.NilError(t, os.RemoveAll(dir)) })
	return &disks{kind: k, t: t, dir: dir, at: at}
}

// record carries a scenario's operation out on a disk that is recorded.
func (d *disks) record(sc scenario) (*world, *recording) {
	d.t.Helper()
	disk := filepath.Join(d.dir, "disk")
	assert.NilError(d.t, d.make(disk))
	assert.NilError(d.t, d.kind.mount(disk, d.at))
	w := newWorld(d.t, d.at)
	sc.prepare(d.t, w)
	first, err := w.e.Checkpoint()
	assert.NilError(d.t, err)
	w.leave()
	assert.NilError(d.t, d.unmount(d.at))

	r := &recording{}
	r.base, r.size, err = readDisk(disk, d.sector)
	assert.NilError(d.t, err)
	log, unmount, err := d.mountRecorded(disk, d.at)
	assert.NilError(d.t, err)
	note := func(told bool) error {
		info, err := os.Stat(log)
		if err != nil {
			return err
		}
		now, err := w.e.Checkpoint()
		r.marks = append(r.marks, mark{at: info.Size(), engine: now.PowerOff(), told: told})
		return err
	}
	assert.NilError(d.t, w.e.Rewind(first))
	assert.NilError(d.t, note(false))
	began := r.marks[0].at
	w.e.Hook = func(c enginetest.Call) error {
		if c.Done && c.Changes() {
			return note(false)
		}
		return nil
	}
	failed := w.run(sc.call)
	w.e.Hook = nil
	failed = errors.Join(failed, note(true))
	w.leave()
	assert.NilError(d.t, errors.Join(failed, unmount()), sc.name)
	r.events, err = readLog(log, d.sector)
	assert.NilError(d.t, err)
	assert.NilError(d.t, r.cut(began, r.marks[len(r.marks)-1].at))
	assert.NilError(d.t, errors.Join(os.Remove(log), os.Remove(disk)))
	return w, r
}

// check mounts an image and recovers from it.
func (d *disks) check(w *world, sc scenario, img image) (err error) {
	file := filepath.Join(d.dir, "image")
	if err := img.write(file, d.size, d.sector); err != nil {
		return err
	}
	if err := d.kind.mount(file, d.at); err != nil {
		return err
	}
	defer func() {
		w.leave()
		if failed := d.unmount(d.at); failed != nil {
			d.t.Fatal(failed) // nothing can be mounted there any more
		}
	}()
	if err := w.boot(d.t, img.engine); err != nil {
		return err
	}
	booted, err := w.e.Checkpoint()
	if err != nil {
		return err
	}
	if err := w.neverMixed(); err != nil {
		return err
	}
	if err := w.e.Rewind(booted); err != nil {
		return err
	}
	return w.recovered(sc, img.told, w.recovers)
}

// keep leaves an image where it can be looked at after the run.
func (d *disks) keep(sc scenario, img image) string {
	dir := os.Getenv("SNAPRESTORE_E2E_ARTIFACTS")
	if dir == "" {
		dir = os.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err.Error()
	}
	f, err := os.CreateTemp(dir, strings.ReplaceAll("powerloss-"+d.name+"-"+sc.name, " ", "-")+"-*.img")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := img.write(f.Name(), d.size, d.sector); err != nil {
		return err.Error()
	}
	return f.Name()
}

// rounds bounds the recordings of a scenario by the images that are wanted.
func rounds(images int) int { return 4 + images/100 }

// powerLosses checks up to most images of a recording of its own.
func (d *disks) powerLosses(sc scenario, most int, random *rand.Rand) int {
	d.t.Helper()
	w, r := d.record(sc)
	choices := r.choices(most, random)
	err := r.images(choices, func(img image) error {
		if err := d.check(w, sc, img); err != nil {
			return fmt.Errorf("%s: %w (the image is kept as %s)", img.how, err, d.keep(sc, img))
		}
		return nil
	})
	assert.NilError(d.t, err, sc.name)
	d.t.Logf("%s: %d writes, %d flushes, %d images", sc.name, len(r.events)-r.flushes(), r.flushes(), len(choices))
	return len(choices)
}

// A power loss at any moment of any operation, whatever it takes of the blocks
// that were not flushed, leaves a file system from which recovery leads to one
// of the two ends, and on which before that no container starts on a mixture.
func TestEveryPowerLossOnARealFileSystemIsRecoveredFrom(t *testing.T) {
	needRoot(t)
	base := number(t, "SNAPRESTORE_POWERLOSS_SEED", 1)
	want := number(t, "SNAPRESTORE_POWERLOSS_IMAGES", perFileSystem)
	for _, k := range []kind{ext4, xfs, btrfsDisk} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, k)
			checked := 0
			// A recording has only so many different images: more than it has
			// take another one.
			for round := 0; checked < want && round < rounds(want); round++ {
				all := scenarios()
				for i, sc := range all {
					if checked >= want {
						break
					}
					left := len(all) - i
					random := rand.New(rand.NewPCG(uint64(base), uint64(round*len(all)+i)))
					checked += d.powerLosses(sc, (want-checked+left-1)/left, random)
				}
			}
			t.Logf("%d images of %s, seed %d", checked, k.name, base)
			assert.Assert(t, checked >= want, "only %d different images", checked)
		})
	}
}

// The images are worse than what a file system without its means can bear: an
// ext4 without a journal, and one that sends no flush, come out broken. Had
// the images no such teeth, the test above would prove nothing.
func TestAFileSystemWithoutJournalOrBarriersIsFoundBroken(t *testing.T) {
	needRoot(t)
	for _, k := range []kind{noJournal, noBarrier} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, k)
			all := scenarios()
			sc := all[len(all)-1]
			w, r := d.record(sc)
			if k.options == noBarrier.options {
				assert.Equal(t, r.flushes(), 0, "flushes, although barriers are off")
			}
			bad := map[string]bool{}
			checked, broken := 0, 0
			err := r.images(r.choices(100, rand.New(rand.NewPCG(1, 1))), func(img image) error {
				checked++
				if err := d.check(w, sc, img); err != nil {
					broken++
					bad[err.Error()] = true
				}
				return nil
			})
			assert.NilError(t, err)
			for how := range bad {
				t.Log(how)
			}
			t.Logf("%d of %d images are broken, in %d ways", broken, checked, len(bad))
			assert.Assert(t, broken > 0, "%d images, and none is broken", checked)
			assert.Assert(t, broken < checked, "every image is broken, which is no power loss's doing")
		})
	}
}
