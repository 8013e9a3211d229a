package volume

import (
	"path"
	"strings"
	"time"
)

// How the engine runs the driver as a managed plugin: the client that
// installs it and the driver itself must agree.
const (
	// Program is the name under which the one binary is the driver.
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

// IsCopy reports whether a mount of a volume's tree is what a namespace keeps
// that was copied while the driver had the volume mounted: it lies at a path
// of the driver, below whatever directory, and is connected to no other mount
// (tags are the optional fields of mountinfo). A container with the host's
// root bound into it has such copies, and a process with private mounts. None
// runs on that tree, and the driver cannot take it away.
func IsCopy(mountpoint string, tags []string) bool {
	for _, tag := range tags {
		if strings.HasPrefix(tag, "shared:") || strings.HasPrefix(tag, "master:") {
			return false // it goes when the driver detaches its own
		}
	}
	dir := path.Dir(mountpoint)
	return path.Base(dir) == EngineFolder || strings.HasSuffix(dir, ManagedMounts) || strings.HasSuffix(dir, ServiceMounts)
}
