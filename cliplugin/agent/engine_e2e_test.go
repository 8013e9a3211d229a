//go:build e2e && linux

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// TestMain makes the test's own program the agent that its clients load, and
// a client that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "agent":
			os.Exit(process(openTested))
		case "client":
			os.Exit(runClient(os.Args[2], os.Args[3]))
		}
	}
	os.Exit(m.Run())
}

// engineProcess is a private engine.
type engineProcess struct {
	t    *testing.T
	dir  string
	root string
	cmd  *exec.Cmd
}

func startEngine(t *testing.T) *engineProcess {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a private engine needs root")
	}
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("no dockerd in PATH")
	}
	dir, err := os.MkdirTemp("/tmp", "sra") // short: a socket's path has 108 bytes
	assert.NilError(t, err)
	e := &engineProcess{t: t, dir: dir, root: filepath.Join(dir, "d")}
	t.Cleanup(func() {
		e.end(syscall.SIGTERM)
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the engine's log ends:\n%s", log[max(0, len(log)-8000):])
		}
		e.unmount()
		assert.Check(t, os.RemoveAll(dir))
	})
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "s"), 0o700))
	e.start(dockerd)
	return e
}

func (e *engineProcess) socket() string { return filepath.Join(e.dir, "s", "docker.sock") }

func (e *engineProcess) start(dockerd string) {
	e.t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	assert.NilError(e.t, err)
	defer log.Close()
	e.cmd = exec.Command(dockerd, "--data-root", e.root, "--exec-root", filepath.Join(e.dir, "x"),
		"--host", "unix://"+e.socket(), "--pidfile", filepath.Join(e.dir, "pid"),
		"--bridge", "none", "--iptables=false", "--ip6tables=false")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	assert.NilError(e.t, e.cmd.Start())
	e.t.Logf("engine %d", e.cmd.Process.Pid)
	c := e.api()
	e.until("the engine answers", func() bool { return c.CheckVersion(context.Background()) == nil })
}

// end ends the engine and waits until all of its own processes are gone: a
// containerd that is a zombie still, for want of a parent that reaps it, makes
// the next engine wait for it in vain.
func (e *engineProcess) end(s syscall.Signal) {
	e.t.Helper()
	if e.cmd == nil || e.cmd.ProcessState != nil {
		return
	}
	pidfile := filepath.Join(e.dir, "x", "containerd", "containerd.pid")
	pid, _ := os.ReadFile(pidfile)
	_ = e.cmd.Process.Signal(s)
	_ = e.cmd.Wait()
	status := "/proc/" + strings.TrimSpace(string(pid)) + "/status"
	e.until("containerd is gone", func() bool {
		text, err := os.ReadFile(status)
		return err != nil || strings.HasPrefix(field(text, "State:"), "Z")
	})
	if err := os.Remove(pidfile); !errors.Is(err, fs.ErrNotExist) {
		assert.NilError(e.t, err)
	}
}

// unmount removes what an engine that was killed left mounted.
func (e *engineProcess) unmount() {
	e.t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(e.t, err)
	var below []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], e.dir+"/") {
			below = append(below, f[4])
		}
	}
	for _, path := range slices.Backward(below) {
		assert.Check(e.t, syscall.Unmount(path, syscall.MNT_DETACH))
	}
}

func (e *engineProcess) restart(s syscall.Signal) {
	e.t.Helper()
	dockerd := e.cmd.Path
	e.end(s)
	e.start(dockerd)
}

func (e *engineProcess) api() *engineapi.Client {
	c, err := engineapi.Dial(e.socket())
	assert.NilError(e.t, err)
	e.t.Cleanup(func() { c.Close() })
	return c
}

func (e *engineProcess) client() *Client { return NewClient(e.api()) }

func (e *engineProcess) state(name string) string { return filepath.Join(e.root, stateDirectory, name) }

func (e *engineProcess) has(name string) bool {
	_, err := os.Stat(e.state(name))
	return err == nil
}

func (e *engineProcess) goOn() {
	e.t.Helper()
	assert.NilError(e.t, os.WriteFile(e.state("go"), nil, 0o600))
}

func (e *engineProcess) until(what string, met func() bool) {
	e.t.Helper()
	for deadline := time.Now().Add(limit); !met(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			e.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// agents lists the containers of agents.
func (e *engineProcess) agents() (ids []string) {
	e.t.Helper()
	all, err := e.api().Containers(context.Background())
	assert.NilError(e.t, err)
	for _, c := range all {
		if c.Labels[LabelAgent] != "" {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// agentProcess finds the process of the only agent.
func (e *engineProcess) agentProcess() int {
	e.t.Helper()
	var found []int
	list, err := filepath.Glob("/proc/[0-9]*/environ")
	assert.NilError(e.t, err)
	for _, name := range list {
		env, err := os.ReadFile(name)
		if err == nil && bytes.Contains(env, []byte(envDataRoot+"="+e.root+"\x00")) {
			pid, err := strconv.Atoi(strings.Split(name, "/")[2])
			assert.NilError(e.t, err)
			found = append(found, pid)
		}
	}
	assert.Equal(e.t, len(found), 1, "%v", found)
	return found[0]
}

// task is a Do that runs.
type task struct {
	e      *engineProcess
	phases chan string
	plans  chan plan.Plan
	answer chan bool
	cancel context.CancelFunc
	result json.RawMessage
	err    error
	done   chan struct{}
}

func (e *engineProcess) do(req Request) *task {
	ctx, cancel := context.WithCancel(context.Background())
	k := &task{e: e, phases: make(chan string, 100), plans: make(chan plan.Plan, 1), answer: make(chan bool),
		cancel: cancel, done: make(chan struct{})}
	c := e.client()
	go func() {
		defer close(k.done)
		defer cancel()
		k.result, k.err = c.Do(ctx, req, Handlers{
			Event: func(ev event.Event) {
				if ev.Type == event.Phase {
					k.phases <- ev.Phase
				}
			},
			Confirm: func(p plan.Plan) (bool, error) {
				k.plans <- p
				return <-k.answer, nil
			},
		})
	}()
	return k
}

// phase waits until the agent says that it is there.
func (k *task) phase(name string) {
	k.e.t.Helper()
	for {
		select {
		case got := <-k.phases:
			if got == name {
				return
			}
		case <-k.done:
			k.e.t.Fatalf("ended before phase %s: %v", name, k.err)
		case <-time.After(limit):
			k.e.t.Fatalf("phase %s never came", name)
		}
	}
}

func (k *task) wait() (json.RawMessage, error) {
	k.e.t.Helper()
	select {
	case <-k.done:
	case <-time.After(2 * limit):
		k.e.t.Fatal("Do did not return")
	}
	return k.result, k.err
}

// runClient is a client in a process of its own: it creates and says on
// standard output when the agent is at work.
func runClient(socket, operation string) int {
	api, err := engineapi.Dial(socket)
	if err != nil {
		return 1
	}
	result, err := NewClient(api).Do(context.Background(), Request{Verb: Create, Operation: operation, Create: &plan.Create{}},
		Handlers{Event: func(ev event.Event) { fmt.Println(ev.Phase) }})
	fmt.Println(string(result), err)
	if err != nil {
		return 1
	}
	return 0
}

// startClient runs runClient until its agent is at work.
func (e *engineProcess) startClient(operation string, before ...string) *exec.Cmd {
	e.t.Helper()
	self, err := os.Executable()
	assert.NilError(e.t, err)
	args := append(before, self, "client", e.socket(), operation)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	assert.NilError(e.t, err)
	assert.NilError(e.t, cmd.Start())
	line := make([]byte, len("first\n"))
	_, err = io.ReadFull(out, line)
	assert.NilError(e.t, err)
	assert.Equal(e.t, string(line), "first\n")
	go io.Copy(io.Discard, out)
	return cmd
}
