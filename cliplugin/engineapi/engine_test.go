package engineapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// answer is what the engine of a test says to one request.
type answer struct {
	status int
	body   any
}

// engine serves answers by "METHOD /path" (without the API version) on a unix
// socket and gives a client for it.
func engine(t *testing.T, api string, answers map[string]answer) *engineapi.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	serve(t, socket, api, answers)
	c, err := engineapi.Dial(socket)
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func serve(t *testing.T, socket, api string, answers map[string]answer) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", api)
		w.Header().Set("Content-Type", "application/json")
		path := r.URL.Path
		if rest, ok := strings.CutPrefix(path, "/v"+api); ok {
			path = rest
		}
		a, ok := answers[r.Method+" "+path]
		if path == "/_ping" {
			a, ok = answer{200, "OK"}, true
		}
		if !ok {
			a = answer{500, map[string]string{"message": "unexpected request " + r.Method + " " + path}}
		}
		w.WriteHeader(a.status)
		if a.body != nil {
			_ = json.NewEncoder(w).Encode(a.body)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
}

func message(text string) map[string]string { return map[string]string{"message": text} }

func TestMissingObjectsAreErrNoSuch(t *testing.T) {
	gone := answer{404, message("No such thing: x")}
	c := engine(t, "1.41", map[string]answer{
		"GET /containers/x/json":     gone,
		"GET /volumes/x":             gone,
		"GET /images/x/json":         gone,
		"DELETE /volumes/x":          gone,
		"POST /containers/x/start":   gone,
		"POST /containers/x/stop":    gone,
		"POST /containers/x/update":  gone,
		"POST /containers/x/pause":   gone,
		"POST /containers/x/unpause": gone,
		"GET /containers/json":       {200, []any{}},
	})
	ctx := context.Background()
	for name, call := range map[string]func() error{
		"Container":    func() error { _, err := c.Container(ctx, "x"); return err },
		"Volume":       func() error { _, err := c.Volume(ctx, "x"); return err },
		"Image":        func() error { _, err := c.Image(ctx, "x"); return err },
		"RemoveVolume": func() error { return c.RemoveVolume(ctx, "x") },
		"Start":        func() error { return c.Start(ctx, "x") },
		"Stop":         func() error { return c.Stop(ctx, "x", nil) },
		"SetPolicy":    func() error { return c.SetPolicy(ctx, "x", journal.Policy{Name: "no"}) },
		"Pause":        func() error { return c.Pause(ctx, "x") },
		"Unpause":      func() error { return c.Unpause(ctx, "x") },
	} {
		err := call()
		assert.Check(t, errors.Is(err, restore.ErrNoSuch), "%s: %v", name, err)
	}
}

func TestReachingAStateTwiceIsNoError(t *testing.T) {
	for _, state := range []string{"paused", "running", "exited"} {
		c := engine(t, "1.41", map[string]answer{
			"POST /containers/x/start":   {304, nil},
			"POST /containers/x/stop":    {304, nil},
			"POST /containers/x/pause":   {409, message("Container x is already paused")},
			"POST /containers/x/unpause": {500, message("Container x is not paused")},
			"GET /containers/json":       {200, []any{map[string]any{"Id": "x", "State": state}}},
		})
		ctx := context.Background()
		assert.NilError(t, c.Start(ctx, "x"))
		assert.NilError(t, c.Stop(ctx, "x", nil))
		assert.Check(t, is.Equal(c.Pause(ctx, "x") == nil, state == "paused"), state)
		assert.Check(t, is.Equal(c.Unpause(ctx, "x") == nil, state == "running"), state)
	}
}

func TestContainerIsDescribedWhole(t *testing.T) {
	mount := map[string]any{"Type": "volume", "Name": "db", "Source": "/d/db/_data", "Destination": "/data", "Driver": "local", "RW": false}
	c := engine(t, "1.41", map[string]answer{
		"GET /containers/json": {200, []any{map[string]any{
			"Id": "abc", "Names": []string{"/web/db", "/db"}, "Image": "pg:15", "ImageID": "sha256:1",
			"State": "exited", "Labels": map[string]string{"a": "b"}, "Mounts": []any{mount},
		}}},
		"GET /containers/abc/json": {200, map[string]any{
			"Id": "abc", "Name": "/db", "Image": "sha256:1",
			"Config":     map[string]any{"Image": "pg:15", "StopTimeout": 7, "Healthcheck": map[string]any{"Test": []string{"CMD", "x"}}},
			"HostConfig": map[string]any{"AutoRemove": true, "RestartPolicy": map[string]any{"Name": "on-failure", "MaximumRetryCount": 3}, "Tmpfs": map[string]string{"/t": ""}},
			"State":      map[string]any{"Status": "running", "StartedAt": "2024-01-02T03:04:05.6Z", "Health": map[string]any{"Status": "healthy"}},
			"Mounts":     []any{mount},
		}},
	})
	mounted := restore.Mount{Type: "volume", Name: "db", Source: "/d/db/_data", Target: "/data", Driver: "local", ReadOnly: true}
	list, err := c.Containers(context.Background())
	assert.NilError(t, err)
	assert.DeepEqual(t, list, []restore.Container{{
		ID: "abc", Name: "db", Image: "pg:15", ImageID: "sha256:1", State: "exited",
		Labels: map[string]string{"a": "b"}, Mounts: []restore.Mount{mounted},
	}})
	one, err := c.Container(context.Background(), "abc")
	assert.NilError(t, err)
	grace := 7
	assert.DeepEqual(t, one, restore.Container{
		ID: "abc", Name: "db", Image: "pg:15", ImageID: "sha256:1", State: "running", AutoRemove: true,
		Policy: journal.Policy{Name: "on-failure", Retries: 3}, HealthCheck: true, Health: "healthy", StopTimeout: &grace,
		StartedAt: time.Date(2024, 1, 2, 3, 4, 5, 6e8, time.UTC),
		Mounts:    []restore.Mount{mounted, {Type: "tmpfs", Target: "/t"}},
	})
}

func TestHostSpeaksGoNames(t *testing.T) {
	c := engine(t, "1.41", map[string]answer{"GET /info": {200, map[string]any{
		"ID": "E", "Name": "host", "ServerVersion": "20.10.24", "OSType": "linux", "Architecture": "aarch64",
		"DockerRootDir": "/var/lib/docker/100000.100000", "Driver": "overlay2", "LiveRestoreEnabled": true,
		"SecurityOptions": []string{"name=seccomp,profile=default", "name=userns"},
		"Swarm":           map[string]any{"LocalNodeState": "active"},
		"Plugins":         map[string]any{"Volume": []string{"local"}},
	}}, "GET /plugins": {200, []any{map[string]any{"Name": "served:latest", "Enabled": true}}}})
	h, err := c.Host(context.Background())
	assert.NilError(t, err)
	assert.DeepEqual(t, h, restore.Host{
		ID: "E", Name: "host", Version: "20.10.24", OS: "linux", Arch: "arm64", Driver: "overlay2",
		DataRoot: "/var/lib/docker/100000.100000", UserNamespace: true, Swarm: true, LiveRestore: true,
		VolumeDrivers: []string{"local", "served:latest"},
	})
}

func TestOldEngineIsRefused(t *testing.T) {
	assert.NilError(t, engine(t, "1.41", nil).CheckVersion(context.Background()))
	err := engine(t, "1.40", nil).CheckVersion(context.Background())
	assert.ErrorContains(t, err, `"1.40" is too old`)
	assert.Check(t, fault.From(err).Hint != "")
}

// A user who may not open the engine's socket is told so, and is not told that
// the engine is down.
func TestASocketThatMayNotBeOpenedIsSaid(t *testing.T) {
	api, err := client.NewClientWithOpts(client.WithHost("unix:///var/run/docker.sock"),
		client.WithHTTPClient(&http.Client{Transport: refusing{}}), client.WithAPIVersionNegotiation())
	assert.NilError(t, err)
	err = engineapi.New(api).CheckVersion(context.Background())
	f := fault.From(err)
	assert.Assert(t, f != nil && strings.Contains(f.Message, "permission denied"), "%v", err)
	assert.Equal(t, f.State, "nothing was changed")
	assert.Assert(t, strings.Contains(f.Hint, "account"), f.Hint)
	assert.Check(t, !engineapi.Unreachable(err))
}

// refusing is the way to a socket that this user may not open.
type refusing struct{}

func (refusing) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
}

func TestEngineThatIsDown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c, err := engineapi.Dial(socket)
	assert.NilError(t, err)
	defer c.Close()
	for _, err := range []error{
		c.CheckVersion(context.Background()),
		c.Start(context.Background(), "x"),
		func() error { _, err := c.Host(context.Background()); return err }(),
	} {
		assert.Check(t, engineapi.Unreachable(err), "%v", err)
		assert.Check(t, fault.From(err).Hint != "", "%v", err)
		assert.Check(t, !errors.Is(err, restore.ErrNoSuch))
	}
}

// What an engine says of a volume driver that did not answer it is told from
// what the driver answered, from a container that is not there, and from the
// remains of a start that was killed.
func TestAVolumeDriverThatDidNotAnswerIsTold(t *testing.T) {
	for text, want := range map[string]error{
		`error while mounting volume '': get web_db: error while checking if volume "web_db" exists in driver "snaprestore:latest": ` +
			`Post "http://plugin.moby.localhost/VolumeDriver.Get": EOF`: restore.ErrDriver,
		`error while mounting volume '': error looking up volume plugin snaprestore: plugin "snaprestore" not found`: restore.ErrDriver,
		`error while mounting volume '': VolumeDriver.Mount: volume web_db: restore 3f is at work on it`:             nil,
		`failed to create task for container: failed to create shim task: OCI runtime create failed: ` +
			`runc create failed: container with given ID already exists: unknown`: restore.ErrRemains,
		`No such container: x`: restore.ErrNoSuch,
	} {
		status := 500
		if strings.Contains(strings.ToLower(text), "no such") || strings.Contains(text, "not found") {
			status = 404
		}
		err := engine(t, "1.41", map[string]answer{"POST /containers/x/start": {status, message(text)}}).Start(context.Background(), "x")
		assert.ErrorContains(t, err, text[:20])
		for _, kind := range []error{restore.ErrDriver, restore.ErrRemains, restore.ErrNoSuch} {
			assert.Check(t, is.Equal(errors.Is(err, kind), kind == want), "%s: %v", text, kind)
		}
	}
}

// What containerd keeps of a start that was killed is in the way of every other
// one, mostly for some seconds: it is repeated, and the error says what to do
// where it stays.
func TestAStartThatContainerdIsInTheWayOfSaysWhatToDo(t *testing.T) {
	for _, text := range []string{
		"failed to create task for container: mkdir /run/containerd/io.containerd.runtime.v2.task/moby/2a84: file exists",
		"failed to create task for container: AlreadyExists: task 2a84: already exists",
	} {
		err := engine(t, "1.41", map[string]answer{"POST /containers/x/start": {500, message(text)}}).Start(context.Background(), "x")
		assert.ErrorContains(t, err, "systemctl restart containerd")
		assert.Check(t, errors.Is(err, restore.ErrRemains) && !errors.Is(err, restore.ErrDriver), text)
	}
}

// An engine that drops the connection in the middle of a call, as one does
// that is killed, is waited for by a patient client.
func TestPatientClientWaitsForTheEngine(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	var dropped atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
			if dropped.Add(1) == 2 {
				l.Close() // and removes the socket
				return
			}
		}
	}()
	impatient, err := engineapi.Dial(socket)
	assert.NilError(t, err)
	defer impatient.Close()
	assert.Check(t, engineapi.Unreachable(impatient.Start(context.Background(), "x")))

	patient, err := engineapi.Dial(socket, engineapi.Patient(time.Minute))
	assert.NilError(t, err)
	defer patient.Close()
	started := make(chan error, 1)
	go func() { started <- patient.Start(context.Background(), "x") }()
	for deadline := time.Now().Add(time.Minute); dropped.Load() < 2; {
		assert.Assert(t, time.Now().Before(deadline))
		time.Sleep(time.Millisecond)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if again, err := net.Listen("unix", socket); err == nil {
			again.Close()
			break
		}
		assert.Assert(t, time.Now().Before(deadline))
		time.Sleep(time.Millisecond)
	}
	serve(t, socket, "1.41", map[string]answer{"POST /containers/x/start": {204, nil}})
	assert.NilError(t, <-started)
}

func TestPatienceEndsWithTheContext(t *testing.T) {
	c, err := engineapi.Dial(filepath.Join(t.TempDir(), "s"), engineapi.Patient(time.Hour))
	assert.NilError(t, err)
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	assert.Check(t, errors.Is(c.Start(ctx, "x"), context.Canceled))
}
