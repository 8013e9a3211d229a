//go:build e2e && linux

package crashes

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// The descriptors that a victim begins with.
const (
	engineSocket   = 3
	listenerSocket = 4
)

// beVictim is the role "victim": it carries out what its first argument names,
// a scenario's operation or "recovery", in the world at its second.
func beVictim() error {
	args := os.Args[1:]
	if len(args) != 2 {
		return errors.New("needs a call and a directory")
	}
	do := call(recoverAll)
	for _, sc := range scenarios() {
		if sc.name == args[0] {
			do = sc.call
		}
	}
	conn, err := net.FileConn(os.NewFile(engineSocket, "engine"))
	if err != nil {
		return err
	}
	e := newRemoteEngine(conn)
	debug.SetGCPercent(-1) // its threads would only add to the noise
	listener, err := supervise()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(listenerSocket, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("send the listener: %w", err)
	}
	unix.Close(listener)
	var steps atomic.Int64
	err = process(context.Background(), e, args[1], func(s durable.Step) error {
		if !s.Done {
			steps.Add(1)
		}
		return nil
	}, do)
	return errors.Join(err, e.do(question{Method: "Steps", Steps: int(steps.Load())}))
}

// life is how a victim's life went.
type life struct {
	killed bool
	calls  int // changing system calls, the one that it was killed at included
	steps  int // durable steps, of one that was not killed
}

// live runs a victim that is killed at its n-th changing system call; 0 lets
// it live to the end of its work.
func (w *world) live(what string, n int) (l life, err error) {
	ends, err := pairs(2)
	if err != nil {
		return l, err
	}
	defer closeAll(ends)
	cmd := again("victim", what, w.dir)
	cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1")
	cmd.ExtraFiles = []*os.File{ends[0][1], ends[1][1]}
	var said strings.Builder
	cmd.Stderr = &said
	if err := start(cmd); err != nil {
		return l, err
	}
	ends[0][1].Close()
	ends[1][1].Close()
	conn, err := net.FileConn(ends[0][0])
	if err != nil {
		return l, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	served, ended := make(chan int, 1), make(chan error, 1)
	go func() { served <- serveEngine(w.engine(), conn) }()
	// The listener hears of the end only when the process is waited for.
	go func() { ended <- cmd.Wait() }()
	listener, err := receive(ends[1][0])
	if err != nil {
		return l, fmt.Errorf("receive the listener: %w: %w: %s", err, errors.Join(cmd.Process.Kill(), <-ended), said.String())
	}
	var watched error
	l.calls, watched = watch(listener, w.dir, n, func() {
		l.killed = true
		cmd.Process.Kill()
	})
	unix.Close(listener)
	if watched != nil {
		cmd.Process.Kill()
	}
	err = <-ended
	// What it had asked the engine is done, as by a real one.
	l.steps = <-served
	conn.Close()
	var exit *exec.ExitError
	if l.killed && errors.As(err, &exit) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(said.String()))
	}
	return l, errors.Join(err, watched)
}

// pairs makes pairs of connected sockets.
func pairs(n int) (all [][2]*os.File, err error) {
	for range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, [2]*os.File{os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")})
	}
	return all, nil
}

func closeAll(ends [][2]*os.File) {
	for _, pair := range ends {
		pair[0].Close()
		pair[1].Close()
	}
}

// receive receives a descriptor.
func receive(socket *os.File) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}
