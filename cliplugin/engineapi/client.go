package engineapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// MinimumAPI is the oldest API that works: that of Engine 20.10.
const MinimumAPI = "1.41"

// retryInterval is how long a patient client waits between two tries.
const retryInterval = 200 * time.Millisecond

// Client is a connection to one engine. It is safe for concurrent use.
type Client struct {
	api        client.APIClient
	patience   time.Duration
	negotiated atomic.Bool
	seen       atomic.Pointer[system.Info] // what the engine last said of itself
}

// Option changes how a Client behaves.
type Option func(*Client)

// Patient makes a call that cannot reach the engine try again until the engine
// is back, for at most d a call. An agent needs it: it outlives engine restarts.
func Patient(d time.Duration) Option { return func(c *Client) { c.patience = d } }

// New uses a connection that exists, such as that of docker/cli, which knows
// contexts and ssh.
func New(api client.APIClient, opts ...Option) *Client {
	c := &Client{api: api}
	for _, o := range opts {
		o(c)
	}
	return c
}

// Dial makes a connection to a unix socket of this machine. Nothing is sent
// before the first call.
func Dial(socket string, opts ...Option) (*Client, error) {
	api, err := client.NewClientWithOpts(client.WithHost("unix://"+socket), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("open engine socket %s: %w", socket, err)
	}
	return New(api, opts...), nil
}

// Close lets idle connections go.
func (c *Client) Close() error { return c.api.Close() }

// call runs f and translates its error; verb and object say what f does.
func (c *Client) call(ctx context.Context, what string, request func() error) error {
	f := func() error {
		if err := c.negotiate(ctx); err != nil {
			return err
		}
		return request()
	}
	err := f()
	for deadline := time.Now().Add(c.patience); err != nil && lost(err) && time.Now().Before(deadline); err = f() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(retryInterval):
		}
	}
	return c.translate(what, err)
}

// lost reports whether err says that the engine could not be reached, or went
// away before it had answered.
func lost(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || denied(err) {
		return false
	}
	var op *net.OpError
	var u *url.Error
	return client.IsErrConnectionFailed(err) || errors.As(err, &op) || errors.As(err, &u) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// denied reports whether this user may not open the engine's socket. The
// docker client keeps only the text of the cause for some transports.
func denied(err error) bool {
	return errors.Is(err, syscall.EACCES) || (client.IsErrConnectionFailed(err) && strings.Contains(err.Error(), "permission denied"))
}

// unanswered reports whether the engine failed since a volume driver did not
// answer it. An engine has no status for that, but names the call in the text
// of its HTTP client, and knows no driver that it has not started again yet
// (moby pkg/plugins/client.go, pkg/plugins/errors.go; measured, 20.10 and 28.5).
func unanswered(err error) bool {
	text := err.Error()
	return strings.Contains(text, "/VolumeDriver.") ||
		strings.Contains(text, "error looking up volume plugin") && strings.Contains(text, "not found")
}

// remains reports whether a start failed since runc found a directory of an
// earlier one, which was killed before it had written its state. The engine
// then has runc delete it by force (runc delete.go, ErrNotExist; measured,
// 28.5). The words are those of runc 1.1 and of the versions before it.
func remains(err error) bool {
	text := err.Error()
	return strings.Contains(text, "container with given ID already exists") || strings.Contains(text, "container with id exists")
}

// stuck reports whether a start failed since containerd has a directory of an
// earlier one, which was killed. No start takes that away, nor does an engine
// that is started again: containerd does, some five seconds later where it has a
// process of that start to wait for (measured, 28.5), else when it is started
// again (measured, 20.10 and 28.5). Or it still has the task of a container that
// its engine was killed in stopping, as long as the shim runs (measured, 28.5).
func stuck(err error) bool {
	text := err.Error()
	return strings.Contains(text, "/io.containerd.runtime.v") && strings.Contains(text, "file exists") ||
		strings.Contains(text, "failed to create task for container") && strings.Contains(text, ": already exists")
}

// Unreachable reports whether err says that the engine could not be reached
// or went away.
func Unreachable(err error) bool { return errors.Is(err, restore.ErrUnreachable) }

func (c *Client) translate(what string, err error) error {
	var f *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", what, err)
	case errors.As(err, &f):
		return err
	case unanswered(err): // before what was not found: that may be the driver
		return fmt.Errorf("%s: %w: %w", what, restore.ErrDriver, oneLine(err))
	case remains(err):
		return fmt.Errorf("%s: %w: %w", what, restore.ErrRemains, oneLine(err))
	case stuck(err):
		return fmt.Errorf("%s: %w: %w (they go when containerd is started again: systemctl restart containerd)", what, restore.ErrRemains, oneLine(err))
	case cerrdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %w", what, restore.ErrNoSuch, err)
	case denied(err):
		return fault.New(fault.Failed, "%s: %w", what, oneLine(err)).
			WithState("nothing was changed").
			WithHint("use an account that may use the engine: sudo, or a member of the socket's group")
	case lost(err):
		return fault.New(fault.Failed, "%s: %w", what, unreachable{oneLine(err)}).
			WithHint("start the engine, or name another one: docker context ls, docker --context NAME snaprestore ...")
	case strings.Contains(err.Error(), "client version") && strings.Contains(err.Error(), "too old"):
		return fault.New(fault.Failed, "%s: %w", what, oneLine(err)).
			WithState("nothing was changed").
			WithHint("the engine is newer than this build speaks: install a newer docker-snaprestore")
	}
	return fmt.Errorf("%s: %w", what, oneLine(err))
}

// unreachable is restore.ErrUnreachable with the text of its cause.
type unreachable struct{ error }

func (u unreachable) Is(target error) bool { return target == restore.ErrUnreachable }
func (u unreachable) Unwrap() error        { return u.error }

// line is an error whose text was made one line.
type line struct {
	text  string
	cause error
}

func (l line) Error() string { return l.text }
func (l line) Unwrap() error { return l.cause }

// oneLine makes the text of an engine's error fit one line of ours.
func oneLine(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	text = strings.TrimPrefix(text, "Error response from daemon: ")
	text = strings.TrimSuffix(text, ".")
	if text == err.Error() {
		return err
	}
	return line{text, err}
}

// CheckVersion connects, and refuses an engine that is older than MinimumAPI.
func (c *Client) CheckVersion(ctx context.Context) error {
	return c.call(ctx, "connect to the engine", func() error {
		_, err := c.api.Ping(ctx)
		return err
	})
}

// negotiate settles the API's version once. The docker client would do that
// itself, but where its question got no answer it goes on with the newest
// version: an engine that comes up in between then refuses the request.
func (c *Client) negotiate(ctx context.Context) error {
	if c.negotiated.Load() {
		return nil
	}
	ping, err := c.api.Ping(ctx)
	if err != nil {
		return err
	}
	if ping.APIVersion == "" || versions.LessThan(ping.APIVersion, MinimumAPI) {
		return fault.New(fault.Failed, "connect to the engine: its API %q is too old, %s is the oldest that works", ping.APIVersion, MinimumAPI).
			WithState("nothing was changed").
			WithHint("install Docker Engine 20.10 or newer")
	}
	c.api.NegotiateAPIVersionPing(ping)
	c.negotiated.Store(true)
	return nil
}
