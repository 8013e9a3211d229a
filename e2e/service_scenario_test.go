//go:build e2e && linux

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// service is the volume driver as a service of the host.
type service struct {
	t   testing.TB
	cmd *exec.Cmd
}

// StartService starts the driver as its unit does, and waits until it answers
// where the engine looks for it.
func (e *Engine) StartService() *service {
	e.t.Helper()
	program := filepath.Join(e.Dir, volume.Program)
	data, err := os.ReadFile(host.plugin)
	must(e.t, err)
	must(e.t, os.MkdirAll(filepath.Join(e.Data, "snaprestore"), 0o700))
	if _, err := os.Stat(program); err != nil {
		must(e.t, os.WriteFile(program, data, 0o755))
	}
	log, err := os.OpenFile(filepath.Join(e.Dir, "service.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(e.t, err)
	defer log.Close()
	socket := filepath.Join(volume.SocketFolder, volume.SocketName)
	s := &service{t: e.t, cmd: exec.Command(program, volume.RootFlag, filepath.Join(e.Data, "snaprestore"),
		volume.MountsFlag, filepath.Join(e.Dir, "mnt"), volume.WorkFlag, filepath.Join(e.Dir, "work"), volume.SocketFlag, socket)}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	must(e.t, s.cmd.Start())
	e.t.Cleanup(func() {
		s.Kill()
		os.Remove(socket)
	})
	WaitFor(e.t, "the service answers", time.Minute, func() string {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	return s
}

// Kill kills it, and waits for its end.
func (s *service) Kill() {
	s.t.Helper()
	if s.cmd.ProcessState == nil {
		must(s.t, s.cmd.Process.Kill())
		_ = s.cmd.Wait()
	}
}

// The driver serves an engine as a service of its host: volumes are restored,
// and found again after kill -9 of the service, of the engine, and of both.
func TestTheDriverAsAServiceOfTheHost(t *testing.T) {
	e := NewEngine(t)
	s := e.StartService()
	e.Docker("volume", "create", "--driver", "snaprestore", "data").OK(t)
	e.Docker("volume", "create", "plain").OK(t)
	e.Docker("run", "--detach", "--name", "writer", "--network", "none", "--restart", "always", "--volume", "data:/data", "--volume", "plain:/plain",
		"snaprestore-demo/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1 & wait $!; done").OK(t)
	e.Docker("exec", "writer", "sh", "-c", "echo one | tee /data/f >/plain/f").OK(t)
	id := e.CLI("create", "data", "plain").OK(t).Line()
	e.Docker("exec", "writer", "sh", "-c", "echo two | tee /data/f >/plain/f").OK(t)
	e.CLI("restore", "--force", id).OK(t)
	check := func(after, want string) {
		t.Helper()
		e.WaitHealthy("writer")
		for _, got := range []string{
			e.Docker("exec", "writer", "cat", "/data/f").OK(t).Line(), e.Docker("exec", "writer", "cat", "/plain/f").OK(t).Line(),
			e.Sees("data", "f").OK(t).Line(),
		} {
			if got != want {
				t.Errorf("%s: found %q, want %q", after, got, want)
			}
		}
	}
	check("after the restore", "one")
	e.CLI("undo", "--force").OK(t)
	check("after its undo", "two")

	s.Kill()
	s = e.StartService()
	e.Docker("restart", "writer").OK(t)
	check("after kill -9 of the service", "two")
	e.Restart()
	check("after kill -9 of the engine", "two")
	e.Kill9()
	s.Kill()
	s = e.StartService() // as the unit's order has it
	e.Start()
	check("after kill -9 of both", "two")
	e.Docker("rm", "--force", "writer").OK(t)
	e.Docker("volume", "rm", "data").OK(t)
	s.Kill()
}
