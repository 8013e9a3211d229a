package engineapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/snaprestore/snaprestore/restore"
)

// ContainerSpec is a container that runs a program of ours: no network, a
// read-only root, no capability but the named ones, the host's process and
// user namespaces, standard input open for one client.
type ContainerSpec struct {
	Name, Image  string
	Entrypoint   []string
	Env          []string // NAME=value
	Labels       map[string]string
	Capabilities []string // names without CAP_
	Binds        []Bind
	// Durable containers are started again by the engine after a failure and
	// after its own restart, keep the tail of their output for Logs, and stay
	// until they are removed. Others go away when they end.
	Durable bool
}

// Bind is a directory of the engine host in a container. It must exist.
type Bind struct {
	Source, Target string
	// Alone leaves mounts below Source out.
	Alone bool
}

// ErrNoSource says that a bind's source is not on the engine host.
var ErrNoSource = errors.New("no such directory on the engine host")

// logOptions bound what is kept of a durable container's output. Two files,
// since the engine empties a single one when it is full.
var logOptions = map[string]string{"max-size": "1m", "max-file": "2"}

// CreateContainer makes a container and gives its id. A missing image is
// ErrNoSuch, a missing source of a bind ErrNoSource.
func (c *Client) CreateContainer(ctx context.Context, spec ContainerSpec) (id string, err error) {
	config := &container.Config{
		Image: spec.Image, Entrypoint: spec.Entrypoint, Env: spec.Env, Labels: spec.Labels,
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
		OpenStdin: true, StdinOnce: true,
	}
	host := &container.HostConfig{
		NetworkMode: "none", IpcMode: container.IPCModeNone, PidMode: "host", UsernsMode: "host",
		ReadonlyRootfs: true, CapDrop: []string{"ALL"}, CapAdd: spec.Capabilities,
		// The default profile of AppArmor forbids to look at another process's
		// namespaces, and the labels of SELinux keep a container to volumes of
		// its own.
		SecurityOpt:   []string{"no-new-privileges", "apparmor=unconfined", "label=disable"},
		LogConfig:     container.LogConfig{Type: "none"},
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		AutoRemove:    !spec.Durable,
	}
	if spec.Durable {
		host.RestartPolicy.Name = container.RestartPolicyOnFailure
		host.LogConfig = container.LogConfig{Type: "json-file", Config: logOptions}
	}
	for _, b := range spec.Binds {
		host.Mounts = append(host.Mounts, mount.Mount{
			Type: mount.TypeBind, Source: b.Source, Target: b.Target,
			BindOptions: &mount.BindOptions{NonRecursive: b.Alone},
		})
	}
	err = c.call(ctx, "create container "+spec.Name, func() error {
		made, err := c.api.ContainerCreate(ctx, config, host, nil, nil, spec.Name)
		id = made.ID
		return err
	})
	if err != nil && strings.Contains(err.Error(), "bind source path does not exist") {
		// The text since Engine 17.06; the status is that of any bad input.
		return "", fmt.Errorf("%w: %w", ErrNoSource, err)
	}
	return id, err
}

// Stream is the attached standard streams of a container. Writing goes to its
// standard input.
type Stream interface {
	io.Writer
	// CloseWrite ends the container's standard input.
	CloseWrite() error
	// Copy writes what the container says to stdout and stderr until the
	// container ends or the connection does; it cannot tell which.
	Copy(stdout, stderr io.Writer) error
	// Close drops the connection; the container goes on.
	Close()
}

// Attach connects to a container's standard streams, before it is started.
func (c *Client) Attach(ctx context.Context, id string) (Stream, error) {
	s := &attached{}
	err := c.call(ctx, "attach to container "+id, func() (err error) {
		s.HijackedResponse, err = c.api.ContainerAttach(ctx, id, container.AttachOptions{
			Stream: true, Stdin: true, Stdout: true, Stderr: true,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// attached is a Stream on a connection of its own. Closing is the
// connection's.
type attached struct{ types.HijackedResponse }

func (s *attached) Write(p []byte) (int, error) { return s.Conn.Write(p) }

func (s *attached) Copy(stdout, stderr io.Writer) error {
	if _, err := stdcopy.StdCopy(stdout, stderr, s.Reader); err != nil {
		return fmt.Errorf("read from container: %w", err)
	}
	return nil
}

// Logs writes what the engine kept of a durable container's standard error.
func (c *Client) Logs(ctx context.Context, id string, stderr io.Writer) error {
	return c.call(ctx, "read the log of container "+id, func() error {
		r, err := c.api.ContainerLogs(ctx, id, container.LogsOptions{ShowStderr: true})
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = stdcopy.StdCopy(io.Discard, stderr, r)
		return err
	})
}

// State gives a container's state: created, running, paused, restarting,
// exited, dead, removing.
func (c *Client) State(ctx context.Context, id string) (string, error) {
	list, err := c.list(ctx, "find container "+id, filters.NewArgs(filters.Arg("id", id)))
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("find container %s: %w", id, restore.ErrNoSuch)
	}
	return list[0].State, nil
}

// RemoveContainer implements restore.Engine: one that is gone, or being removed,
// is no error.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	err := c.call(ctx, "remove container "+id, func() error {
		return c.api.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
	if err != nil && !errors.Is(err, restore.ErrNoSuch) {
		if _, gone := c.State(ctx, id); errors.Is(gone, restore.ErrNoSuch) {
			return nil
		}
		if state, stateErr := c.State(ctx, id); stateErr == nil && state == container.StateRemoving {
			return nil
		}
		return err
	}
	return nil
}

// Ended lists containers with a label that ended, or were never started, at
// least age ago by the engine's own clock.
func (c *Client) Ended(ctx context.Context, label string, age time.Duration) (ids []string, err error) {
	list, err := c.list(ctx, "list ended containers", filters.NewArgs(filters.Arg("label", label),
		filters.Arg("status", container.StateExited), filters.Arg("status", container.StateCreated),
		filters.Arg("status", container.StateDead)))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	info, err := c.info(ctx)
	if err != nil {
		return nil, err
	}
	now, err := time.Parse(time.RFC3339Nano, info.SystemTime)
	if err != nil {
		return nil, fmt.Errorf("read the engine's clock: %w", err)
	}
	for _, s := range list {
		in, err := c.api.ContainerInspect(ctx, s.ID)
		if err != nil || in.State == nil {
			continue // went away meanwhile
		}
		since, err := time.Parse(time.RFC3339Nano, in.State.FinishedAt)
		if err != nil || since.Year() <= 1 {
			since = time.Unix(s.Created, 0)
		}
		if now.Sub(since) >= age {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}
