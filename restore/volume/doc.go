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
// Two locks guard a directory. LockKey is the one that every operation on a
// volume takes, whatever its driver. MountKey is the driver's: it holds it
// shared from a Mount until the engine's Unmount. An operation that exchanges
// the tree takes it alone after its containers are down and before it records
// PREPARED, so that no start that got its path before can run on the old tree
// beside another volume's new one; where that lock is not to be had, somebody
// is starting a container, and the operation goes back.
package volume
