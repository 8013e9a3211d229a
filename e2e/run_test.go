//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// commandLimit ends a command that hangs.
const commandLimit = 5 * time.Minute

// Result is what a command did.
type Result struct {
	Command string
	Stdout  string
	Stderr  string
	Code    int // exit status; -1 when a signal ended it
}

func (r Result) String() string {
	return fmt.Sprintf("$ %s\nexit status %d\nstdout: %s\nstderr: %s", r.Command, r.Code, r.Stdout, r.Stderr)
}

// OK fails the test unless the command succeeded, and returns r.
func (r Result) OK(t testing.TB) Result {
	t.Helper()
	return r.Exits(t, 0)
}

// Exits fails the test unless the exit status is code, and returns r.
func (r Result) Exits(t testing.TB, code int) Result {
	t.Helper()
	if r.Code != code {
		t.Fatalf("want exit status %d\n%s", code, r)
	}
	return r
}

// Line is standard output without the space around it.
func (r Result) Line() string { return strings.TrimSpace(r.Stdout) }

// Lines are the lines of standard output.
func (r Result) Lines() []string { return strings.Fields(r.Stdout) }

// Process is a command that runs.
type Process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	cancel         context.CancelFunc
	done           chan struct{}
	err            error
}

// begin starts a command.
func begin(t testing.TB, cmd func(ctx context.Context) *exec.Cmd) *Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	p := &Process{cmd: cmd(ctx), cancel: cancel, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		cancel()
		t.Fatalf("start %s: %v", strings.Join(p.cmd.Args, " "), err)
	}
	go func() {
		p.err = p.cmd.Wait()
		cancel()
		close(p.done)
	}()
	// It keeps no hold of what the process has printed, for a test of hours.
	done := p.done
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process as kill -9 does and waits for its end.
func (p *Process) Kill() Result {
	_ = p.cmd.Process.Kill()
	return p.Wait()
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// WaitUntil waits for the end of the process, but for no longer than limit.
func (p *Process) WaitUntil(limit time.Duration) {
	select {
	case <-p.done:
	case <-time.After(limit):
	}
}

// Wait waits for the end of the process.
func (p *Process) Wait() Result {
	<-p.done
	r := Result{Command: strings.Join(p.cmd.Args, " "), Stdout: p.stdout.String(), Stderr: p.stderr.String()}
	var exit *exec.ExitError
	switch {
	case errors.As(p.err, &exit):
		r.Code = exit.ExitCode()
	case p.err != nil:
		r.Code = -1
		r.Stderr += p.err.Error()
	}
	return r
}

// WaitFor polls a condition until it holds, or fails the test with what the
// condition last said was missing ("" where it holds).
func WaitFor(t testing.TB, what string, limit time.Duration, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		last := missing()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %s", what, limit, last)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
