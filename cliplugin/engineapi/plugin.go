package engineapi

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/filters"
)

// Plugin is a managed plugin of the engine.
type Plugin struct {
	Name    string // with its tag
	Enabled bool
	// Build is what its maker called its contents.
	Build string
	// Binds are the host's directories that it sees.
	Binds []string
}

// PluginSpec is a volume driver to be made a managed plugin: one static
// program that sees the host's processes and these of its directories.
type PluginSpec struct {
	Name, Description, Build string
	Program                  []byte   // static binary
	Entrypoint               []string // its absolute path, and arguments
	Socket                   string   // name below /run/docker/plugins
	Mounts                   string   // directory whose mounts the engine sees
	Capabilities             []string // with CAP_
	Binds                    []string // directories of the host, at their own paths
}

// buildVariable carries PluginSpec.Build in the plugin's environment.
const buildVariable = "SNAPRESTORE_BUILD"

// Plugin inspects a managed plugin; ErrNoSuch where there is none.
func (c *Client) Plugin(ctx context.Context, name string) (out Plugin, err error) {
	err = c.call(ctx, "inspect plugin "+name, func() error {
		p, _, err := c.api.PluginInspectWithRaw(ctx, name)
		if err != nil {
			return err
		}
		out = Plugin{Name: p.Name, Enabled: p.Enabled}
		for _, env := range p.Config.Env {
			if env.Name == buildVariable && env.Value != nil {
				out.Build = *env.Value
			}
		}
		for _, m := range p.Config.Mounts {
			if m.Source != nil {
				out.Binds = append(out.Binds, *m.Source)
			}
		}
		return nil
	})
	return out, err
}

// volumePlugins names the managed plugins that serve volumes. An engine's
// description of itself has only those of the other kind (moby
// volume/drivers/extpoint.go, GetDriver keeps no managed plugin).
func (c *Client) volumePlugins(ctx context.Context) (names []string, err error) {
	err = c.call(ctx, "list plugins", func() error {
		all, err := c.api.PluginList(ctx, filters.NewArgs(filters.Arg("capability", "volumedriver"), filters.Arg("enabled", "true")))
		for _, p := range all {
			names = append(names, p.Name)
		}
		return err
	})
	return names, err
}

// CreatePlugin makes a managed plugin, disabled.
func (c *Client) CreatePlugin(ctx context.Context, spec PluginSpec) error {
	return c.call(ctx, "create plugin "+spec.Name, func() error {
		r, w := io.Pipe()
		go func() { w.CloseWithError(spec.archive(w)) }()
		defer r.Close()
		return c.api.PluginCreate(ctx, r, types.PluginCreateOptions{RepoName: spec.Name})
	})
}

// EnablePlugin starts a plugin. Timeout bounds this and every later call of
// the engine to it.
func (c *Client) EnablePlugin(ctx context.Context, name string, timeout time.Duration) error {
	return c.call(ctx, "enable plugin "+name, func() error {
		return c.api.PluginEnable(ctx, name, types.PluginEnableOptions{Timeout: int(timeout / time.Second)})
	})
}

// DisablePlugin stops a plugin, with force though volumes of it are in use.
func (c *Client) DisablePlugin(ctx context.Context, name string, force bool) error {
	return c.call(ctx, "disable plugin "+name, func() error {
		return c.api.PluginDisable(ctx, name, types.PluginDisableOptions{Force: force})
	})
}

// RemovePlugin removes a disabled plugin, with force though volumes of it are
// in use.
func (c *Client) RemovePlugin(ctx context.Context, name string, force bool) error {
	return c.call(ctx, "remove plugin "+name, func() error {
		return c.api.PluginRemove(ctx, name, types.PluginRemoveOptions{Force: force})
	})
}

// archive writes the form that the engine makes a plugin of: config.json and
// the folder rootfs.
func (s *PluginSpec) archive(w io.Writer) error {
	config, err := json.Marshal(s.config())
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	write := func(h *tar.Header, data []byte) error {
		h.ModTime, h.Format, h.Size = time.Unix(0, 0), tar.FormatUSTAR, int64(len(data))
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("write plugin: %w", err)
		}
		_, err := t.Write(data)
		return err
	}
	if err := write(&tar.Header{Typeflag: tar.TypeReg, Name: "config.json", Mode: 0o644}, config); err != nil {
		return err
	}
	if err := write(&tar.Header{Typeflag: tar.TypeDir, Name: "rootfs/", Mode: 0o755}, nil); err != nil {
		return err
	}
	for _, dir := range parents(append([]string{s.Entrypoint[0], path.Join(s.Mounts, "x")}, s.targets()...)) {
		if err := write(&tar.Header{Typeflag: tar.TypeDir, Name: "rootfs" + dir + "/", Mode: 0o755}, nil); err != nil {
			return err
		}
	}
	if err := write(&tar.Header{Typeflag: tar.TypeReg, Name: "rootfs" + s.Entrypoint[0], Mode: 0o755}, s.Program); err != nil {
		return err
	}
	return t.Close()
}

// targets are the directories that the engine binds over.
func (s *PluginSpec) targets() (out []string) {
	for _, dir := range s.Binds {
		out = append(out, path.Join(dir, "x"))
	}
	return append(out, "/run/docker/plugins/x")
}

// parents lists the directories that hold these paths, outermost first, each
// once.
func parents(paths []string) (dirs []string) {
	seen := map[string]bool{}
	for _, p := range paths {
		parts := strings.Split(strings.Trim(path.Dir(p), "/"), "/")
		for i := range parts {
			dir := "/" + strings.Join(parts[:i+1], "/")
			if dir != "/" && !seen[dir] {
				seen[dir] = true
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

func (s *PluginSpec) config() types.PluginConfig {
	build := s.Build
	config := types.PluginConfig{
		Description: s.Description,
		Entrypoint:  s.Entrypoint,
		WorkDir:     "/",
		Interface: types.PluginConfigInterface{
			Socket: s.Socket,
			Types:  []types.PluginInterfaceType{{Prefix: "docker", Capability: "volumedriver", Version: "1.0"}},
		},
		// A plugin without a kind of network has a namespace of its own and
		// nothing in it. "none" would bind two files of the host besides.
		Network:         types.PluginConfigNetwork{},
		PidHost:         true,
		PropagatedMount: s.Mounts,
		Linux:           types.PluginConfigLinux{Capabilities: s.Capabilities},
		Env:             []types.PluginEnv{{Name: buildVariable, Value: &build}},
		Mounts:          []types.PluginMount{},
	}
	for i, dir := range s.Binds {
		config.Mounts = append(config.Mounts, types.PluginMount{
			Name: fmt.Sprintf("state%d", i), Description: "data of the volumes", Type: "bind",
			Source: &dir, Destination: dir, Options: []string{"rbind", "rw"},
		})
	}
	return config
}
