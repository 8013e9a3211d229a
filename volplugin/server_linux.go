package volplugin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
	driver "github.com/docker/go-plugins-helpers/volume"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// readyWait is how long a call waits for a driver that is still settling its
// volumes.
const readyWait = 50 * time.Second

// requestLimit bounds a request's body, in bytes.
const requestLimit = 1 << 20

// manifest answers the engine's first question.
const manifest = `{"Implements": ["VolumeDriver"]}`

// Server speaks the engine's volume protocol for a driver. It takes the types
// of go-plugins-helpers, but not its handler, which hides the request: a Mount
// that waits must see that the engine gave up, and whose engine it is.
type Server struct {
	driver *Driver // once ready is closed
	ready  chan struct{}
	fatal  chan error
	// engine is who called last, and when it was first heard of.
	engine atomic.Pointer[contact]
}

// contact is an engine that has called.
type contact struct {
	process
	since time.Time
}

// heard is the engine that calls, nil before its first call. An engine opens
// a connection as soon as it has started a plugin.
func (s *Server) heard() *contact { return s.engine.Load() }

func (s *Server) met(p process) process {
	if was := s.engine.Load(); p.pid != 0 && (was == nil || was.process != p) {
		s.engine.Store(&contact{process: p, since: time.Now()})
	}
	return p
}

// NewServer makes a server that lets its callers wait until Ready was called.
func NewServer() *Server {
	return &Server{ready: make(chan struct{}), fatal: make(chan error, 1)}
}

// Ready lets the calls through to the driver.
func (s *Server) Ready(d *Driver) {
	s.driver = d
	close(s.ready)
}

// Fatal gives an error after which the process must end and be started again.
func (s *Server) Fatal() <-chan error { return s.fatal }

type engineKey struct{}

// Serve answers on a unix socket until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 30 * time.Second,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, engineKey{}, s.met(caller(c)))
		},
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// caller is the process at the other end of a unix socket: the engine.
func caller(c net.Conn) process {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return process{}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return process{}
	}
	var pid int
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return process{}
	}
	return look(pid)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/Plugin.Activate", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", sdk.DefaultContentTypeV1_1)
		if _, err := io.WriteString(w, manifest+"\n"); err != nil {
			log.Printf("answer the engine: %v", err)
		}
	})
	handle(s, mux, "Create", func(_ context.Context, r driver.CreateRequest) (any, error) {
		return struct{}{}, s.driver.create(r.Name, r.Options)
	})
	handle(s, mux, "Remove", func(_ context.Context, r driver.RemoveRequest) (any, error) {
		return struct{}{}, s.driver.remove(r.Name)
	})
	handle(s, mux, "Get", func(_ context.Context, r driver.GetRequest) (any, error) {
		v, status, err := s.driver.describe(r.Name)
		return driver.GetResponse{Volume: s.volume(v, status)}, err
	})
	handle(s, mux, "List", func(context.Context, struct{}) (any, error) {
		all, err := s.driver.list()
		out := driver.ListResponse{Volumes: []*driver.Volume{}}
		for _, v := range all {
			out.Volumes = append(out.Volumes, s.volume(v, nil))
		}
		return out, err
	})
	handle(s, mux, "Path", func(_ context.Context, r driver.PathRequest) (any, error) {
		path, err := s.driver.mountpoint(r.Name)
		return driver.PathResponse{Mountpoint: path}, err
	})
	handle(s, mux, "Mount", func(ctx context.Context, r driver.MountRequest) (any, error) {
		engine, _ := ctx.Value(engineKey{}).(process)
		path, err := s.driver.mount(ctx, r.Name, r.ID, engine)
		if errors.Is(err, errUnseen) {
			s.fail(err)
			err = errors.Join(errNotReady, err)
		}
		return driver.MountResponse{Mountpoint: path}, err
	})
	handle(s, mux, "Unmount", func(_ context.Context, r driver.UnmountRequest) (any, error) {
		s.driver.unmount(r.Name, r.ID)
		return struct{}{}, nil
	})
	handle(s, mux, "Capabilities", func(context.Context, struct{}) (any, error) {
		return driver.CapabilitiesResponse{Capabilities: driver.Capability{Scope: "local"}}, nil
	})
	return mux
}

func (s *Server) volume(v volume.Volume, status map[string]any) *driver.Volume {
	return &driver.Volume{
		Name: v.Name, Mountpoint: s.driver.points.path(v.Name),
		CreatedAt: v.Created.Format(time.RFC3339), Status: status,
	}
}

func (s *Server) fail(err error) {
	select {
	case s.fatal <- err:
	default: // it is failing already
	}
}

// handle serves one method of the protocol.
func handle[Request any](s *Server, mux *http.ServeMux, method string, do func(context.Context, Request) (any, error)) {
	mux.HandleFunc("/VolumeDriver."+method, func(w http.ResponseWriter, r *http.Request) {
		// A dropped connection is the only answer that an engine does not take
		// for a fact about the volume.
		drop := func() { panic(http.ErrAbortHandler) }
		var req Request
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestLimit))
		// An engine that calls again after a lost connection sends no body: it
		// has read it already (moby pkg/plugins/client.go). That matters where
		// there is something in it.
		if _, nothing := any(req).(struct{}); err == nil && nothing && len(body) == 0 {
			body = []byte("{}")
		}
		if err != nil || len(body) == 0 {
			drop()
		}
		if err := json.Unmarshal(body, &req); err != nil {
			sdk.EncodeResponse(w, driver.NewErrorResponse("read request: "+err.Error()), true)
			return
		}
		wait, cancel := context.WithTimeout(r.Context(), readyWait)
		defer cancel()
		select {
		case <-s.ready:
		case <-wait.Done():
			drop()
		}
		answer, err := do(r.Context(), req)
		switch {
		case errors.Is(err, errNotReady), r.Context().Err() != nil:
			drop()
		case err != nil:
			if !errors.Is(err, volume.ErrNotFound) { // engines ask every driver for every name
				log.Printf("%s: %v", method, err)
			}
			sdk.EncodeResponse(w, driver.NewErrorResponse(sentence(err)), true)
		default:
			sdk.EncodeResponse(w, answer, false)
		}
	})
}

// sentence is an error with its hint in one line, as the engine passes it on.
func sentence(err error) string {
	f := fault.From(err)
	if f.Hint == "" {
		return f.Error()
	}
	return f.Error() + " (hint: " + f.Hint + ")"
}
