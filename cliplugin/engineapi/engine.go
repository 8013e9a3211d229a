package engineapi

import (
	"context"
	"runtime"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/volume"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/plan"
)

var _ restore.Engine = (*Client)(nil)

// architectures maps the machine names of uname, which the engine reports, to
// Go's.
var architectures = map[string]string{
	"x86_64":  "amd64",
	"aarch64": "arm64",
	"armv7l":  "arm",
	"armv6l":  "arm",
	"i686":    "386",
	"i386":    "386",
}

// Host implements restore.Engine.
func (c *Client) Host(ctx context.Context) (h restore.Host, err error) {
	info, err := c.info(ctx)
	if err != nil {
		return h, err
	}
	h = restore.Host{
		ID: info.ID, Name: info.Name, Version: info.ServerVersion,
		OS: info.OSType, Arch: info.Architecture,
		DataRoot: info.DockerRootDir, Driver: info.Driver,
		Swarm:       info.Swarm.LocalNodeState == swarm.LocalNodeStateActive,
		LiveRestore: info.LiveRestoreEnabled, VolumeDrivers: info.Plugins.Volume,
	}
	managed, err := c.volumePlugins(ctx)
	if err != nil {
		return h, err
	}
	h.VolumeDrivers = append(h.VolumeDrivers, managed...)
	if arch, ok := architectures[h.Arch]; ok {
		h.Arch = arch
	}
	for _, option := range info.SecurityOptions {
		for _, field := range strings.Split(option, ",") {
			switch field {
			case "name=rootless":
				h.Rootless = true
			case "name=userns":
				h.UserNamespace = true
			}
		}
	}
	return h, nil
}

func (c *Client) info(ctx context.Context) (info system.Info, err error) {
	err = c.call(ctx, "ask the engine about itself", func() (err error) {
		info, err = c.api.Info(ctx)
		return err
	})
	if err == nil {
		c.seen.Store(&info)
	}
	return info, err
}

// DefaultSocket is where an engine listens unless it was told otherwise.
const DefaultSocket = "/var/run/docker.sock"

// Socket is the path on the engine host where this engine probably listens:
// where the client finds it, if that is a path of the engine's own machine.
func (c *Client) Socket(ctx context.Context) (string, error) {
	path, unix := strings.CutPrefix(c.api.DaemonHost(), "unix://")
	if !unix || runtime.GOOS != "linux" {
		return DefaultSocket, nil
	}
	info := c.seen.Load() // it takes 30 ms to answer (measured)
	if info == nil {
		now, err := c.info(ctx)
		if err != nil {
			return "", err
		}
		info = &now
	}
	if info.OperatingSystem == "Docker Desktop" {
		return DefaultSocket, nil // the engine is in a virtual machine
	}
	return path, nil
}

// Containers implements restore.Engine.
func (c *Client) Containers(ctx context.Context) (all []restore.Container, err error) {
	list, err := c.list(ctx, "list containers", filters.Args{})
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		all = append(all, restore.Container{
			ID: s.ID, Name: ownName(s.Names), Image: s.Image, ImageID: s.ImageID,
			Labels: s.Labels, State: s.State, Mounts: mounts(s.Mounts),
		})
	}
	return all, nil
}

func (c *Client) list(ctx context.Context, what string, which filters.Args) (list []container.Summary, err error) {
	err = c.call(ctx, what, func() (err error) {
		list, err = c.api.ContainerList(ctx, container.ListOptions{All: true, Filters: which})
		return err
	})
	return list, err
}

// ownName picks the container's own name: legacy links add others, which have
// a second slash.
func ownName(names []string) string {
	for _, name := range names {
		if own := strings.TrimPrefix(name, "/"); !strings.Contains(own, "/") {
			return own
		}
	}
	return ""
}

func mounts(points []container.MountPoint) (all []restore.Mount) {
	for _, m := range points {
		all = append(all, restore.Mount{
			Type: string(m.Type), Name: m.Name, Source: m.Source,
			Target: m.Destination, Driver: m.Driver, ReadOnly: !m.RW,
		})
	}
	return all
}

// Container implements restore.Engine.
func (c *Client) Container(ctx context.Context, id string) (out restore.Container, err error) {
	var in container.InspectResponse
	err = c.call(ctx, "inspect container "+id, func() (err error) {
		in, err = c.api.ContainerInspect(ctx, id)
		return err
	})
	if err != nil {
		return out, err
	}
	out = restore.Container{
		ID: in.ID, Name: strings.TrimPrefix(in.Name, "/"), ImageID: in.Image,
		Mounts: mounts(in.Mounts),
	}
	if in.Config != nil {
		out.Image, out.Labels, out.StopTimeout = in.Config.Image, in.Config.Labels, in.Config.StopTimeout
		out.HealthCheck = checked(in.Config.Healthcheck)
	}
	if in.HostConfig != nil {
		out.AutoRemove = in.HostConfig.AutoRemove
		out.Policy = journal.Policy{
			Name:    string(in.HostConfig.RestartPolicy.Name),
			Retries: in.HostConfig.RestartPolicy.MaximumRetryCount,
		}
		if out.Policy.Name == "" {
			out.Policy.Name = string(container.RestartPolicyDisabled)
		}
		out.Mounts = append(out.Mounts, tmpfs(in.HostConfig)...)
		out.Network, out.Reach = ownNetwork(in.HostConfig), reach(in.HostConfig)
	}
	if s := in.State; s != nil {
		out.State, out.ExitCode = s.Status, s.ExitCode
		if out.HealthCheck && s.Health != nil && s.Health.Status != container.NoHealthcheck {
			out.Health = s.Health.Status
		}
		if t, err := time.Parse(time.RFC3339Nano, s.StartedAt); err == nil && t.Year() > 1 {
			out.StartedAt = t
		}
		if t, err := time.Parse(time.RFC3339Nano, s.FinishedAt); err == nil && t.Year() > 1 {
			out.FinishedAt = t
		}
	}
	return out, nil
}

// checked reports whether a health check is configured and not switched off.
// An image's check is in the container's own configuration too.
func checked(h *container.HealthConfig) bool {
	return h != nil && len(h.Test) > 0 && h.Test[0] != "NONE"
}

// tmpfs gives the mounts of --tmpfs, which the engine does not list with the
// others.
func tmpfs(h *container.HostConfig) (all []restore.Mount) {
	for target := range h.Tmpfs {
		all = append(all, restore.Mount{Type: string(mount.TypeTmpfs), Target: target})
	}
	return all
}

// Volumes implements restore.Engine.
func (c *Client) Volumes(ctx context.Context) (all []restore.Volume, err error) {
	var list volume.ListResponse
	err = c.call(ctx, "list volumes", func() (err error) {
		list, err = c.api.VolumeList(ctx, volume.ListOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, v := range list.Volumes {
		all = append(all, volumeOf(*v))
	}
	return all, nil
}

// Volume implements restore.Engine.
func (c *Client) Volume(ctx context.Context, name string) (restore.Volume, error) {
	var v volume.Volume
	err := c.call(ctx, "inspect volume "+name, func() (err error) {
		v, err = c.api.VolumeInspect(ctx, name)
		return err
	})
	return volumeOf(v), err
}

func volumeOf(v volume.Volume) restore.Volume {
	return restore.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint,
		Labels: v.Labels, Options: v.Options, Scope: v.Scope,
	}
}

// CreateVolume implements restore.Engine.
func (c *Client) CreateVolume(ctx context.Context, v plan.CreateVolume) (restore.Volume, error) {
	var made volume.Volume
	err := c.call(ctx, "create volume "+v.Name, func() (err error) {
		made, err = c.api.VolumeCreate(ctx, volume.CreateOptions{
			Name: v.Name, Driver: v.Driver, Labels: v.Labels, DriverOpts: v.Options,
		})
		return err
	})
	return volumeOf(made), err
}

// RemoveVolume implements restore.Engine.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.call(ctx, "remove volume "+name, func() error { return c.api.VolumeRemove(ctx, name, false) })
}

// Image implements restore.Engine.
func (c *Client) Image(ctx context.Context, ref string) (img restore.Image, err error) {
	err = c.call(ctx, "inspect image "+ref, func() error {
		in, err := c.api.ImageInspect(ctx, ref)
		img = restore.Image{ID: in.ID, Tags: in.RepoTags, Digests: in.RepoDigests}
		return err
	})
	return img, err
}

// Stop implements restore.Engine. The engine answers 304 for a container that
// is stopped, which its client takes for success.
func (c *Client) Stop(ctx context.Context, id string, grace *int) error {
	return c.call(ctx, "stop container "+id, func() error {
		return c.api.ContainerStop(ctx, id, container.StopOptions{Timeout: grace})
	})
}

// Start implements restore.Engine.
func (c *Client) Start(ctx context.Context, id string) error {
	return c.call(ctx, "start container "+id, func() error {
		return c.api.ContainerStart(ctx, id, container.StartOptions{})
	})
}

// Pause implements restore.Engine.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.freeze(ctx, "pause", id, container.StatePaused, c.api.ContainerPause)
}

// Unpause implements restore.Engine.
func (c *Client) Unpause(ctx context.Context, id string) error {
	return c.freeze(ctx, "unpause", id, container.StateRunning, c.api.ContainerUnpause)
}

// freeze runs f, which the engine refuses where its work is done already (with
// 409 or 500, depending on the version): then the container's state decides.
// The state is taken from the list, since an inspection can hang.
func (c *Client) freeze(ctx context.Context, verb, id, wanted string, f func(context.Context, string) error) error {
	err := c.call(ctx, verb+" container "+id, func() error { return f(ctx, id) })
	if err == nil || Unreachable(err) || ctx.Err() != nil {
		return err
	}
	list, listErr := c.list(ctx, "list containers", filters.NewArgs(filters.Arg("id", id)))
	if listErr == nil && len(list) == 1 && list[0].State == wanted {
		return nil
	}
	return err
}

// SetPolicy implements restore.Engine.
func (c *Client) SetPolicy(ctx context.Context, id string, p journal.Policy) error {
	return c.call(ctx, "set restart policy of container "+id, func() error {
		_, err := c.api.ContainerUpdate(ctx, id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{
			Name: container.RestartPolicyMode(p.Name), MaximumRetryCount: p.Retries,
		}})
		return err
	})
}
