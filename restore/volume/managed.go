package volume

import "time"

// How the engine runs the driver as a managed plugin: the client that
// installs it and the driver itself must agree.
const (
	// Program is the driver's program, and the name under which a binary that is
	// several is the driver.
	Program = "snaprestored"
	// ManagedFlag tells the driver that its mount namespace is its own.
	ManagedFlag = "--managed"
	// RootFlag, MountsFlag, WorkFlag and SocketFlag name the driver's paths.
	RootFlag   = "--root"
	MountsFlag = "--mounts"
	WorkFlag   = "--work"
	SocketFlag = "--socket"

	// ManagedMounts is the directory in the plugin whose mounts the engine
	// sees (propagatedMount).
	ManagedMounts = "/mnt/snaprestore"
	// EngineFolder is the folder at which an engine sees them (moby
	// plugin/manager_linux.go).
	EngineFolder = "propagated-mount"
	// ServiceMounts is the directory of the mounts of a service of the host.
	ServiceMounts = "/run/snaprestore/mnt"
	// FileSystem is the source that the small file system of the mount paths
	// names, a tmpfs.
	FileSystem = "snaprestore"
	// ManagedWork is for mounts that it does not see.
	ManagedWork = "/run/snaprestore"
	// SocketFolder is where the engine looks for plugins' sockets, in a
	// managed plugin and on the host.
	SocketFolder = "/run/docker/plugins"
	// SocketName is the driver's socket in that folder.
	SocketName = "snaprestore.sock"

	// MountWait is how long a Mount waits for an operation.
	MountWait = 100 * time.Second
	// CallTimeout is what the plugin is enabled with: it bounds every later
	// call, Mount too (measured, 28.5).
	CallTimeout = 130 * time.Second
)

// Capabilities are those that the driver needs beyond a container's own.
var Capabilities = []string{
	"CAP_SYS_ADMIN",  // mount and unmount
	"CAP_SYS_PTRACE", // tell the mount namespaces of other processes apart
}
