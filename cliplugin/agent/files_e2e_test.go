//go:build e2e && linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// real, in the state root, asks for the real domain.
const real = "real"

func openTested(ctx context.Context, c restore.Config) (Domain, error) {
	if _, err := os.Stat(filepath.Join(c.Root, real)); err == nil {
		return openDomain(ctx, c)
	}
	return openFiles(c)
}

// files is a Domain whose operations are files of the state root: ID.open
// becomes ID.closed when a file named go is there.
type files struct {
	domain
	config restore.Config
}

func openFiles(c restore.Config) (*files, error) {
	return &files{config: c}, os.MkdirAll(c.Root, 0o700)
}

func (f *files) path(name string) string { return filepath.Join(f.config.Root, name) }

func (f *files) exists(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

func (f *files) Known(id string) (open, known bool, err error) {
	open = f.exists(id + ".open")
	return open, open || f.exists(id+".closed"), nil
}

func (f *files) work(ctx context.Context, id, phase string) error {
	f.config.Events(event.Event{Type: event.Phase, Phase: phase})
	for !f.exists("go") {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return os.Rename(f.path(id+".open"), f.path(id+".closed"))
}

func (f *files) Create(ctx context.Context, id string, _ plan.Create) (snapshot.Snapshot, error) {
	if err := os.WriteFile(f.path(id+".open"), nil, 0o600); err != nil {
		return snapshot.Snapshot{}, err
	}
	return snap(id), f.work(ctx, id, "first")
}

func (f *files) Execute(ctx context.Context, p *plan.Plan) (plan.Restored, error) {
	_, err := f.Create(ctx, p.Operation, plan.Create{})
	return plan.Restored{Operation: p.Operation, Result: journal.ResultDone}, err
}

// Import keeps the archive as a file, and Export gives it back.
func (f *files) Import(_ context.Context, _ string, r io.Reader, _ string) (snapshot.Snapshot, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	return snap("imported"), os.WriteFile(f.path("imported"), data, 0o600)
}

func (f *files) Export(_ context.Context, _, _ string, _ bool, w io.Writer) (snapshot.Snapshot, error) {
	data, err := os.ReadFile(f.path("imported"))
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	_, err = w.Write(data)
	return snap("imported"), err
}

func (f *files) Resume(ctx context.Context, id string) (plan.Restored, error) {
	r := plan.Restored{Operation: id, Snapshot: id, Result: journal.ResultDone}
	if f.exists(id + ".closed") {
		return r, nil
	}
	return r, f.work(ctx, id, "second")
}

func (f *files) Verify(ctx context.Context, _ []string, _ string) ([]plan.Verified, error) {
	f.config.Events(event.Event{Type: event.Phase, Phase: "first"})
	<-ctx.Done()
	return nil, os.WriteFile(f.path("hung-up"), nil, 0o600)
}

// Doctor says what the agent sees of its surroundings.
func (f *files) Doctor(ctx context.Context) ([]plan.Check, error) {
	var out []plan.Check
	see := func(name string, err error) {
		c := plan.Check{Name: name, Status: "ok"}
		if err != nil {
			c.Status, c.Detail = "failed", err.Error()
		}
		out = append(out, c)
	}
	_, err := f.config.Engine.Container(ctx, f.config.Self)
	see("self", err)
	status, err := os.ReadFile("/proc/self/status")
	see("status", err)
	out = append(out, plan.Check{Name: "capabilities", Detail: field(status, "CapEff:")},
		plan.Check{Name: "privileges", Detail: field(status, "NoNewPrivs:")})
	see("rename", exchange(f.config.Root, filepath.Join(filepath.Dir(f.config.Root), "volumes")))
	see("write outside", mustFail(os.WriteFile("/x", nil, 0o600)))
	for _, p := range probes {
		see(p.capability, p.use(f.path(p.capability)))
	}
	links, err := os.ReadDir("/sys/class/net")
	see("interfaces", err)
	for _, l := range links {
		out = append(out, plan.Check{Name: "interface", Detail: l.Name()})
	}
	return out, nil
}

// probes are deeds that one capability each makes possible, on a file of user
// and group 4711 with mode 0000.
var probes = []struct {
	capability string
	use        func(file string) error
}{
	{"CHOWN", func(file string) error { return os.Lchown(file, 4712, 4712) }},
	{"DAC_OVERRIDE", func(file string) error { _, err := os.ReadFile(file); return err }},
	{"FOWNER", func(file string) error { return os.Chmod(file, 0o640) }},
	{"FSETID", func(file string) error {
		if err := unix.Chmod(file, 0o2755); err != nil {
			return nil // another capability's
		}
		info, err := os.Stat(file)
		if err == nil && info.Mode()&os.ModeSetgid == 0 {
			err = errors.New("the bit was dropped")
		}
		return err
	}},
	{"KILL", func(file string) error {
		// Of a process of user 4711.
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			return err
		}
		return unix.Kill(pid, 0)
	}},
	{"MKNOD", func(file string) error { return unix.Mknod(file+".dev", unix.S_IFCHR|0o600, 1<<8|3) }},
	{"SETFCAP", func(file string) error {
		// cap_net_bind_service=ep, in the second version of the format.
		return unix.Lsetxattr(file, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	}},
	{"SYS_ADMIN", func(file string) error { return unix.Lsetxattr(file, "trusted.test", []byte("x"), 0) }},
	{"SYS_PTRACE", func(string) error {
		// The parent is the shim, a process of the host.
		_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
		return err
	}},
}

func field(text []byte, name string) string {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func mustFail(err error) error {
	if err == nil {
		return errors.New("it worked")
	}
	return nil
}

// exchange moves a directory from one place to another.
func exchange(from, to string) error {
	dir, err := os.MkdirTemp(from, "move")
	if err != nil {
		return err
	}
	moved := filepath.Join(to, "moved")
	if err := os.Rename(dir, moved); err != nil {
		return err
	}
	return os.Remove(moved)
}
