// Package tree reads and makes directory trees with everything that belongs to
// them: owners, modes, times, links, attributes, devices, holes.
//
// Algorithm: Walk goes through a tree by directory descriptors, in sorted
// order, and describes each entry; a Maker makes entries relative to the
// descriptor of their directory. Neither follows a symbolic link, so a name
// that is exchanged meanwhile leads nowhere else. A Maker gives directories
// their attributes last and deepest first, since what is made in a directory
// changes its times and may be forbidden or changed by its mode and ACL.
//
// Nothing is synced for good: a large tree is written out while it is made, so
// that the caller's sync has less to do. A crash leaves a part of a tree, for the caller to delete.
package tree

import "time"

// Type is what an entry is; the values are the tar type flags.
type Type byte

// The types.
const (
	File        Type = '0'
	HardLink    Type = '1'
	Symlink     Type = '2'
	CharDevice  Type = '3'
	BlockDevice Type = '4'
	Directory   Type = '5'
	Fifo        Type = '6'
)

// Entry is one entry of a tree or of an archive.
type Entry struct {
	// Path is clean and relative: no leading or trailing slash, no ".", ".."
	// or empty element; the top directory itself is ".". Any byte but NUL and
	// the slash may be in a name.
	Path string
	Type Type
	// Mode is the permission bits with setuid, setgid and sticky: 0 to 07777.
	Mode     uint32
	UID, GID uint32
	// ModTime is exact to the nanosecond and may lie before 1970.
	ModTime time.Time
	// Link is a symbolic link's target, verbatim, or the clean Path of the
	// earlier entry that a hard link is another name of.
	Link string
	// Xattrs are the extended attributes, ACLs ("system.posix_acl_access",
	// "system.posix_acl_default") and capabilities ("security.capability")
	// among them, values in the kernel's form.
	Xattrs []Xattr
	// Major and Minor are a device's numbers.
	Major, Minor uint32
	// Size is a file's size in bytes, holes included; 0 for all other types.
	Size int64
	// Data are the parts of a sparse file that hold data, ascending, apart and
	// not empty; everything else reads as zeros. It counts only when Sparse.
	Data   []Extent
	Sparse bool
}

// Xattr is one extended attribute.
type Xattr struct{ Name, Value string }

// Extent is a part of a file, in bytes.
type Extent struct{ Offset, Length int64 }

// MaxExtents is the most parts that a sparse file is described by. What lies
// behind the last counts as data.
const MaxExtents = 1 << 20

// Stored is the length of the content without the holes, in bytes.
func (e *Entry) Stored() (n int64) {
	if !e.Sparse {
		return e.Size
	}
	for _, x := range e.Data {
		n += x.Length
	}
	return n
}
