//go:build e2e && linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Operations are the operations in the engine's journal.
func (e *Engine) Operations() (ops []*journal.Operation) {
	e.t.Helper()
	files, err := filepath.Glob(filepath.Join(e.Data, "snaprestore/journal/[0-9a-f]*.json"))
	must(e.t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		must(e.t, err)
		op, _, err := journal.Decode(data)
		if err != nil {
			e.t.Fatalf("%s: %v", filepath.Base(file), err)
		}
		ops = append(ops, op)
	}
	slices.SortFunc(ops, func(a, b *journal.Operation) int { return a.Created.Compare(b.Created) })
	return ops
}

// WaitClosed waits until every operation is closed, and gives the last one.
func (e *Engine) WaitClosed() *journal.Operation {
	e.t.Helper()
	var last *journal.Operation
	WaitFor(e.t, "operations close", 5*time.Minute, func() string {
		for _, last = range e.Operations() {
			if last.State != journal.Closed {
				return string(last.Kind) + " " + last.ID + " is " + string(last.State)
			}
		}
		return ""
	})
	return last
}

// Snapshots are the snapshots in the engine's state root, newest first.
func (e *Engine) Snapshots() (snapshots []snapshot.Snapshot) {
	e.t.Helper()
	files, err := filepath.Glob(filepath.Join(e.Data, "snaprestore/snapshots/[0-9a-f]*/snapshot.json"))
	must(e.t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		must(e.t, err)
		s, err := snapshot.Decode(data)
		if err != nil {
			e.t.Fatalf("%s: %v", file, err)
		}
		snapshots = append(snapshots, s)
	}
	slices.SortFunc(snapshots, func(a, b snapshot.Snapshot) int { return b.Created.Compare(a.Created) })
	return snapshots
}

// Watch sees an operation's records the moment they are renamed into place.
type Watch struct {
	t    testing.TB
	dir  string
	fd   int
	seen map[string]bool // operations that were there before
	// Close ends the watch, which otherwise lasts as long as the test.
	Close func()
}

// Watch begins to watch the engine's journal for a new operation.
func (e *Engine) Watch() *Watch {
	e.t.Helper()
	w := &Watch{t: e.t, dir: filepath.Join(e.Data, "snaprestore/journal"), seen: map[string]bool{}}
	var err error
	w.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(e.t, err)
	w.Close = sync.OnceFunc(func() { unix.Close(w.fd) })
	e.t.Cleanup(w.Close)
	_, err = unix.InotifyAddWatch(w.fd, w.dir, unix.IN_MOVED_TO)
	must(e.t, err)
	for _, op := range e.Operations() {
		w.seen[op.ID] = true
	}
	return w
}

// Until waits until a new operation has reached a state or a later one, or unless says that it never will, and gives the state last seen.
func (w *Watch) Until(ended func() bool, wanted journal.State) journal.State {
	w.t.Helper()
	buffer := make([]byte, 64<<10)
	deadline := time.Now().Add(5 * time.Minute)
	var last journal.State
	for {
		done := ended()
		for _, state := range w.states() {
			last = state
			if order := journal.States(); slices.Index(order, state) >= slices.Index(order, wanted) {
				return last
			}
		}
		if done {
			return last
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no operation reached %v; the last state was %q", wanted, last)
		}
		poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 20); err != nil && err != unix.EINTR {
			w.t.Fatal(err)
		}
		_, _ = unix.Read(w.fd, buffer) // what it says is read from the directory
	}
}

// states are those of the operations that are new since the watch began.
func (w *Watch) states() (states []journal.State) {
	files, err := filepath.Glob(filepath.Join(w.dir, "[0-9a-f]*.json"))
	must(w.t, err)
	for _, file := range files {
		if w.seen[strings.TrimSuffix(filepath.Base(file), ".json")] {
			continue
		}
		if data, err := os.ReadFile(file); err == nil {
			if op, _, err := journal.Decode(data); err == nil {
				states = append(states, op.State)
			}
		}
	}
	return states
}

// Agents are the process numbers of the engine's agents.
func (e *Engine) Agents() (pids []int) {
	e.t.Helper()
	for _, pid := range processes(e.Dir, "/"+e.name+"/") {
		line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if strings.HasPrefix(string(line), "/snaprestored\x00agent\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// SignalAgents sends a signal to the engine's agents and reports whether
// there was one.
func (e *Engine) SignalAgents(signal unix.Signal) bool {
	e.t.Helper()
	pids := e.Agents()
	for _, pid := range pids {
		_ = unix.Kill(pid, signal)
	}
	return len(pids) > 0
}

// Hold begins a restore and stops its agent with SIGSTOP while it stages,
// before anything else was done. One that was too fast is let go to its end,
// and prepare and restore begin anew.
func (e *Engine) Hold(prepare func(), args ...string) *Process {
	e.t.Helper()
	for range 10 {
		prepare()
		watch := e.Watch()
		client := e.BeginCLI(args...)
		watch.Until(client.Ended, journal.Staging)
		stopped := e.SignalAgents(unix.SIGSTOP)
		if states := watch.states(); stopped && len(states) == 1 && states[0] == journal.Staging {
			return client
		}
		e.SignalAgents(unix.SIGCONT)
		client.Wait().OK(e.t)
	}
	e.t.Fatal("hold a restore while it stages: it was too fast each time")
	return nil
}
