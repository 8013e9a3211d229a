package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Engine is what a Client needs of an engine: *engineapi.Client.
type Engine interface {
	CheckVersion(ctx context.Context) error
	Host(ctx context.Context) (restore.Host, error)
	Socket(ctx context.Context) (string, error)

	HasImage(ctx context.Context, ref string) (bool, error)
	LoadImage(ctx context.Context, archive func() io.Reader) error
	ImageTags(ctx context.Context, repository string) ([]string, error)
	RemoveImage(ctx context.Context, ref string) error

	CreateContainer(ctx context.Context, spec engineapi.ContainerSpec) (string, error)
	Attach(ctx context.Context, id string) (engineapi.Stream, error)
	Start(ctx context.Context, id string) error
	State(ctx context.Context, id string) (string, error)
	Logs(ctx context.Context, id string, stderr io.Writer) error
	RemoveContainer(ctx context.Context, id string) error
	Ended(ctx context.Context, label string, age time.Duration) ([]string, error)
}

// Client runs agents on one engine.
type Client struct {
	engine Engine
	// socket is the engine's socket on its host, "" to find out.
	socket string
	// binary finds the agent's program.
	binary func(restore.Host) (executable, error)
	// patience is how long an engine that went away is waited for.
	patience time.Duration
	// leftoverAge is how long an ended agent is left for its own client to
	// read.
	leftoverAge  time.Duration
	capabilities []string
	// settling is how long an agent must have been ended before it counts as
	// ended for good: an engine that starts finds its containers ended, and
	// starts them again a moment later.
	settling time.Duration
}

// NewClient runs agents through an engine's API.
func NewClient(engine Engine) *Client {
	return &Client{
		engine: engine, socket: os.Getenv(EnvSocket), binary: binaryFor,
		patience: 3 * time.Minute, leftoverAge: time.Minute, capabilities: capabilities,
		settling: 5 * time.Second,
	}
}

// Do runs one agent and gives its result, or the fault that it ended with.
//
// Until the agent begins an operation the end of ctx undoes everything; from
// then on the agent goes on by itself, and Do returns an Interrupted fault
// that says how to follow it.
func (c *Client) Do(ctx context.Context, req Request, h Handlers) (json.RawMessage, error) {
	if _, known := verbs[req.Verb]; !known {
		return nil, fault.New(fault.Failed, "run agent: no verb %q", req.Verb)
	}
	if req.traits().operation && req.Operation == "" && req.Verb != Recover {
		req.Operation = journal.NewID()
	}
	if list, ok := c.direct(ctx, req); ok {
		return list, nil
	}
	result, err := c.do(ctx, req, h, nil)
	if f := fault.From(err); f != nil && len(f.Mounts) > 0 {
		// The agent has found out what else of the host it has to see.
		return c.do(ctx, req, h, f.Mounts)
	}
	return result, err
}

// do runs one agent that sees these directories of the host.
func (c *Client) do(ctx context.Context, req Request, h Handlers, mounts []string) (json.RawMessage, error) {
	run := newRun(c, req, h)
	run.mounts = mounts
	if err := run.launch(ctx); err != nil {
		return nil, untouched(run.stopped(ctx, err))
	}
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		c.sweep(ctx, run.image.Reference)
	}()
	result, err := run.watch(ctx)
	<-swept
	return result, err
}

// untouched says of an error before the agent ran that nothing was changed.
func untouched(err error) error {
	f := fault.From(err)
	if f.State == "" && !strings.Contains(f.Message, "nothing was changed") {
		f = f.WithState("nothing was changed")
	}
	return f
}

// launch makes and starts the agent's container, attached to.
func (r *run) launch(ctx context.Context) error {
	e := r.client.engine
	if err := e.CheckVersion(ctx); err != nil {
		return err
	}
	host, err := e.Host(ctx)
	if err != nil {
		return err
	}
	binary, err := r.client.binary(host)
	if err != nil {
		return err
	}
	r.image = newImage(host.Arch, binary)
	if err := r.create(ctx, host); err != nil {
		return err
	}
	if r.stream, err = e.Attach(ctx, r.id); err != nil {
		r.remove(ctx)
		return err
	}
	if err := e.Start(ctx, r.id); err != nil {
		r.stream.Close()
		r.remove(ctx)
		return err
	}
	return nil
}

// createAttempts bounds how often a container is made of an image that is not
// there, which is loaded then: somebody else, who cleans up after another version,
// may remove it at once.
const createAttempts = 4

func (r *run) create(ctx context.Context, host restore.Host) error {
	e := r.client.engine
	sockets, err := r.client.sockets(ctx)
	if err != nil {
		return err
	}
	request, err := json.Marshal(r.request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if len(request) > requestLimit {
		return fault.New(fault.Failed, "the request is %d bytes long, at most %d are possible", len(request), requestLimit).
			WithHint("name fewer or shorter labels, volumes or containers")
	}
	name := "snaprestore-" + string(r.request.Verb) + "-" + journal.NewID()
	for attempt := 1; ; attempt++ {
		r.id, err = e.CreateContainer(ctx, r.spec(name, host, sockets[0], string(request)))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, engineapi.ErrNoSource) && len(sockets) > 1:
			sockets = sockets[1:]
		case errors.Is(err, engineapi.ErrNoSource):
			return wrongSocket("the engine host has no directory %s", path.Dir(sockets[0]))
		case errors.Is(err, restore.ErrNoSuch) && attempt < createAttempts:
			// The image is not there yet, or not any more.
			if err := r.image.load(ctx, e); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// wrongSocket is the fault of an engine whose socket is not where it was
// looked for.
func wrongSocket(format string, args ...any) error {
	return fault.New(fault.Failed, "find the engine's socket: "+format, args...).WithState("nothing was changed").
		WithHint("set %s to the path of the engine's socket on the engine host, e.g. %s", EnvSocket, engineapi.DefaultSocket)
}

// sockets are the places on the engine host where its socket may be, the
// likeliest first.
func (c *Client) sockets(ctx context.Context) ([]string, error) {
	if c.socket != "" {
		if !path.IsAbs(c.socket) {
			return nil, wrongSocket("%q is not an absolute path", c.socket)
		}
		return []string{path.Clean(c.socket)}, nil
	}
	socket, err := c.engine.Socket(ctx)
	if err != nil {
		return nil, err
	}
	if socket == engineapi.DefaultSocket {
		return []string{socket}, nil
	}
	return []string{socket, engineapi.DefaultSocket}, nil
}

func (r *run) spec(name string, host restore.Host, socket, request string) engineapi.ContainerSpec {
	labels := map[string]string{LabelAgent: string(r.request.Verb)}
	if r.request.Operation != "" {
		labels[LabelOperation] = r.request.Operation
	}
	mounts, err := json.Marshal(append([]string{}, r.mounts...))
	if err != nil {
		panic(err) // strings are always encoded
	}
	binds := []engineapi.Bind{
		// One mount, so that renames between volumes and the state root stay
		// inside it. The engine makes it a slave of the host's.
		{Source: host.DataRoot, Target: host.DataRoot},
		{Source: path.Dir(socket), Target: socketDir, Alone: true},
	}
	for _, m := range r.mounts {
		binds = append(binds, engineapi.Bind{Source: m, Target: m})
	}
	return engineapi.ContainerSpec{
		Name: name, Image: r.image.Reference, Labels: labels,
		Entrypoint: []string{program, Argument},
		Env: []string{
			envRequest + "=" + request,
			envRoot + "=" + path.Join(host.DataRoot, stateDirectory),
			envEngine + "=" + host.ID,
			envDataRoot + "=" + host.DataRoot,
			EnvSocket + "=" + path.Join(socketDir, path.Base(socket)),
			envSelf + "=" + name,
			envMounts + "=" + string(mounts),
		},
		Capabilities: r.client.capabilities,
		Binds:        binds,
		Durable:      r.traits.operation,
	}
}

// cleanupTimeout bounds what is done for tidiness only.
const cleanupTimeout = 10 * time.Second

// sweep removes ended agents whose clients died, and images of other builds
// that no container uses. What it cannot remove waits for the next time.
func (c *Client) sweep(ctx context.Context, current string) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	ended, err := c.engine.Ended(ctx, LabelAgent, c.leftoverAge)
	if err != nil {
		return
	}
	for _, id := range ended {
		if c.engine.RemoveContainer(ctx, id) != nil {
			return
		}
	}
	tags, err := c.engine.ImageTags(ctx, repository)
	if err != nil {
		return
	}
	for _, tag := range tags {
		if strings.HasPrefix(tag, repository+":") && tag != current {
			// One that is in use is refused by the engine.
			_ = c.engine.RemoveImage(ctx, tag)
		}
	}
}
