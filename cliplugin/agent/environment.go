package agent

// The environment of an agent's container.
const (
	// envRequest holds the Request as JSON.
	envRequest = "SNAPRESTORE_REQUEST"
	// envRoot is the state root, the same path on the host and in the agent.
	envRoot = "SNAPRESTORE_ROOT"
	// envEngine is the id of the engine that the client speaks with, and
	// envDataRoot its data directory: the agent must find the same.
	envEngine   = "SNAPRESTORE_ENGINE"
	envDataRoot = "SNAPRESTORE_DATA_ROOT"
	// EnvSocket is, for the client, the path of the engine's socket on the
	// engine host where that is not what the client guesses; for the agent,
	// its path in the container.
	EnvSocket = "SNAPRESTORE_ENGINE_SOCKET"
	// envSelf is the name of the agent's container.
	envSelf = "SNAPRESTORE_AGENT"
	// envMounts is a JSON list of the host's directories, beside the data
	// directory, that the agent has at their own paths.
	envMounts = "SNAPRESTORE_MOUNTS"
)

// socketDir is where the directory of the engine's socket is in an agent. The
// directory and not the socket is bound: a bound socket stays the old one when
// the engine starts again.
const socketDir = "/run/snaprestore-engine"

// Labels of an agent's container.
const (
	LabelAgent     = "com.snaprestore.agent"     // its verb
	LabelOperation = "com.snaprestore.operation" // the operation it begins
)

// requestLimit bounds a request, in bytes: the kernel takes no longer string
// than 128 KiB in an environment.
const requestLimit = 120 << 10

// stateDirectory is the state root's name in the engine's data directory.
const stateDirectory = "snaprestore"

// capabilities are what an agent needs beyond the identity of root, each found
// by taking it away.
var capabilities = []string{
	"CHOWN",        // give files their owners
	"DAC_OVERRIDE", // read and write whatever the mode says
	"FOWNER",       // modes, times and attributes of others' files
	"FSETID",       // keep set-id bits of others' files
	"KILL",         // end processes of others that the engine has forgotten
	"MKNOD",        // device nodes in volumes
	"SETFCAP",      // file capabilities
	"SYS_ADMIN",    // trusted.* and security.* attributes
	"SYS_PTRACE",   // tell which processes share their mounts, so that each table is read once
}
