// Package volplugin is the volume driver of the engine: it decides where the
// data of a plugin volume is mounted, and when.
//
// A volume has one constant path, <points>/<name>, onto which the driver binds
// the live tree when the engine asks for a mount, and from which it takes it
// away when nobody needs it there. What is bound is read from the kernel every
// time, never remembered.
//
// A Mount asks the journal first: an operation that has not decided yet, or
// has not brought this volume's tree into place, is waited for. Then the tree
// is bound, and the journal asked again. An operation raises its fences first
// and looks for mounts of the old trees after, so either it sees the driver's
// bind, or the driver sees the fence and takes the bind back.
//
// The paths lie on a small file system of their own, which is read-only on
// this path: a container that comes to a path without a bind can write
// nothing, where it would otherwise fill a directory that nobody looks at.
//
// A crash of the driver leaves binds that the next one takes away, and no
// state. Operations that died with the engine are settled for the driver's
// volumes before it answers the first call. The driver never calls the
// engine: during an engine's start that is a deadlock.
package volplugin
