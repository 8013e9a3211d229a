// Package snapshot keeps the snapshots of an engine's volumes.
//
// A snapshot is a directory of the state root, snapshots/<id>, with
// snapshot.json and what its copy engine stored for each volume. It is made
// under a hidden name (".<id>.partial") and appears by one rename after
// everything in it was synced, so a crash leaves either nothing but a hidden
// directory, which the next operation sweeps, or the whole snapshot. It is
// removed the other way round: hidden by one durable rename (".<id>.removed"),
// then deleted, so a crash leaves the whole snapshot or none that anybody sees.
// snapshot.json carries its format and a checksum; one that is damaged or that
// another user may write is not believed, and never passed over in silence.
// A safety snapshot has no stored content: its volumes' trees lie beside the
// volumes they were exchanged out of, kept by rename, and snapshot.json names
// them.
package snapshot

import "time"

// Kind says how a snapshot came to be.
type Kind string

// The kinds.
const (
	Made     Kind = "snapshot" // by create
	Safety   Kind = "safety"   // the data that a restore or undo replaced
	Imported Kind = "imported" // from an archive of elsewhere
)

// Consistency says what create did to the containers while it copied.
type Consistency string

// The ways, strongest first.
const (
	Stop  Consistency = "stop"  // stopped, so that they wrote everything out
	Pause Consistency = "pause" // frozen: what a power loss would have left
	Live  Consistency = "live"  // untouched: only for data that nobody writes
)

// Snapshot describes one snapshot: the contents of snapshot.json.
type Snapshot struct {
	Format      int               `json:"format"`
	ID          string            `json:"id"` // 12 hexadecimal digits
	Name        string            `json:"name,omitempty"`
	Kind        Kind              `json:"kind"`
	Created     time.Time         `json:"created"`
	Project     string            `json:"project,omitempty"` // Compose project, "" for none
	Labels      map[string]string `json:"labels,omitempty"`
	Consistency Consistency       `json:"consistency,omitempty"`
	// Pause is how long the workload did not run while the snapshot was made,
	// in nanoseconds.
	Pause time.Duration `json:"pause,omitempty"`
	// Ahead is how long its volumes were copied before that, while it ran, in
	// nanoseconds.
	Ahead time.Duration `json:"ahead,omitempty"`
	// Operation is the one that made it; for a safety snapshot the restore or
	// undo that replaced this data.
	Operation  string      `json:"operation,omitempty"`
	Volumes    []Volume    `json:"volumes"`
	Containers []Container `json:"containers,omitempty"`
	Skipped    []Skipped   `json:"skipped,omitempty"`
	Tool       string      `json:"tool,omitempty"`   // version of this tool
	Engine     string      `json:"engine,omitempty"` // version of the Docker engine
}

// Volume is one volume in a snapshot. Its index in Snapshot.Volumes is its
// directory in the portable archive.
type Volume struct {
	Name    string            `json:"name"`
	Driver  string            `json:"driver,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
	// Key is the name in the compose file, without the project's prefix.
	Key   string `json:"key,omitempty"`
	Scope string `json:"scope,omitempty"` // absolute, named, project_named, project, stage, instance
	Uses  []Use  `json:"uses,omitempty"`

	// Engine is the copy engine that stored it ("pack"), or "tree" for a safety
	// snapshot's.
	Engine string `json:"engine"`
	// Reason says why it was that engine and not a better one; for people.
	Reason string `json:"reason,omitempty"`
	// Brief is the same in a clause.
	Brief string `json:"brief,omitempty"`
	// File is the name of what is stored in the snapshot's directory: a file,
	// or the directory of the engines "reflink" and "btrfs".
	File string `json:"file,omitempty"`
	// SHA256 is the engine's checksum of it, hexadecimal.
	SHA256 string `json:"sha256,omitempty"`
	// Tree is the tree's path on the engine host, absolute, for "tree".
	Tree string `json:"tree,omitempty"`

	Bytes  int64 `json:"bytes"`  // of the files' contents
	Files  int64 `json:"files"`  // entries of every kind
	Stored int64 `json:"stored"` // bytes in the store
	// Beside is the size of the files beside File that came with this snapshot:
	// what was copied ahead of the pause.
	Beside int64 `json:"beside,omitempty"`
	// Uncounted says that nobody counted: the three are 0 and mean nothing.
	Uncounted bool `json:"uncounted,omitempty"`
}

// Use is one place where a container mounts a volume.
type Use struct {
	Container string `json:"container"`         // name
	Service   string `json:"service,omitempty"` // Compose service
	Target    string `json:"target"`            // path in the container
	ReadOnly  bool   `json:"read_only,omitempty"`
}

// Container is a container of the workload as it was, for warnings about
// images that differ at restore.
type Container struct {
	Name    string            `json:"name"`
	Service string            `json:"service,omitempty"`
	Image   string            `json:"image"`    // reference as configured
	ImageID string            `json:"image_id"` // sha256:…
	Digests []string          `json:"digests,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"` // com.docker.compose.* only
	Running bool              `json:"running"`
}

// Skipped is something of the workload that the snapshot does not hold.
type Skipped struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
}

// Bytes is the size of the contents of all volumes.
func (s *Snapshot) Bytes() (n int64) {
	for _, v := range s.Volumes {
		n += v.Bytes
	}
	return n
}

// Stored is the space that the snapshot takes in the store, without what it
// shares with earlier ones.
func (s *Snapshot) Stored() (n int64) {
	for _, v := range s.Volumes {
		n += v.Stored + v.Beside
	}
	return n
}
