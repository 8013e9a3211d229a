package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
)

// Times of ending what an engine has forgotten.
const (
	// strayAge is the pause between the two looks that must agree: a container
	// that is being started has a process before the engine has it up, too.
	strayAge = time.Second
	// strayInterval is the pause between two looks for what the engine has heard.
	strayInterval = 100 * time.Millisecond
	// strayHeard bounds the wait for the engine to hear of the end of the
	// processes. One that follows only what it knows of never does (20.10), and
	// takes it for no other's end.
	strayHeard = 3 * time.Second
)

// endStrays ends processes of the operation's containers that the engine knows
// nothing of. An engine that is killed after it had a container's process
// started, and before it has noted that, takes the container for one that is
// down. When it starts that again it ends the process itself, hears of this end
// once the next one runs, takes it for the end of that, starts another over it,
// and so on for ever (measured, 28.5); or it refuses to start it ("id already in
// use", 20.10). The process also has the tree mounted that it was started on.
//
// Not those over which the engine has started a container itself, by its policy:
// nothing tells them from others for long enough. What cannot be ended is said in
// a warning: the fence and the start tell what becomes of it.
func (d *Domain) endStrays(ctx context.Context, op *journal.Operation) {
	strays, err := d.strays(ctx, op)
	if err != nil {
		d.warn(op.ID, "look for processes that the engine has forgotten: %v", err)
	}
	if len(strays) == 0 {
		return
	}
	err = together(op.Containers, func(c journal.Container) error {
		if len(strays[c.ID]) == 0 {
			return nil
		}
		d.warn(op.ID, "container %s: the engine has forgotten process %d, which it was killed in starting; it is ended", c.Name, strays[c.ID][0])
		if err := d.endStray(ctx, c.ID, strays[c.ID]); err != nil {
			return fmt.Errorf("end what the engine has forgotten of container %s: %w", c.Name, err)
		}
		return nil
	})
	if err != nil {
		d.warn(op.ID, "%v", err)
	}
}

// strays finds processes of containers that ran, by the containers' ids, which
// are down as the engine has it, each of two times.
func (d *Domain) strays(ctx context.Context, op *journal.Operation) (map[string][]int, error) {
	ran := slices.DeleteFunc(slices.Clone(op.Containers), func(c journal.Container) bool { return !c.Running || c.ID == d.Self })
	var found map[string][]int
	for look := range 2 {
		if look > 0 {
			if err := sleep(ctx, strayAge); err != nil {
				return nil, err
			}
		}
		now, err := d.processesOf(ran)
		if err != nil || len(now) == 0 {
			return nil, err
		}
		var all []Container
		if err := d.patiently(ctx, func() (err error) { all, err = d.Engine.Containers(ctx); return err }); err != nil {
			return nil, err
		}
		down := map[string][]int{}
		for _, c := range all {
			pids := now[c.ID]
			if look > 0 {
				pids = slices.DeleteFunc(pids, func(pid int) bool { return !slices.Contains(found[c.ID], pid) })
			}
			if !c.Up() && len(pids) > 0 {
				down[c.ID] = pids
			}
		}
		if found = down; len(found) == 0 {
			return nil, nil
		}
	}
	return found, nil
}

// endStray ends processes of a container, and waits until the engine has heard of
// it where it does: only then may it start the container.
func (d *Domain) endStray(ctx context.Context, id string, pids []int) error {
	began := time.Now()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	for time.Since(began) < strayHeard {
		now, err := d.look(ctx, id)
		if errors.Is(err, ErrNoSuch) {
			return nil
		}
		if err != nil {
			return err
		}
		if now.FinishedAt.After(began) || now.State == "running" {
			return nil
		}
		if err := sleep(ctx, strayInterval); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		if _, err := os.Stat(filepath.Join(d.Proc, strconv.Itoa(pid))); err == nil {
			return fmt.Errorf("process %d has not ended %s after SIGKILL", pid, strayHeard)
		}
	}
	return nil
}

// endShims ends containerd's shims of a container that has no process, after a
// start has met what is left of an earlier one. An engine that is killed while it
// stops a container leaves such a shim: as long as it runs, containerd has a task
// of the container, and starts none ("already exists"; measured, 28.5). Without it
// containerd takes the task away.
func (d *Domain) endShims(op string, c journal.Container) {
	found, err := d.processesOf([]journal.Container{c})
	if err != nil || len(found) > 0 {
		return // the start says what is in its way
	}
	entries, err := os.ReadDir(d.Proc)
	if err != nil {
		return
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join(d.Proc, entry.Name(), "cmdline"))
		if err != nil || !isShim(strings.Split(string(line), "\x00"), c.ID) {
			continue
		}
		d.warn(op, "container %s: containerd's shim %d is left of a container that has ended; it is ended", c.Name, pid)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			d.warn(op, "end containerd's shim %d: %v", pid, err)
		}
	}
}

// isShim reports whether a command line is that of a container's shim, which has
// the container's id behind -id (containerd, pkg/shim).
func isShim(args []string, id string) bool {
	at := slices.Index(args, "-id")
	return strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && at > 0 && at+1 < len(args) && args[at+1] == id
}

func (d *Domain) look(ctx context.Context, id string) (now Container, err error) {
	err = d.patiently(ctx, func() (err error) { now, err = d.Engine.Container(ctx, id); return err })
	return now, err
}

func sleep(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}

// processesOf lists the processes of containers, by the containers' ids. An
// engine names the control group of a container after its id, whatever driver of
// groups it has.
func (d *Domain) processesOf(containers []journal.Container) (map[string][]int, error) {
	found := map[string][]int{}
	if len(containers) == 0 {
		return found, nil
	}
	entries, err := os.ReadDir(d.Proc)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		group, err := os.ReadFile(filepath.Join(d.Proc, entry.Name(), "cgroup"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return found, err
		}
		for _, c := range containers {
			if c.ID != "" && strings.Contains(string(group), c.ID) {
				found[c.ID] = append(found[c.ID], pid)
			}
		}
	}
	return found, nil
}
