package durable

import (
	"errors"
	"io/fs"
)

// Op names a kind of durable step.
type Op string

// The steps: every change of a file system that a promise rests on is one.
const (
	OpMkdir    Op = "mkdir"
	OpCreate   Op = "create" // a file with its content, not yet synced
	OpFsync    Op = "fsync"  // a file's content
	OpSyncDir  Op = "syncdir"
	OpSyncFS   Op = "syncfs"
	OpRename   Op = "rename"
	OpExchange Op = "exchange"
	OpSymlink  Op = "symlink"
	OpUnlink   Op = "unlink"
	OpRemove   Op = "removeall" // a whole tree; not atomic
	OpChmod    Op = "chmod"
	// OpSubvolume makes an empty subvolume, OpGraft a directory with all that is
	// in it, in one step each.
	OpSubvolume Op = "subvolume"
	OpGraft     Op = "graft"
)

// Step is one durable step about to be done, or just done.
type Step struct {
	Op   Op
	Dir  string      // path of the directory in which it happens, for people
	Name string      // entry in Dir, "" for the directory itself
	To   string      // the other name of a rename, exchange or symlink
	ToIn string      // the other directory of a rename or exchange across two, else ""
	Data []byte      // content of a created file
	Mode fs.FileMode // permission bits of mkdir, create, chmod and subvolume
	Done bool        // false before the step, true after it succeeded
}

// Failpoint is called before and after every step. An error before it means
// that the step is not done and fails with this error; an error after it
// means that it was done and fails all the same, as when a process dies before
// it can go on.
type Failpoint func(Step) error

// Why a file or directory is not believed.
var (
	// ErrForeign: what only this user may write belongs to, or may be written
	// by, somebody else.
	ErrForeign = errors.New("owned or writable by another user")
	// ErrNotFile: a directory, a fifo or the like stands where a file belongs.
	ErrNotFile = errors.New("not a regular file")
	// ErrTooLarge: nothing that this program writes is that large.
	ErrTooLarge = errors.New("too large")
)
