//go:build e2e && linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// asCaller makes the test binary one that calls the driver once, as an engine
// does: the method and its content are the arguments.
const asCaller = "SNAPRESTORE_E2E_CALLER"

// driverSocket is where the service listens.
var driverSocket = filepath.Join(volume.SocketFolder, volume.SocketName)

// beCaller prints the driver's answer.
func beCaller(method, content string) int {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", driverSocket) }}}
	answer, err := client.Post("http://plugin/"+method, "application/json", strings.NewReader(content))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer answer.Body.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		fmt.Fprintln(os.Stderr, answer.Status, &text, err)
		return 1
	}
	fmt.Print(&text)
	return 0
}

// Systemd is a service manager with the driver's unit and one in the place of
// the engine's, whose only work is to call the driver once. It is the first
// process of its own namespaces and sees no more of the machine than /usr and
// a group of its own.
type Systemd struct {
	*Engine // its directory, network and log; no engine runs there
	pid     int
}

// prepareSystemd goes into the group $1 and the namespaces, and runs the rest.
const prepareSystemd = `mkdir -p "$1"; echo $$ >"$1/cgroup.procs"; shift
exec unshare --mount --pid --fork --kill-child --cgroup --ipc --uts --propagation private sh -euc "$@"`

// bootSystemd makes a root at $1 with the unit $2, the driver $3, the test
// binary $4 and the log $5, and becomes the service manager.
const bootSystemd = `mount -t tmpfs -o mode=755 system "$1"
cd "$1"
mkdir usr etc proc sys dev run tmp var old
mount --bind /usr usr
mount -o remount,bind,ro usr
for link in bin sbin lib lib64; do ln -s usr/$link $link; done
mount -t tmpfs local usr/local
mkdir usr/local/bin
cp "$3" usr/local/bin/snaprestored
: >usr/local/bin/caller
mount --bind "$4" usr/local/bin/caller
: >log
mount --bind "$5" log
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sys sys
mount -t cgroup2 group sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom; do : >dev/$device; mount --bind /dev/$device dev/$device; done
mount -t tmpfs -o mode=755 run run
mkdir -p var/lib/docker
mount -t tmpfs -o mode=711 data var/lib/docker
cp /etc/passwd /etc/group etc/
: >etc/machine-id
units=etc/systemd/system
mkdir -p $units/snaprestored.service.d $units/multi-user.target.wants
for name in sysinit basic shutdown umount multi-user; do
	printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' $name >$units/$name.target
done
cp "$2" $units/snaprestored.service
# A limit of starts in a time, if there were one, would be two.
printf '[Unit]\nStartLimitBurst=2\n[Service]\nStandardError=append:/log\n' >$units/snaprestored.service.d/test.conf
cat >$units/docker.service <<.
[Unit]
Description=An engine, which asks for its volumes while it starts
[Service]
Type=oneshot
RemainAfterExit=yes
Environment=` + asCaller + `=yes
ExecStart=/usr/local/bin/caller Plugin.Activate {}
StandardOutput=append:/log
StandardError=append:/log
.
ln -s ../docker.service ../snaprestored.service $units/multi-user.target.wants/
pivot_root . old
exec chroot . sh -euc 'umount -l /old
exec env -i container=snaprestore PATH=/usr/sbin:/usr/bin SYSTEMD_UNIT_PATH=/etc/systemd/system /usr/lib/systemd/systemd --system --unit=multi-user.target'`

// NewSystemd boots a service manager, or skips the test where there can be
// none.
func NewSystemd(t testing.TB) *Systemd {
	t.Helper()
	if _, err := os.Stat("/usr/lib/systemd/systemd"); err != nil {
		t.Skipf("there is no systemd here: %v", err)
	}
	groups, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	must(t, err)
	if len(groups) == 0 {
		t.Skip("systemd needs the second version of cgroups, which is not mounted here")
	}
	if out, err := exec.Command("unshare", "--mount", "--pid", "--fork", "--cgroup", "--ipc", "--uts", "true").CombinedOutput(); err != nil {
		t.Skipf("systemd needs namespaces of its own: %v: %s", err, out)
	}
	s := &Systemd{Engine: newEngine(t)}
	root := filepath.Join(s.Dir, "root")
	must(t, os.Mkdir(root, 0o755))
	binary, err := os.Executable()
	must(t, err)
	manager := s.daemon("sh", "-euc", prepareSystemd, "sh", filepath.Join(groups[0].Mountpoint, s.name, "system"),
		bootSystemd, "sh", root, filepath.Join(host.repository, "scripts/snaprestored.service"), host.plugin, binary, s.log())
	WaitFor(t, "systemd starts what it shall", 3*time.Minute, func() string {
		select {
		case <-manager.ended:
			t.Fatalf("start systemd: it ended\n%s", s.tail())
		default:
		}
		for _, pid := range processes(s.Dir, "/"+s.name+"/") {
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(string(line), "/usr/lib/systemd/systemd\x00") {
				s.pid = pid
			}
		}
		if s.pid == 0 {
			return "it does not run"
		}
		jobs := s.Inside("systemctl", "list-jobs", "--no-legend")
		return unless(jobs.Code == 0 && jobs.Stdout == "" && s.State("multi-user.target") == "active", "%s", jobs)
	})
	return s
}

// Inside runs a program where the service manager runs.
func (s *Systemd) Inside(args ...string) Result {
	s.t.Helper()
	return s.Run(append([]string{"nsenter", "--target", strconv.Itoa(s.pid), "--mount", "--pid", "--cgroup", "--ipc", "--uts"}, args...)...)
}

// State is what the service manager says of a unit.
func (s *Systemd) State(unit string) string {
	s.t.Helper()
	return s.Inside("systemctl", "is-active", unit).Line()
}

// Ask calls the driver, as an engine does.
func (s *Systemd) Ask(method, content string) Result {
	s.t.Helper()
	return s.Inside("env", asCaller+"=yes", "/usr/local/bin/caller", method, content)
}

// MainPID is the driver's process number, "0" where none runs.
func (s *Systemd) MainPID() string {
	s.t.Helper()
	return s.Inside("systemctl", "show", "--property", "MainPID", "--value", "snaprestored.service").OK(s.t).Line()
}

// The unit of the driver does what it says: an engine that is ordered after it
// finds it at work, it has the capabilities that it needs, it is started again
// however often it is killed, and its volumes keep their data.
func TestSystemdRunsTheDriver(t *testing.T) {
	s := NewSystemd(t)
	for _, unit := range []string{"snaprestored.service", "docker.service"} {
		if got := s.State(unit); got != "active" {
			t.Fatalf("%s is %s\n%s\n%s", unit, got, s.Inside("systemctl", "status", "snaprestored.service", "docker.service"), s.tail())
		}
	}
	s.Ask("VolumeDriver.Create", `{"Name":"data"}`).OK(t)
	mounted := func() (path string) {
		t.Helper()
		answer := s.Ask("VolumeDriver.Mount", `{"Name":"data","ID":"user"}`).OK(t).Stdout
		path = filepath.Join(volume.ServiceMounts, "data")
		if !strings.Contains(answer, strconv.Quote(path)) {
			t.Fatalf("the volume is mounted at %s, want %s", answer, path)
		}
		return path
	}
	s.Inside("sh", "-c", `echo kept >"$0/f"`, mounted()).OK(t)
	check := func(after string) {
		t.Helper()
		if got := s.Inside("cat", filepath.Join(mounted(), "f")).OK(t).Line(); got != "kept" {
			t.Fatalf("%s the volume has %q", after, got)
		}
		if got := s.State("docker.service"); got != "active" {
			t.Errorf("%s the engine is %s", after, got)
		}
	}
	check("at first")
	s.Inside("systemctl", "restart", "snaprestored.service").OK(t)
	check("after a restart")
	for range 3 {
		was := s.MainPID()
		s.Inside("systemctl", "kill", "--signal", "KILL", "snaprestored.service").OK(t)
		WaitFor(t, "the driver is started again", time.Minute, func() string {
			now := s.MainPID()
			return unless(now != "0" && now != was && s.State("snaprestored.service") == "active", "was %s, is %s", was, now)
		})
	}
	check("after kill -9")
	s.Inside("systemctl", "stop", "snaprestored.service").OK(t)
	if got := s.State("snaprestored.service"); got != "inactive" {
		t.Errorf("after a stop the driver is %s", got)
	}
	if r := s.Ask("Plugin.Activate", "{}"); r.Code == 0 {
		t.Errorf("something answers after a stop\n%s", r)
	}
	s.Inside("systemctl", "start", "snaprestored.service").OK(t)
	check("after a stop and a start")
}
