//go:build e2e && linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Engine is a private Docker engine and a client configured for it.
type Engine struct {
	t     testing.TB
	Dir   string // everything of the engine
	Data  string // data root
	Host  string // address for clients
	name  string // of its network namespace and cgroup
	env   []string
	flags []string

	dockerd    *daemon   // nil when it is down
	booted     time.Time // when it was started
	containerd *daemon
}

// daemon is a server process.
type daemon struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

var engines atomic.Int64

// NewEngine starts an engine that ends with the test and has the images of
// scripts/images, with more flags for dockerd.
func NewEngine(t testing.TB, flags ...string) *Engine {
	t.Helper()
	template.once.Do(func() { makeTemplate(t) })
	if !template.made {
		t.Fatal("make the template of engines: it failed in an earlier test")
	}
	e := newEngine(t, flags...)
	fix(t, "cp", "--sparse=always", templateDisk(), e.disk())
	e.mount()
	e.Start()
	return e
}

// template is the disk that every engine begins with a copy of: a data root
// with the images. Importing them anew for each test would cost more than
// most tests.
var template struct {
	once sync.Once
	made bool
}

func templateDisk() string { return filepath.Join(host.dir, "template.ext4") }

// diskSize is what an engine can store, in bytes. The files are sparse.
const diskSize = 3 << 30

func makeTemplate(t testing.TB) {
	e := newEngine(t)
	must(t, os.WriteFile(e.disk(), nil, 0o600))
	must(t, os.Truncate(e.disk(), diskSize))
	fix(t, "mkfs.ext4", "-q", e.disk())
	e.mount()
	e.Start()
	e.Run(filepath.Join(host.repository, "scripts/images"), "import", e.Host).OK(t)
	e.Stop()
	// Each engine is one of its own.
	for _, name := range []string{"engine-id", "key.json"} {
		must(t, os.RemoveAll(filepath.Join(e.Data, name)))
	}
	must(t, endProcesses(e.Dir, "/"+e.name+"/"))
	// Whoever copied the mount into a namespace of his own may delay the
	// unmount's writing; the copies are made at once.
	must(t, syncTree(e.Data))
	must(t, unmountBelow(e.Dir))
	must(t, os.Rename(e.disk(), templateDisk()))
	template.made = true
}

// syncTree writes out the file system that dir is on.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// newEngine lays an engine out, without its disk.
func newEngine(t testing.TB, flags ...string) *Engine {
	t.Helper()
	number := engines.Add(1)
	e := &Engine{
		t:     t,
		Dir:   filepath.Join(host.dir, fmt.Sprint(number)),
		name:  fmt.Sprint(namespacePrefix(host.dir), number),
		flags: flags,
	}
	e.Data = filepath.Join(e.Dir, "data")
	e.Host = "unix://" + e.socket()
	plugins := filepath.Join(e.config(), "cli-plugins")
	for _, dir := range []string{e.Data, filepath.Dir(e.socket()), plugins} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.Symlink(host.compose, filepath.Join(plugins, "docker-compose")))
	must(t, os.Symlink(host.plugin, filepath.Join(plugins, "docker-snaprestore")))
	must(t, os.WriteFile(filepath.Join(e.Dir, "daemon.json"), []byte("{}"), 0o600))
	must(t, os.WriteFile(filepath.Join(e.Dir, "containerd.toml"), []byte(containerdConfig), 0o600))
	e.env = append(os.Environ(), "PATH="+host.path, "DOCKER_CONFIG="+e.config(), "DOCKER_HOST="+e.Host,
		"LC_ALL=C.UTF-8")
	t.Cleanup(e.clean)
	fix(t, "ip", "netns", "add", e.name)
	fix(t, "ip", "-n", e.name, "link", "set", "lo", "up")
	return e
}

// mount puts the engine's disk in the place of its data root.
func (e *Engine) mount() {
	e.t.Helper()
	fix(e.t, "mount", "-o", "loop", e.disk(), e.Data)
}

func (e *Engine) socket() string { return filepath.Join(e.Dir, "socket/docker.sock") }
func (e *Engine) disk() string   { return filepath.Join(e.Dir, "disk.ext4") }
func (e *Engine) config() string { return filepath.Join(e.Dir, "config") }
func (e *Engine) log() string    { return filepath.Join(e.Dir, "engine.log") }

// containerdConfig leaves out what an engine does not use and what would write
// outside the engine's directory.
const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
`

// Start starts the engine, as the machine's service manager would, and waits
// until it answers.
func (e *Engine) Start() {
	e.t.Helper()
	e.Boot()
	WaitFor(e.t, "start the engine", 3*time.Minute, func() string {
		select {
		case <-e.dockerd.ended:
			e.t.Fatalf("start the engine: it ended\n%s", e.tail())
		default:
		}
		return unless(e.Docker("version").Code == 0, "it does not answer")
	})
}

// Boot starts the engine and does not wait for it. Its containerd is a process
// of its own, as in Debian's service: it outlives a dockerd that is killed.
func (e *Engine) Boot() {
	e.t.Helper()
	address := filepath.Join(e.Dir, "containerd.sock")
	if e.containerd == nil {
		e.startContainerd(address)
	}
	e.booted = time.Now()
	e.dockerd = e.daemon(append([]string{"dockerd",
		"--config-file", filepath.Join(e.Dir, "daemon.json"),
		"--containerd", address,
		"--data-root", e.Data,
		"--exec-root", filepath.Join(e.Dir, "exec"),
		"--pidfile", filepath.Join(e.Dir, "pid"),
		"--host", e.Host,
		"--cgroup-parent", "/" + e.name,
		"--bridge", "none", "--iptables=false", "--ip-masq=false",
	}, e.flags...)...)
}

func (e *Engine) startContainerd(address string) {
	e.t.Helper()
	e.containerd = e.daemon("containerd", "--config", filepath.Join(e.Dir, "containerd.toml"),
		"--root", filepath.Join(e.Dir, "containerd"), "--state", filepath.Join(e.Dir, "shims"), "--address", address)
	WaitFor(e.t, "start containerd", 3*time.Minute, func() string {
		conn, err := net.Dial("unix", address)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
}

// RestartContainerd starts containerd again, as a person would; containers run
// on.
func (e *Engine) RestartContainerd() {
	e.t.Helper()
	must(e.t, e.containerd.cmd.Process.Signal(unix.SIGTERM))
	select {
	case <-e.containerd.ended:
	case <-time.After(time.Minute):
		e.t.Fatal("containerd does not end")
	}
	e.startContainerd(filepath.Join(e.Dir, "containerd.sock"))
}

// daemon starts a server in the engine's network namespace, its output going
// to the engine's log.
func (e *Engine) daemon(args ...string) *daemon {
	e.t.Helper()
	log, err := os.OpenFile(e.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(e.t, err)
	defer log.Close()
	d := &daemon{
		cmd:   exec.Command("nsenter", append([]string{"--net=/run/netns/" + e.name}, args...)...),
		ended: make(chan struct{}),
	}
	d.cmd.Env = e.env
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// A signal meant for the tests does not reach the engine.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(e.t, d.cmd.Start())
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	return d
}

// Stop ends the engine in order, with its containers.
func (e *Engine) Stop() {
	e.t.Helper()
	must(e.t, e.dockerd.cmd.Process.Signal(unix.SIGTERM))
	e.gone()
}

// In makes a subtest the one that fails, until it ends.
func (e *Engine) In(t testing.TB) {
	outer := e.t
	e.t = t
	t.Cleanup(func() { e.t = outer })
}

// Kill9 kills dockerd alone; its containers run on.
func (e *Engine) Kill9() {
	e.t.Helper()
	must(e.t, e.dockerd.cmd.Process.Kill())
	e.gone()
}

func (e *Engine) gone() {
	e.t.Helper()
	select {
	case <-e.dockerd.ended:
		e.dockerd = nil
	case <-time.After(3 * time.Minute):
		e.t.Fatalf("the engine does not end\n%s", e.tail())
	}
}

// Restart kills dockerd and starts it again.
func (e *Engine) Restart() {
	e.t.Helper()
	e.Kill9()
	e.Start()
}

// clean ends all that is of the engine, and keeps its log where the test
// failed.
func (e *Engine) clean() {
	if e.t.Failed() {
		e.keep()
	}
	if err := endProcesses(e.Dir, "/"+e.name+"/"); err != nil {
		e.t.Error(err)
	}
	if err := removeGroups(e.name); err != nil {
		e.t.Error(err)
	}
	if err := unmountBelow(e.Dir); err != nil {
		e.t.Error(err)
	}
	if out, err := exec.Command("ip", "netns", "delete", e.name).CombinedOutput(); err != nil {
		e.t.Errorf("delete network namespace: %v: %s", err, out)
	}
	if err := os.RemoveAll(e.Dir); err != nil {
		e.t.Error(err)
	}
}

// keep copies log and journal to the artifacts and shows the log's tail.
func (e *Engine) keep() {
	dir := filepath.Join(host.artifacts, host.suite, e.t.Name())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		e.t.Log(err)
		return
	}
	e.t.Logf("logs are in %s; the engine's ends with:\n%s", dir, e.tail())
	number := filepath.Base(e.Dir)
	_ = exec.Command("cp", e.log(), filepath.Join(dir, "engine-"+number+".log")).Run()
	_ = exec.Command("cp", "-a", filepath.Join(e.Data, "snaprestore/journal"), filepath.Join(dir, "journal-"+number)).Run()
	_ = exec.Command("sh", "-c", "cd $0 && find . -not -path './*/_data/*' | sort >$1", filepath.Join(e.Data, "volumes"), filepath.Join(dir, "volumes-"+number)).Run()
	for _, id := range e.Docker("ps", "-aq").Lines() {
		state := e.Docker("inspect", id)
		logs := e.Docker("logs", id)
		_ = os.WriteFile(filepath.Join(dir, "container-"+number+"-"+id), []byte(state.Stdout+logs.String()), 0o600)
	}
}

// tail is the end of the engine's log, each line cut: the whole is kept.
func (e *Engine) tail() string {
	data, err := os.ReadFile(e.log())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	lines = lines[max(0, len(lines)-10):]
	for i, line := range lines {
		lines[i] = line[:min(len(line), 300)]
	}
	return strings.Join(lines, "\n")
}

// Run runs a program with the engine's environment.
func (e *Engine) Run(args ...string) Result {
	e.t.Helper()
	began := time.Now()
	defer func() { e.t.Logf("%5.2fs %s", time.Since(began).Seconds(), strings.Join(args, " ")) }()
	return e.Begin(args...).Wait()
}

// Begin starts a program with the engine's environment.
func (e *Engine) Begin(args ...string) *Process {
	e.t.Helper()
	return begin(e.t, func(ctx context.Context) *exec.Cmd { return e.command(ctx, args...) })
}

func (e *Engine) command(ctx context.Context, args ...string) *exec.Cmd {
	program := args[0]
	for _, dir := range filepath.SplitList(host.path) {
		if candidate := filepath.Join(dir, program); !strings.Contains(program, "/") && unix.Access(candidate, unix.X_OK) == nil {
			program = candidate
			break
		}
	}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Env = e.env
	cmd.Dir = e.Dir
	return cmd
}

// Docker runs the suite's docker client.
func (e *Engine) Docker(args ...string) Result {
	e.t.Helper()
	return e.Run(append([]string{"docker"}, args...)...)
}

// Compose runs docker compose in a project's directory.
func (e *Engine) Compose(dir string, args ...string) Result {
	e.t.Helper()
	return e.Docker(append([]string{"compose", "--project-directory", dir}, args...)...)
}

// CLI runs docker snaprestore.
func (e *Engine) CLI(args ...string) Result {
	e.t.Helper()
	return e.Docker(append([]string{"snaprestore"}, args...)...)
}

// BeginCLI starts docker snaprestore.
func (e *Engine) BeginCLI(args ...string) *Process {
	e.t.Helper()
	return e.Begin(append([]string{"docker", "snaprestore"}, args...)...)
}

// unless gives text where ok does not hold.
func unless(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fix runs a program that only prepares the machine.
func fix(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}
