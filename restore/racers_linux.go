package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// expelTimeout bounds how long containers that came up meanwhile are stopped
// and waited for, before the operation gives way to them.
const expelTimeout = 60 * time.Second

// expelInterval is how often it is looked again.
const expelInterval = 50 * time.Millisecond

// callPatience is how long a call about one container is waited for while the
// fences are up. It may hang in the engine behind a start of that container,
// which in turn waits for this operation in a volume's Mount (measured, 20.10
// and 28.5).
const callPatience = time.Second

// departTimeout bounds the wait for calls that hung, once the volumes are open
// again and the containers are to be started.
const departTimeout = 2 * time.Minute

// expel waits, with the fences up, until no process has one of the old trees
// mounted. A container that was started before its volume was fenced, or is
// being started, runs on the old data: it is put on record, stopped, and
// started again with the others. One that a stop would delete makes the
// operation give way (an error).
//
// No new one can come: the engine refuses to start a container on a dangling
// directory (measured, 20.10 and 28.5).
func (d *Domain) expel(ctx context.Context, log *journal.Log) error {
	op := log.Op
	deadline := time.Now().Add(expelTimeout)
	for {
		up, err := d.usersUp(ctx, op)
		if err != nil {
			return err
		}
		if err := d.record(ctx, log, up); err != nil {
			return err
		}
		for _, c := range up {
			known := op.Find(c.ID)
			if known == nil {
				continue // it was removed between the two looks, or cannot be asked
			}
			c := *known
			d.departing.begin(c.ID, func() error {
				if err := d.disarm(ctx, c); err != nil {
					return err
				}
				return d.stop(ctx, op.ID, c)
			})
		}
		if err := d.departing.wait(ctx, callPatience); err != nil {
			return err
		}
		holders, err := d.holders(op.ID)
		if err != nil {
			return err
		}
		running := runs(up)
		if running == "" && len(holders) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			if len(holders) == 0 {
				return fmt.Errorf("container %s is started again and again", running)
			}
			return fmt.Errorf("process %d (%s) still has the old data mounted after %s", holders[0], d.command(holders[0]), expelTimeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(expelInterval):
		}
	}
}

// runs names a container that has processes. One that its restart policy is
// about to start has none: it was stopped, finds the fence, or waits in Mount
// for the end of the operation.
func runs(up []Container) string {
	for _, c := range up {
		if c.State != "restarting" {
			return c.Name
		}
	}
	return ""
}

// departures are containers that are being stopped, each by one call. Only
// the operation's own goroutine uses it.
type departures map[string]chan error

// begin starts to stop a container, unless that is under way.
func (p departures) begin(id string, stop func() error) {
	if p[id] != nil {
		return
	}
	ended := make(chan error, 1)
	p[id] = ended
	go func() { ended <- stop() }()
}

// wait waits for all of them, but no longer than limit. Those that have not
// come back by then are waited for the next time.
func (p departures) wait(ctx context.Context, limit time.Duration) error {
	patience := time.NewTimer(limit)
	defer patience.Stop()
	var failed []error
	for id, ended := range p {
		select {
		case err := <-ended:
			delete(p, id)
			failed = append(failed, err)
		case <-patience.C:
			return errors.Join(failed...)
		case <-ctx.Done():
			return errors.Join(append(failed, ctx.Err())...)
		}
	}
	return errors.Join(failed...)
}

// record puts containers that came up during the operation on its record, as
// running, before they are stopped.
func (d *Domain) record(ctx context.Context, log *journal.Log, up []Container) error {
	op := log.Op
	changed := false
	for _, c := range up {
		if known := op.Find(c.ID); known != nil {
			changed = changed || !known.Running
			known.Running = true // somebody wants it to run
			continue
		}
		more, err := d.involveNow(ctx, c, op.Project)
		if err != nil {
			return err
		}
		for _, m := range more {
			m.Level = lastLevel(op)
			op.Containers = append(op.Containers, m.Container)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return log.Prepare()
}

// involveNow is involve for one container, which gives nothing where the engine
// does not answer: then the container is looked for again.
func (d *Domain) involveNow(ctx context.Context, c Container, project string) ([]plan.Container, error) {
	asking, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	more, err := d.involve(asking, []Container{c}, project, nil)
	if err != nil && asking.Err() != nil && ctx.Err() == nil {
		return nil, nil
	}
	return more, err
}

func lastLevel(op *journal.Operation) (level int) {
	for _, c := range op.Containers {
		level = max(level, c.Level)
	}
	return level
}

// usersUp lists the containers that are up and use the operation's volumes.
// It asks for the list only: an inspect of a container whose start waits for
// its volume hangs (measured).
func (d *Domain) usersUp(ctx context.Context, op *journal.Operation) ([]Container, error) {
	var containers []Container
	err := d.patiently(ctx, func() (err error) { containers, err = d.Engine.Containers(ctx); return err })
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	t := trees{names: map[string]bool{}}
	for _, v := range op.Volumes {
		t.paths = append(t.paths, filepath.Join(v.Dir, v.Live))
		for _, name := range append([]string{v.Name}, v.Shares...) {
			t.names[name] = true
		}
	}
	var up []Container
	for _, c := range containers {
		if c.ID == d.Self || !c.Up() {
			continue
		}
		for _, m := range c.Mounts {
			if t.mounted(m) {
				up = append(up, c)
				break
			}
		}
	}
	return up, nil
}

// holders lists processes, one of each mount namespace, that have a tree
// mounted which lies under the operation's fence name. A bind mount follows
// its directory through a rename, and mountinfo tells the name it has now
// (proc_pid_mountinfo(5), field 4). A copy of a path of the driver that some
// namespace keeps is none.
func (d *Domain) holders(op string) ([]int, error) {
	return volume.Holders(d.Proc, func(m *mountinfo.Info) bool { return fenced(m.Root, op) })
}

// command is a process's name, for messages.
func (d *Domain) command(pid int) string {
	name, err := os.ReadFile(filepath.Join(d.Proc, strconv.Itoa(pid), "comm"))
	if err != nil {
		return "which has ended"
	}
	return strings.TrimSpace(string(name))
}

// fenced reports whether a path leads through the operation's fence of some
// volume.
func fenced(path, op string) bool {
	for _, name := range strings.Split(path, "/") {
		if strings.HasPrefix(name, besidePrefix+op) && strings.HasSuffix(name, fenceSuffix) {
			return true
		}
	}
	return false
}
