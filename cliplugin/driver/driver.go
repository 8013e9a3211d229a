// Package driver puts the volume driver onto an engine as a managed plugin,
// and takes it away, through the Engine API alone.
//
// The plugin is made of the same static binary that agents are. It holds no
// data: the volumes lie in the state root, which outlives it, so a plugin is
// replaced by removing it and making another one under its name. A client that
// dies between the two leaves volumes that no container can mount until install
// is run again, and nothing else.
package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/build"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// Engine is what is needed of an engine: *engineapi.Client.
type Engine interface {
	Host(ctx context.Context) (restore.Host, error)
	Plugin(ctx context.Context, name string) (engineapi.Plugin, error)
	CreatePlugin(ctx context.Context, spec engineapi.PluginSpec) error
	EnablePlugin(ctx context.Context, name string, timeout time.Duration) error
	DisablePlugin(ctx context.Context, name string, force bool) error
	RemovePlugin(ctx context.Context, name string, force bool) error
	Containers(ctx context.Context) ([]restore.Container, error)
	Volumes(ctx context.Context) ([]restore.Volume, error)
	RemoveVolume(ctx context.Context, name string) error
}

// Change says what an installation did.
type Change string

// The changes.
const (
	Installed Change = "installed"
	Replaced  Change = "replaced"
	Enabled   Change = "enabled"
	Kept      Change = "kept" // this build ran already
)

// Spec is the plugin made of a static binary, for the state root root.
func Spec(program []byte, root string) engineapi.PluginSpec {
	sum := sha256.Sum256(program)
	return engineapi.PluginSpec{
		Name:        volume.Driver,
		Description: "Volumes that docker snaprestore restores, version " + build.Version,
		Build:       hex.EncodeToString(sum[:6]),
		Program:     program,
		Entrypoint: []string{"/" + volume.Program, volume.ManagedFlag,
			volume.RootFlag, root, volume.MountsFlag, volume.ManagedMounts, volume.WorkFlag, volume.ManagedWork,
			volume.SocketFlag, path.Join(volume.SocketFolder, volume.SocketName)},
		Socket:       volume.SocketName,
		Mounts:       volume.ManagedMounts,
		Capabilities: volume.Capabilities,
		Binds:        []string{root},
	}
}

// Install makes the engine run this plugin, in the place of another build.
// Its state root must exist on the engine host. Containers that run keep their
// data mounted while a plugin is replaced.
func Install(ctx context.Context, e Engine, spec engineapi.PluginSpec) (Change, error) {
	if host, err := e.Host(ctx); err != nil {
		return "", err
	} else if host.Rootless || host.UserNamespace {
		return "", fault.New(fault.Failed, "install the volume driver: the engine runs without the rights of root, and plugins of it cannot mount volumes").
			WithState("nothing was changed").WithHint("use volumes of the driver local, which need no plugin")
	}
	change := Replaced
	found, err := e.Plugin(ctx, spec.Name)
	switch {
	case errors.Is(err, restore.ErrNoSuch):
		change = Installed
	case err != nil:
		return "", err
	case found.Build == "":
		return "", fault.New(fault.Failed, "install the volume driver: the engine has another plugin named %s", spec.Name).
			WithState("nothing was changed").WithHint("docker plugin inspect %s", spec.Name)
	case found.Build == spec.Build && sameBinds(found.Binds, spec.Binds):
		if found.Enabled {
			return Kept, nil
		}
		return Enabled, enable(ctx, e, spec.Name)
	}
	if change == Replaced {
		if err := take(ctx, e, found); err != nil {
			return "", err
		}
	}
	if err := e.CreatePlugin(ctx, spec); err != nil {
		return "", incomplete(err)
	}
	return change, enable(ctx, e, spec.Name)
}

func sameBinds(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func enable(ctx context.Context, e Engine, name string) error {
	if err := e.EnablePlugin(ctx, name, volume.CallTimeout); err != nil {
		return incomplete(err)
	}
	return nil
}

func incomplete(err error) error {
	return fault.New(fault.Failed, "install the volume driver: %w", err).
		WithState("the driver does not run, its volumes and snapshots are untouched").
		WithHint("the engine's log tells more; then again: docker snaprestore install")
}

// take disables and removes a plugin. It needs force: an engine counts every
// volume that exists as a use of its driver.
func take(ctx context.Context, e Engine, p engineapi.Plugin) error {
	const force = true
	if p.Enabled {
		if err := e.DisablePlugin(ctx, p.Name, force); err != nil {
			return err
		}
	}
	return e.RemovePlugin(ctx, p.Name, force)
}

// Uninstalled says what an uninstallation did.
type Uninstalled struct {
	Purged []string // names of volumes whose data was deleted
	Kept   []string // names of volumes that are still in the state root
}

// Uninstall takes the plugin away. The volumes stay in the state root, and are
// there again after the next install; with purge they are removed first, with
// their data. A container that uses one of them, even a stopped one, is a
// reason to refuse. Snapshots stay in any case.
func Uninstall(ctx context.Context, e Engine, purge bool) (Uninstalled, error) {
	var out Uninstalled
	found, err := e.Plugin(ctx, volume.Driver)
	if errors.Is(err, restore.ErrNoSuch) || (err == nil && found.Build == "") {
		return out, fault.New(fault.NotFound, "uninstall the volume driver: it is not installed").
			WithState("nothing was changed").WithHint("docker plugin ls")
	}
	if err != nil {
		return out, untouched(err)
	}
	names, err := volumes(ctx, e)
	if err != nil {
		return out, untouched(err)
	}
	if err := unused(ctx, e, names); err != nil {
		return out, untouched(err)
	}
	out.Kept = names
	if purge && len(names) > 0 && !found.Enabled {
		return out, fault.New(fault.Failed, "uninstall the volume driver: it is disabled, and cannot delete its volumes").
			WithState("nothing was changed").WithHint("docker plugin enable %s", volume.Driver)
	}
	for purge && len(out.Kept) > 0 {
		if err := e.RemoveVolume(ctx, out.Kept[0]); err != nil {
			return out, fault.New(fault.Failed, "uninstall the volume driver: %w", err).
				WithState("%d of %d volumes were deleted, the driver still runs", len(out.Purged), len(names)).
				WithHint("docker snaprestore status")
		}
		out.Purged, out.Kept = append(out.Purged, out.Kept[0]), out.Kept[1:]
	}
	return out, take(ctx, e, found)
}

// untouched says of an error that came before anything was done so.
func untouched(err error) error {
	f := *fault.From(err)
	if f.State == "" {
		f.State = "nothing was changed"
	}
	return &f
}

// volumes names the driver's volumes.
func volumes(ctx context.Context, e Engine) (names []string, err error) {
	all, err := e.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if volume.Served(v.Driver) {
			names = append(names, v.Name)
		}
	}
	return names, nil
}

func unused(ctx context.Context, e Engine, names []string) error {
	ours := map[string]bool{}
	for _, name := range names {
		ours[name] = true
	}
	containers, err := e.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		for _, m := range c.Mounts {
			if m.Type == "volume" && ours[m.Name] {
				return fault.New(fault.Failed, "uninstall the volume driver: container %s uses volume %s", c.Name, m.Name).
					WithState("nothing was changed").
					WithHint("remove the container first: docker rm -f %s, or docker compose down", c.Name)
			}
		}
	}
	return nil
}

// Check tells doctor how the plugin stands, against the one that this client
// would install: ok, warning or failed, what it is, and what to do.
func Check(ctx context.Context, e Engine, spec engineapi.PluginSpec) (status, detail, hint string) {
	found, err := e.Plugin(ctx, spec.Name)
	switch {
	case errors.Is(err, restore.ErrNoSuch):
		return "ok", "not installed; volumes of the driver local need none", ""
	case err != nil:
		return "failed", err.Error(), "docker plugin ls"
	case found.Build == "":
		return "warning", fmt.Sprintf("another plugin has the name %s", spec.Name), "docker plugin inspect " + spec.Name
	case !found.Enabled:
		return "failed", "installed and disabled: no container can mount its volumes", "docker plugin enable " + spec.Name
	case found.Build != spec.Build || !sameBinds(found.Binds, spec.Binds):
		return "warning", "enabled, of another version than this client", "docker snaprestore install"
	}
	return "ok", "enabled, of this version", ""
}
