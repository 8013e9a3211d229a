package engineapi

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/snaprestore/snaprestore/restore"
)

// composeLabels begins the labels by which Compose finds what is its own. It
// puts them on images that it builds, too.
const composeLabels = "com.docker.compose."

// CreateTwin implements restore.Engine.
func (c *Client) CreateTwin(ctx context.Context, t restore.Twin) (id string, err error) {
	err = c.call(ctx, "create container "+t.Name, func() error {
		of, err := c.api.ContainerInspect(ctx, t.Of)
		if err != nil {
			return err
		}
		if of.Config == nil || of.HostConfig == nil {
			return fmt.Errorf("the engine does not tell how container %s was made", t.Of)
		}
		labels := maps.Clone(t.Labels)
		image, err := c.api.ImageInspect(ctx, of.Image)
		if err != nil {
			return err
		}
		if image.Config != nil {
			for name := range image.Config.Labels {
				if _, own := labels[name]; !own && strings.HasPrefix(name, composeLabels) {
					labels[name] = ""
				}
			}
		}
		made, err := c.api.ContainerCreate(ctx, twinConfig(&of, labels, !container.NetworkMode(t.Network).IsContainer()), twinHost(of.HostConfig, t), twinNetwork(t), nil, t.Name)
		id = made.ID
		return err
	})
	return id, err
}

// twinConfig is what a twin runs: all that its original does. The host name is
// its own where the original's was made of its id, and that of the container
// whose network it shares.
func twinConfig(of *container.InspectResponse, labels map[string]string, alone bool) *container.Config {
	config := &container.Config{
		Image: of.Image, Labels: labels,
		Cmd: of.Config.Cmd, Entrypoint: of.Config.Entrypoint, Env: of.Config.Env, User: of.Config.User,
		WorkingDir: of.Config.WorkingDir, Healthcheck: of.Config.Healthcheck, Shell: of.Config.Shell,
		Tty: of.Config.Tty, OpenStdin: of.Config.OpenStdin,
		StopSignal: of.Config.StopSignal, StopTimeout: of.Config.StopTimeout,
	}
	if alone && !strings.HasPrefix(of.ID, of.Config.Hostname) {
		config.Hostname = of.Config.Hostname
	}
	return config
}

// twinHost keeps the limits and the protections of the original, and leaves out
// what leads to the host or to other containers.
func twinHost(of *container.HostConfig, t restore.Twin) *container.HostConfig {
	resources := of.Resources
	resources.Devices, resources.DeviceRequests, resources.DeviceCgroupRules, resources.CgroupParent = nil, nil, nil, ""
	resources.BlkioWeightDevice, resources.BlkioDeviceReadBps, resources.BlkioDeviceWriteBps = nil, nil, nil
	resources.BlkioDeviceReadIOps, resources.BlkioDeviceWriteIOps = nil, nil
	host := &container.HostConfig{
		Resources: resources, RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		NetworkMode: container.NetworkMode(t.Network), LogConfig: container.LogConfig{Type: "json-file", Config: logOptions},
		CapAdd: of.CapAdd, CapDrop: of.CapDrop, SecurityOpt: of.SecurityOpt, GroupAdd: of.GroupAdd,
		ReadonlyRootfs: of.ReadonlyRootfs, Sysctls: of.Sysctls, ShmSize: of.ShmSize, Init: of.Init, Runtime: of.Runtime,
		OomScoreAdj: of.OomScoreAdj, Tmpfs: of.Tmpfs, MaskedPaths: of.MaskedPaths, ReadonlyPaths: of.ReadonlyPaths,
	}
	own := map[string]mount.Mount{}
	for _, m := range of.Mounts {
		if m.Type == mount.TypeTmpfs {
			host.Mounts = append(host.Mounts, m)
		}
		own[m.Target] = m
	}
	for _, m := range t.Mounts {
		out := mount.Mount{Type: mount.Type(m.Type), Source: m.Name, Target: m.Target, ReadOnly: m.ReadOnly}
		if out.Type == mount.TypeBind {
			// What is mounted below it would not be read-only with it.
			out.Source, out.BindOptions = m.Source, &mount.BindOptions{NonRecursive: true}
		} else if m.Name != "" {
			out.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
			if o := own[m.Target].VolumeOptions; o != nil {
				out.VolumeOptions.Subpath = o.Subpath
			}
		}
		host.Mounts = append(host.Mounts, out)
	}
	return host
}

func twinNetwork(t restore.Twin) *network.NetworkingConfig {
	if len(t.Aliases) == 0 {
		return nil
	}
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{t.Network: {Aliases: t.Aliases}}}
}

// CreateNetwork implements restore.Engine: a bridge that routes nowhere.
func (c *Client) CreateNetwork(ctx context.Context, name string, labels map[string]string) error {
	return c.call(ctx, "create network "+name, func() error {
		_, err := c.api.NetworkCreate(ctx, name, network.CreateOptions{Driver: "bridge", Internal: true, Labels: labels})
		return err
	})
}

// RemoveNetwork implements restore.Engine.
func (c *Client) RemoveNetwork(ctx context.Context, name string) error {
	return c.call(ctx, "remove network "+name, func() error { return c.api.NetworkRemove(ctx, name) })
}

// Output implements restore.Engine.
func (c *Client) Output(ctx context.Context, id string, lines int) (last []string, err error) {
	err = c.call(ctx, "read the log of container "+id, func() error {
		in, err := c.api.ContainerInspect(ctx, id)
		if err != nil {
			return err
		}
		r, err := c.api.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(lines)})
		if err != nil {
			return err
		}
		defer r.Close()
		var text bytes.Buffer
		if in.Config != nil && in.Config.Tty {
			_, err = text.ReadFrom(r)
		} else {
			_, err = stdcopy.StdCopy(&text, &text, r)
		}
		last = slices.Collect(strings.Lines(text.String()))
		return err
	})
	return last, err
}

// reach names what a container has of the host beside its mounts.
func reach(h *container.HostConfig) (out []string) {
	add := func(has bool, what string) {
		if has {
			out = append(out, what)
		}
	}
	add(h.Privileged, "all privileges")
	add(h.NetworkMode.IsHost(), "the host's network")
	add(h.PidMode.IsHost(), "the host's processes")
	add(h.IpcMode.IsHost(), "the host's IPC")
	add(h.UTSMode.IsHost(), "the host's name")
	add(h.UsernsMode.IsHost(), "the host's users")
	add(slices.ContainsFunc(h.CapAdd, overHost), "capabilities over the host")
	add(h.PidMode.IsContainer() || h.IpcMode.IsContainer(), "the namespaces of another container")
	add(len(h.Devices) > 0 || len(h.DeviceRequests) > 0, "devices of the host")
	return out
}

// overHost tells whether a capability is over more than the container's own
// namespaces.
func overHost(name string) bool {
	switch strings.TrimPrefix(strings.ToUpper(name), "CAP_") {
	case "ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "DAC_READ_SEARCH":
		return true
	}
	return false
}

// ownNetwork is restore.Container's Network.
func ownNetwork(h *container.HostConfig) string {
	if h.NetworkMode.IsNone() || h.NetworkMode.IsContainer() {
		return string(h.NetworkMode)
	}
	return ""
}
