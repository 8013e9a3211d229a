package restore

import (
	"context"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Engine is what the domain needs of a Docker engine. The implementation is
// in cliplugin/engineapi, a fake for tests in restore/enginetest.
//
// Every method returns ErrNoSuch (wrapped) where the object does not exist.
type Engine interface {
	// Host describes the engine.
	Host(ctx context.Context) (Host, error)
	// Containers lists all containers, stopped ones too. It must not inspect
	// (docker inspect hangs for a container whose start waits in Mount);
	// what only inspect tells is left zero.
	Containers(ctx context.Context) ([]Container, error)
	// Container inspects one container, filling every field.
	Container(ctx context.Context, id string) (Container, error)
	// Volumes lists all volumes.
	Volumes(ctx context.Context) ([]Volume, error)
	// Volume inspects one.
	Volume(ctx context.Context, name string) (Volume, error)
	// CreateVolume makes a volume with these labels and options, verbatim.
	CreateVolume(ctx context.Context, v plan.CreateVolume) (Volume, error)
	// RemoveVolume removes one.
	RemoveVolume(ctx context.Context, name string) error
	// Image inspects an image by id or reference.
	Image(ctx context.Context, ref string) (Image, error)

	// CreateTwin makes a container like another one and gives its id. It is not
	// started.
	CreateTwin(ctx context.Context, t Twin) (string, error)
	// RemoveContainer kills and removes a container with its anonymous volumes;
	// one that is gone is no error.
	RemoveContainer(ctx context.Context, id string) error
	// CreateNetwork makes a network that leads to nothing outside of it.
	CreateNetwork(ctx context.Context, name string, labels map[string]string) error
	// RemoveNetwork removes one.
	RemoveNetwork(ctx context.Context, name string) error
	// Output gives the last lines of what a container wrote.
	Output(ctx context.Context, id string, lines int) ([]string, error)

	// Stop asks the container to end and kills it after the grace period in
	// seconds (nil: the container's own). Stopping a stopped one is no error.
	Stop(ctx context.Context, id string, grace *int) error
	// Start starts it. Starting a running one is no error.
	Start(ctx context.Context, id string) error
	// Pause and Unpause freeze and thaw; doing so twice is no error.
	Pause(ctx context.Context, id string) error
	Unpause(ctx context.Context, id string) error
	// SetPolicy sets the restart policy.
	SetPolicy(ctx context.Context, id string, p journal.Policy) error
}

// Host is the engine and its machine.
type Host struct {
	ID            string // of the engine
	Name          string // of the machine
	Version       string // "20.10.24"
	OS, Arch      string // "linux", "amd64" (GOARCH names)
	DataRoot      string // DockerRootDir
	Driver        string // storage driver
	Rootless      bool
	UserNamespace bool // userns-remap
	Swarm         bool // active node of a swarm
	LiveRestore   bool
	VolumeDrivers []string // names of volume drivers, of enabled plugins with their tag
}

// Container is a container of the engine.
type Container struct {
	ID, Name string // Name without the leading slash
	Image    string // reference as configured
	ImageID  string // sha256:…
	Labels   map[string]string
	State    string // created, running, paused, restarting, exited, dead, removing
	Mounts   []Mount

	// Only from Container, not from Containers:
	Policy      journal.Policy
	AutoRemove  bool   // --rm: a stop would delete it
	HealthCheck bool   // one is configured and not disabled
	Health      string // starting, healthy, unhealthy, "" without a check
	ExitCode    int
	StartedAt   time.Time
	FinishedAt  time.Time // of its last process; zero where there was none
	StopTimeout *int      // the container's own, seconds
	// Network is its mode where that is "none" or "container:ID", else "".
	Network string
	// Reach is what it has of the host beside its mounts ("the host's network",
	// "privileges"): why a twin of it could do more than its original's data.
	Reach []string
}

// Up reports whether processes of the container exist or may exist.
func (c *Container) Up() bool {
	switch c.State {
	case "running", "paused", "restarting", "removing":
		return true
	}
	return false
}

// Mount is a mount of a container.
type Mount struct {
	Type     string // volume, bind, tmpfs, npipe, cluster, image
	Name     string // of the volume
	Source   string // path on the engine host
	Target   string // path in the container
	Driver   string
	ReadOnly bool
	// Anonymous is not told by the engine: a name of 64 hexadecimal digits
	// without the user's labels is one.
}

// Twin is a container like another one: the same image, command, environment,
// user, limits and health check. It has no ports, no restart policy, no devices
// and no labels but its own.
type Twin struct {
	Of     string // id of the other
	Name   string
	Labels map[string]string
	// Mounts are all its volumes and binds. A volume without a name is made
	// with it and goes with it; one with a name is mounted as it is, empty or
	// not. Its tmpfs mounts are those of the other.
	Mounts []Mount
	// Network is the network that it is in, under the names Aliases; or
	// "none", or "container:NAME".
	Network string
	Aliases []string
}

// Volume is a volume of the engine.
type Volume struct {
	Name, Driver, Mountpoint string
	Labels, Options          map[string]string
	Scope                    string // local, global
}

// Image is an image of the engine.
type Image struct {
	ID      string
	Tags    []string
	Digests []string
}
