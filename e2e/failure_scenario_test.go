//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Untouched gives what shows that a workload was left alone: its containers
// with the times they were started at, and the data.
func (f *Fleet) Untouched() string {
	f.t.Helper()
	state := f.Docker(append([]string{"inspect", "--format", "{{.Id}} {{.State.Status}} {{.State.StartedAt}}"}, f.containers...)...).OK(f.t).Line()
	for _, name := range f.volumes {
		state += "\n" + f.Sum(name)
	}
	return state
}

// Ballast takes room on the engine's disk until free bytes are left to take,
// or, where that is 0, until nobody can store anything, root neither.
func (e *Engine) Ballast(free int64) (remove func()) {
	e.t.Helper()
	var disk unix.Statfs_t
	must(e.t, unix.Statfs(e.Data, &disk))
	path := filepath.Join(e.Data, "ballast")
	f, err := os.Create(path)
	must(e.t, err)
	defer f.Close()
	size := int64(disk.Bavail)*disk.Bsize - free
	must(e.t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	// What is left is kept for root, and for the file system itself.
	for step := int64(1 << 30); free == 0 && step >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, size, step); err == nil {
			size += step
		} else {
			step /= 2
		}
	}
	return func() { must(e.t, os.Remove(path)) }
}

// A disk without room for the snapshot's data is found before anything is
// stopped, and so is one that gets full while the data is staged.
func TestAFullDiskStopsNothing(t *testing.T) { WithEachDriver(t, testAFullDiskStopsNothing) }

func testAFullDiskStopsNothing(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	f.Fill("one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")

	t.Run("before", func(t *testing.T) {
		f.In(t)
		before := f.Untouched()
		defer f.Ballast(bulk)()
		f.CLI("restore", "--force", id).Exits(t, 1)
		if after := f.Untouched(); after != before {
			t.Errorf("something changed:\n%s\nwas\n%s", after, before)
		}
	})
	t.Run("while staging", func(t *testing.T) {
		f.In(t)
		var before string
		restore := f.Hold(func() {
			f.Fill("two")
			before = f.Untouched()
		}, "restore", "--force", id)
		remove := f.Ballast(0)
		f.SignalAgents(unix.SIGCONT)
		result := restore.Wait()
		remove()
		switch result.Code {
		case 1, 13:
		case 75: // not even the journal had room
			f.CLI("recover").OK(t)
		default:
			t.Fatalf("want a restore that failed, or is in doubt\n%s", result)
		}
		f.WaitClosed()
		if after := f.Untouched(); after != before {
			t.Errorf("something changed:\n%s\nwas\n%s", after, before)
		}
		f.CheckTidy()
	})
	f.CLI("restore", "--force", id).OK(t)
}

// Every byte of a snapshot is checked before anything is stopped.
func TestADamagedSnapshotStopsNothing(t *testing.T) {
	WithEachDriver(t, testADamagedSnapshotStopsNothing)
}

func testADamagedSnapshotStopsNothing(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	f.Fill("one")
	id := f.CLI("create", "--engine", "pack", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	before := f.Untouched()
	for _, damage := range []struct {
		name string
		do   func(path string)
	}{
		{"a bit flipped", func(path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			data[len(data)/2] ^= 1
			must(t, os.WriteFile(path, data, 0o600))
		}},
		{"the end missing", func(path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, info.Size()-1))
		}},
		{"gone", func(path string) { must(t, os.Remove(path)) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			f.In(t)
			stored := f.Snapshots()[0].Volumes[1].File
			path := filepath.Join(f.Data, "snaprestore/snapshots", id, stored)
			good, err := os.ReadFile(path)
			must(t, err)
			damage.do(path)
			f.CLI("restore", "--force", id).Exits(t, 15)
			if after := f.Untouched(); after != before {
				t.Errorf("something changed:\n%s\nwas\n%s", after, before)
			}
			must(t, os.WriteFile(path, good, 0o600))
		})
	}
	f.CLI("restore", "--force", id).OK(t)
}

// A record of the journal that is damaged stops what would rest on it, and
// changes nothing.
func TestADamagedJournalFailsClosed(t *testing.T) { WithEachDriver(t, testADamagedJournalFailsClosed) }

func testADamagedJournalFailsClosed(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	f.Fill("one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Fill("two")
	records, err := filepath.Glob(filepath.Join(f.Data, "snaprestore/journal/[0-9a-f]*.json"))
	must(t, err)
	if len(records) != 1 {
		t.Fatalf("want one record, there are %v", records)
	}
	before := f.Untouched()
	must(t, os.Truncate(records[0], 40))
	f.CLI("restore", "--force", id).Exits(t, 15)
	if after := f.Untouched(); after != before {
		t.Errorf("something changed:\n%s\nwas\n%s", after, before)
	}
}

// A state root that a newer version wrote is left alone.
func TestAStateRootOfANewerFormatIsLeftAlone(t *testing.T) {
	WithEachDriver(t, testAStateRootOfANewerFormatIsLeftAlone)
}

func testAStateRootOfANewerFormatIsLeftAlone(t *testing.T, driver string) {
	f := NewFleetOf(t, driver)
	f.Fill("one")
	id := f.CLI("create", "--project", "fleet").OK(t).Line()
	before := f.Untouched()
	must(t, os.WriteFile(filepath.Join(f.Data, "snaprestore/format"), []byte(`{"layout":99}`), 0o600))
	f.CLI("restore", "--force", id).Exits(t, 1)
	f.CLI("create", "--project", "fleet").Exits(t, 1)
	if after := f.Untouched(); after != before {
		t.Errorf("something changed:\n%s\nwas\n%s", after, before)
	}
}

// What is asked for wrongly is refused with its own exit status, said with the
// state of the data and with what to do, and nothing is touched, whatever the
// kind of the volumes.
func TestBadRequestsChangeNothing(t *testing.T) {
	const usage = 0 // any failure: docker itself has statuses of its own for that
	f := NewMixedFleet(t)
	f.Fill("one")
	first := f.CLI("create", "--project", "fleet", "--name", "first").OK(t).Line()
	second := f.CLI("create", "--project", "fleet").OK(t).Line()
	f.Docker("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "with-options").OK(t)
	before := f.Untouched()
	for _, request := range []struct {
		name string
		code int
		args []string
	}{
		{"no such snapshot", 10, []string{"restore", "--force", "nowhere"}},
		{"a path for a snapshot", 1, []string{"restore", "--force", "../" + first}},
		{"no such volume in the snapshot", 10, []string{"restore", "--force", first, "fleet_omega"}},
		{"no such volume", 10, []string{"create", "fleet_omega"}},
		{"a path for a volume", 10, []string{"create", "../fleet_alpha"}},
		{"no such project", 10, []string{"create", "--project", "armada"}},
		{"no such container", 10, []string{"create", "--container", "fleet-omega-1"}},
		{"no such operation", 10, []string{"undo", "--force", "012345678901"}},
		{"nothing to undo", 10, []string{"undo", "--force"}},
		{"a volume with driver options", 1, []string{"create", "with-options"}},
		{"nobody to ask", 2, []string{"restore", first}},
		{"another snapshot confirmed", 2, []string{"restore", "--confirm", second, first}},
		{"a name that is taken", 1, []string{"create", "--project", "fleet", "--name", "first"}},
		{"no template", 1, []string{"create", "--project", "fleet", "--format", "{{.ID"}},
		{"an unknown verb", usage, []string{"teleport"}},
		{"an unknown flag", usage, []string{"ls", "--sideways"}},
	} {
		t.Run(request.name, func(t *testing.T) {
			f.In(t)
			result := f.CLI(request.args...)
			if request.code == usage {
				if result.Code <= 0 {
					t.Errorf("it was accepted\n%s", result)
				}
				return
			}
			result.Exits(t, request.code)
			if !strings.Contains(result.Stderr, "; nothing was changed\nhint: ") {
				t.Errorf("want an error line that tells the state, and a hint\n%s", result)
			}
		})
	}
	if after := f.Untouched(); after != before {
		t.Errorf("something changed:\n%s\nwas\n%s", after, before)
	}
	if got := len(f.Snapshots()); got != 2 {
		t.Errorf("there are %d snapshots, want 2", got)
	}
}

// An engine that is down is said, with a hint.
func TestAnEngineThatIsDown(t *testing.T) {
	e := NewEngine(t)
	e.Stop()
	if result := e.CLI("ls").Exits(t, 1); !strings.Contains(result.Stderr, "; nothing was changed\nhint: ") {
		t.Errorf("want an error line that tells the state, and a hint\n%s", result)
	}
}
