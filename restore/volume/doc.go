// Package volume is the registry of plugin volumes: the volumes whose mount
// path this tool's own volume driver decides.
//
// Every plugin volume belongs to one directory below the state root,
// volumes/<key>. It holds volume.json, which names the volumes that share the
// directory, and the live tree, "_data": the same entry that a local volume
// has, so one swap with one fence and one recovery serves both kinds. The key
// follows the scope: the volume's own name, or the project, or the project and
// the stage, where several volumes share one tree.
//
// A volume exists from the moment its name is in volume.json until it is not.
// The last name of a directory is removed by recording an empty list first,
// after which the data is deleted and the record goes. A crash leaves a
// directory without a record (made, not yet named), or a record without names
// (removed, not yet deleted); Create and Sweep go on from both. Trees that
// safety snapshots keep beside the live one stay when the volume is removed,
// and a volume made again under the same name finds them.
//
// LockKey is the lock that every operation on a volume takes, whatever its
// driver. The driver itself takes none for a mount: it binds the tree and then
// looks at the journal once more, while an operation raises its fences and then
// looks for mounts, so one of the two sees the other.
package volume
