package volplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	driver "github.com/docker/go-plugins-helpers/volume"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// call asks like an engine does. A dropped connection is an error.
func call(t *testing.T, c *http.Client, method string, request, answer any) (int, error) {
	t.Helper()
	data, err := json.Marshal(request)
	assert.NilError(t, err)
	return post(c, method, data, answer)
}

func post(c *http.Client, method string, body []byte, answer any) (int, error) {
	r, err := c.Post("http://plugin/"+method, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	return r.StatusCode, json.NewDecoder(r.Body).Decode(answer)
}

func TestProtocol(t *testing.T) {
	d := newStage(t).open(t)
	c, _ := served(t, d)
	var manifest struct{ Implements []string }
	status, err := post(c, "Plugin.Activate", nil, &manifest)
	assert.NilError(t, err)
	assert.Equal(t, status, 200)
	assert.DeepEqual(t, manifest.Implements, []string{"VolumeDriver"})

	ok := func(method string, request, answer any) {
		t.Helper()
		status, err := call(t, c, "VolumeDriver."+method, request, answer)
		assert.NilError(t, err)
		assert.Equal(t, status, 200, "%s: %v", method, answer)
	}
	refused := func(method string, request any, says string) {
		t.Helper()
		var e driver.ErrorResponse
		status, err := call(t, c, "VolumeDriver."+method, request, &e)
		assert.NilError(t, err)
		assert.Equal(t, status, 500)
		assert.Assert(t, strings.Contains(e.Err, says), e.Err)
		assert.Assert(t, !strings.Contains(e.Err, "\n"), e.Err)
	}
	var none struct{}
	var capabilities driver.CapabilitiesResponse
	ok("Capabilities", none, &capabilities)
	assert.Equal(t, capabilities.Capabilities.Scope, "local")

	refused("Get", driver.GetRequest{Name: "db"}, "no such volume")
	refused("Create", driver.CreateRequest{Name: "db", Options: map[string]string{"size": "1"}}, "hint: the options are")
	ok("Create", driver.CreateRequest{Name: "db"}, &none)
	ok("Create", driver.CreateRequest{Name: "db"}, &none)
	var got driver.GetResponse
	ok("Get", driver.GetRequest{Name: "db"}, &got)
	path := filepath.Join(d.config.Points, "db")
	assert.Equal(t, got.Volume.Mountpoint, path)
	assert.Equal(t, got.Volume.Status["scope"], "named")
	var list driver.ListResponse
	ok("List", none, &list)
	assert.Equal(t, len(list.Volumes), 1)
	assert.Equal(t, list.Volumes[0].Name, "db")

	var at driver.PathResponse
	ok("Path", driver.PathRequest{Name: "db"}, &at)
	assert.Equal(t, at.Mountpoint, "")
	var mounted driver.MountResponse
	ok("Mount", driver.MountRequest{Name: "db", ID: "i"}, &mounted)
	assert.Equal(t, mounted.Mountpoint, path)
	ok("Path", driver.PathRequest{Name: "db"}, &at)
	assert.Equal(t, at.Mountpoint, path)
	refused("Mount", driver.MountRequest{Name: "nothing", ID: "i"}, "no such volume")
	refused("Remove", driver.RemoveRequest{Name: "db"}, "it is mounted")
	ok("Unmount", driver.UnmountRequest{Name: "db", ID: "i"}, &none)
	ok("Remove", driver.RemoveRequest{Name: "db"}, &none)
	ok("Remove", driver.RemoveRequest{Name: "db"}, &none)
}

// TestDoubtDropsTheConnection: any answer to Get but the volume makes an
// engine forget the volume's labels.
func TestDoubtDropsTheConnection(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	makeVolume(t, d, "db", "data", nil)
	c, _ := served(t, d)
	var answer map[string]any
	for _, method := range []string{"Get", "Path", "Mount", "Create", "Remove", "Unmount"} {
		_, err := post(c, "VolumeDriver."+method, nil, &answer)
		assert.ErrorContains(t, err, "EOF", method)
	}
	for _, method := range []string{"List", "Capabilities"} { // these ask for nothing in particular
		status, err := post(c, "VolumeDriver."+method, nil, &answer)
		assert.NilError(t, err, method)
		assert.Equal(t, status, 200, method)
	}
	record := filepath.Join(s.config.Root, "volumes", "db", "volume.json")
	assert.NilError(t, os.WriteFile(record, []byte("{}"), 0o600))
	for _, method := range []string{"Get", "Path", "Mount"} {
		_, err := call(t, c, "VolumeDriver."+method, driver.GetRequest{Name: "db"}, &answer)
		assert.ErrorContains(t, err, "EOF", method)
	}
}

func TestCallsWaitUntilTheVolumesAreSettled(t *testing.T) {
	s := newStage(t)
	d := s.open(t)
	makeVolume(t, d, "db", "data", nil)
	c, server := served(t, nil)
	ended := make(chan error, 1)
	go func() {
		var got driver.GetResponse
		_, err := call(t, c, "VolumeDriver.Get", driver.GetRequest{Name: "db"}, &got)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("answered before it was ready: %v", err)
	default:
	}
	server.Ready(d)
	assert.NilError(t, <-ended)
}

func TestMountThatNobodySeesEndsTheProcess(t *testing.T) {
	d := newStage(t).open(t)
	makeVolume(t, d, "db", "data", nil)
	c, server := served(t, d)
	d.points.proc = t.TempDir() // no process sees anything
	var answer map[string]any
	_, err := call(t, c, "VolumeDriver.Mount", driver.MountRequest{Name: "db", ID: "i"}, &answer)
	assert.ErrorContains(t, err, "EOF")
	assert.ErrorIs(t, <-server.Fatal(), errUnseen)
}

func TestWaitingMountSeesThatTheEngineHangsUp(t *testing.T) {
	s := newStage(t)
	s.config.Wait = time.Hour
	d := s.open(t)
	v := makeVolume(t, d, "db", "old", nil)
	l := begin(t, d, journal.Prepared, swapOf(t, v, "new"))
	c, _ := served(t, d)
	ctx, cancel := context.WithCancel(context.Background())
	body := bytes.NewReader([]byte(`{"Name":"db","ID":"i"}`))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver.Mount", body)
	assert.NilError(t, err)
	ended := make(chan error, 1)
	go func() {
		response, err := c.Do(r)
		if err == nil {
			response.Body.Close()
		}
		ended <- err
	}()
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
	assert.NilError(t, l.Decide(journal.Aborting))
	assert.Equal(t, len(d.leases), 0)
	assert.Assert(t, !isBound(t, d, "db"))
}

// program is the driver as a process of its own.
type program struct {
	cmd    *exec.Cmd
	client *http.Client
}

func (s *stage) start(t *testing.T) *program {
	t.Helper()
	base := filepath.Dir(s.config.Root)
	socket, own := filepath.Join(base, "socket"), filepath.Join(base, "own")
	assert.NilError(t, os.MkdirAll(own, 0o700))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asProgram+"="+strings.Join([]string{s.config.Points, own,
		"--root", s.config.Root, "--mounts", own, "--work", s.config.Work, "--socket", socket}, " "))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	assert.NilError(t, cmd.Start())
	p := &program{cmd: cmd, client: unixClient(socket)}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Log(out.String())
		}
	})
	var none struct{}
	eventually(t, "an answer of the driver", func() bool {
		status, err := call(t, p.client, "VolumeDriver.Capabilities", none, &none)
		return err == nil && status == 200
	})
	return p
}

func (p *program) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// TestServiceManagerIsToldOnceTheDataIsSettled: an engine that is ordered after
// the driver starts when the driver is asked nothing that it cannot answer.
func TestServiceManagerIsToldOnceTheDataIsSettled(t *testing.T) {
	s := newStage(t)
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	assert.NilError(t, err)
	defer manager.Close()
	var a volume.Volume
	func() { // an operation dies with the engine
		d := s.open(t)
		a = makeVolume(t, d, "a", "old", nil)
		ja := swapOf(t, a, "new")
		begin(t, d, journal.Prepared, ja).Release()
		raise(t, ja)
	}()
	t.Setenv(notifySocket, path)
	s.start(t)
	message := make([]byte, 64)
	assert.NilError(t, manager.SetReadDeadline(time.Now().Add(20*time.Second)))
	n, err := manager.Read(message)
	assert.NilError(t, err)
	assert.Equal(t, string(message[:n]), "READY=1")
	assert.Equal(t, text(filepath.Join(a.Dir, volume.Live)), "new")
}

// TestProcess kills the driver while volumes are mounted and an operation is
// undecided, and starts it again: data settled before the first answer.
func TestProcess(t *testing.T) {
	s := newStage(t)
	p := s.start(t)
	mount := func(name string) string {
		t.Helper()
		var m driver.MountResponse
		status, err := call(t, p.client, "VolumeDriver.Mount", driver.MountRequest{Name: name, ID: "i"}, &m)
		assert.NilError(t, err)
		assert.Equal(t, status, 200)
		assert.Equal(t, filepath.Base(m.Mountpoint), name)
		return filepath.Join(s.config.Points, name) // where the engine sees it
	}
	var none struct{}
	for _, name := range []string{"a", "b"} {
		_, err := call(t, p.client, "VolumeDriver.Create", driver.CreateRequest{Name: name}, &none)
		assert.NilError(t, err)
	}
	write(t, mount("a"), "old")
	running := startContainer(t, mount("b"))
	p.kill()

	func() { // an operation comes as far as PREPARED and dies with the engine
		d := s.open(t)
		a, err := d.find("a")
		assert.NilError(t, err)
		ja := swapOf(t, a, "new")
		begin(t, d, journal.Prepared, ja).Release()
		raise(t, ja)
	}()
	p = s.start(t)
	assert.Equal(t, text(mount("a")), "new")
	write(t, mount("b"), "live")
	assert.Equal(t, running.read(t, "f"), "live")

	// TERM is a clean end, and another start finds everything.
	assert.NilError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	assert.NilError(t, p.cmd.Wait())
	p = s.start(t)
	assert.Equal(t, text(mount("a")), "new")

	// Nothing piles up, however often it dies.
	before := mountsBelow(t, filepath.Dir(s.config.Root))
	for range 3 {
		p.kill()
		p = s.start(t)
		assert.Equal(t, text(mount("a")), "new")
	}
	assert.Equal(t, mountsBelow(t, filepath.Dir(s.config.Root)), before)
}

func mountsBelow(t *testing.T, dir string) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	assert.NilError(t, err)
	return strings.Count(string(data), " "+dir+"/")
}

func TestSecondDriverOfOneStateRootEnds(t *testing.T) {
	s := newStage(t)
	s.start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := alone(ctx, s.config.Root)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = listen(filepath.Join(filepath.Dir(s.config.Root), "socket"))
	assert.ErrorContains(t, err, "another process answers")
}

func FuzzRequests(f *testing.F) {
	f.Add("Create", []byte(`{"Name":"db","Opts":{"scope":"project"}}`))
	f.Add("Get", []byte(`{"Name":"../x"}`))
	f.Add("Mount", []byte(`{"Name":"","ID":null}`))
	f.Add("Remove", []byte(`[]`))
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		s := newStage(t)
		d := s.open(t)
		server := NewServer()
		server.Ready(d)
		r, err := http.NewRequest(http.MethodPost, "http://plugin/VolumeDriver.x", bytes.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = "/VolumeDriver." + method
		w := &answerWriter{header: http.Header{}}
		func() {
			defer func() {
				if p := recover(); p != nil && p != http.ErrAbortHandler {
					panic(p)
				}
			}()
			server.handler().ServeHTTP(w, r)
		}()
		// Whatever is asked, nothing appears outside the volumes' folder.
		entries, err := os.ReadDir(filepath.Join(s.config.Root, ".."))
		assert.NilError(t, err)
		assert.Assert(t, len(entries) <= 3, "%v", entries)
	})
}

type answerWriter struct {
	header http.Header
	bytes.Buffer
}

func (w *answerWriter) Header() http.Header { return w.header }
func (w *answerWriter) WriteHeader(int)     {}
