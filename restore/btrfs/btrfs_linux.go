// Package btrfs is the copy engine "btrfs": it keeps a volume that is a
// subvolume of btrfs as a read-only snapshot of it, made in a few milliseconds
// whatever the size, and brings it back as a writable snapshot of that.
//
// Algorithm: Save makes the snapshot <index>.subvolume in the store. Nobody
// reads the tree for it, so there is nothing to count, and no checksum of it.
// What is kept instead is a sha256 over what btrfs itself has on record of the
// snapshot: its UUID, which no other one gets, and the transactions that made it
// and that changed it last. Verify, Load and LoadAs compare that, and that it is
// read-only, before and after: another subvolume in its place, and a change by
// somebody who made it writable, are found. Verify reads every byte besides, so
// that btrfs checks its checksums of data and metadata. Files without
// copy-on-write (chattr +C) have none.
//
// Refused is a volume in which there is another subvolume or a mount: a
// snapshot would have an empty directory there, or what lies below the mount.
//
// A crash leaves the snapshot made or not made: the ioctl is one transaction,
// and the store's draft, in which it lies, is swept.
package btrfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// Name is the engine's name in a snapshot.
const Name = "btrfs"

type engine struct{}

// New returns the engine, which is a copyengine.Whole.
func New() copyengine.Whole { return engine{} }

func (engine) Name() string { return Name }

// with opens a directory for an ioctl on it.
func with(root *os.Root, do func(fd int) error) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return do(int(f.Fd()))
}

// Able asks the file system about the two directories. Nothing is tried, since
// a snapshot costs a commit of everything that was written.
func (engine) Able(volume, store *os.Root) error {
	return with(volume, func(source int) error {
		on, err := subvolume.On(source)
		switch {
		case err != nil:
			return fmt.Errorf("look at the volume's file system: %w", err)
		case !on:
			return &copyengine.Lack{What: "subvolumes", Err: errors.New("the volume is not on btrfs")}
		}
		is, err := subvolume.Is(source)
		switch {
		case err != nil:
			return fmt.Errorf("look at the volume: %w", err)
		case !is:
			return errors.New("the volume is an ordinary directory, not a subvolume as new volumes of the driver snaprestore are")
		}
		if err := sameFileSystem(source, store); err != nil {
			return err
		}
		return undivided(source)
	})
}

func sameFileSystem(source int, store *os.Root) error {
	return with(store, func(target int) error {
		here, err := subvolume.FileSystem(source)
		if err != nil {
			return fmt.Errorf("look at the volume's file system: %w", err)
		}
		on, err := subvolume.On(target)
		if err != nil {
			return fmt.Errorf("look at the store's file system: %w", err)
		}
		if there, err := subvolume.FileSystem(target); !on || err != nil || there != here {
			return errors.New("the volume and the store are on different file systems")
		}
		return nil
	})
}

// undivided refuses a volume of which a snapshot would not have everything, or
// something else.
func undivided(source int) error {
	inner, err := subvolume.Inner(source)
	if err != nil {
		return err
	}
	if inner > 0 {
		return fmt.Errorf("there are subvolumes in the volume (%d), which a snapshot would leave out", inner)
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", source))
	if err != nil {
		return fmt.Errorf("look for mounts in the volume: %w", err)
	}
	below, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, path+"/"), false
	})
	if err != nil {
		return fmt.Errorf("look for mounts in the volume: %w", err)
	}
	if len(below) > 0 {
		return fmt.Errorf("something is mounted in the volume, at %s, and a snapshot would have what lies below it", below[0].Mountpoint)
	}
	return nil
}

// Save makes the snapshot in the store. That nothing divides the tree is looked
// at once more after it.
func (engine) Save(ctx context.Context, volume, store *os.Root, index int, _ func(path, reason string), _ copyengine.Progress) (copyengine.Content, error) {
	c := copyengine.Content{File: fmt.Sprintf("%d.subvolume", index), Uncounted: true}
	if err := ctx.Err(); err != nil {
		return c, err
	}
	err := with(volume, func(source int) error {
		return with(store, func(target int) error {
			if err := subvolume.Snapshot(source, target, c.File, true); err != nil {
				return fmt.Errorf("make the snapshot: %w", err)
			}
			return undivided(source)
		})
	})
	if err != nil {
		return c, fmt.Errorf("store subvolume %s: %w", c.File, err)
	}
	root, err := store.OpenRoot(c.File)
	if err != nil {
		return c, fmt.Errorf("store subvolume: %w", err)
	}
	defer root.Close()
	if c.SHA256, err = identify(root); err != nil {
		return c, fmt.Errorf("store subvolume %s: %w", c.File, err)
	}
	return c, nil
}

// identify gives the sum over what btrfs knows of a stored subvolume.
func identify(root *os.Root) (sum string, err error) {
	err = with(root, func(fd int) error {
		info, err := subvolume.Describe(fd)
		switch {
		case errors.Is(err, subvolume.ErrNone):
			return fault.New(fault.Corrupt, "it is not a subvolume")
		case err != nil:
			return err
		case !info.ReadOnly:
			return fault.New(fault.Corrupt, "somebody made it writable, so it may not be what was stored")
		}
		hash := sha256.Sum256(fmt.Appendf(nil, "%x %d %d\n", info.UUID, info.Made, info.Changed))
		sum = hex.EncodeToString(hash[:])
		return nil
	})
	return sum, err
}

// check finds that the stored subvolume is the one that was stored, unchanged.
func check(root *os.Root, c copyengine.Content) error {
	sum, err := identify(root)
	if err == nil && sum != c.SHA256 {
		err = fault.New(fault.Corrupt, "it is another one than was stored, or was changed: btrfs's record of it has sha256 %s, %s was stored", sum, c.SHA256)
	}
	return err
}

// using opens the stored subvolume for do, and checks it before and after. EIO
// and EUCLEAN are how btrfs says that a checksum or its structure is wrong.
func using(ctx context.Context, store *os.Root, c copyengine.Content, do func(root *os.Root) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	root, err := c.OpenStored(store)
	if err != nil {
		return err
	}
	defer root.Close()
	if err = check(root, c); err == nil {
		err = do(root)
	}
	if err == nil {
		err = check(root, c)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN):
		return fault.New(fault.Corrupt, "read subvolume %s: %w", c.File, err)
	case err != nil:
		return fmt.Errorf("read subvolume %s: %w", c.File, err)
	}
	return nil
}

// Verify checks that it is the stored subvolume, and reads every byte of it.
func (engine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	buf := make([]byte, 256<<10)
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	return using(ctx, store, c, func(root *os.Root) error {
		return tree.Walk(ctx, root, ignore, func(n *tree.Node) error {
			if n.Type == tree.File {
				if err := n.Copy(io.Discard, buf, each); err != nil {
					return err
				}
			}
			if n.Path != "." {
				p(0, 1)
			}
			return nil
		})
	})
}

// ignore is for sockets, the only thing in a stored subvolume that a walk skips.
func ignore(path, reason string) {}

// LoadAs makes a writable snapshot of the stored one.
func (engine) LoadAs(ctx context.Context, store *os.Root, c copyengine.Content, dir *os.Root, name string) error {
	return using(ctx, store, c, func(root *os.Root) error {
		return snapshotAs(root, dir, name)
	})
}

// snapshotAs makes a writable snapshot of a subvolume.
func snapshotAs(of, dir *os.Root, name string) error {
	err := with(of, func(source int) error {
		return with(dir, func(target int) error { return subvolume.Snapshot(source, target, name, false) })
	})
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOTTY):
		return fmt.Errorf("make a snapshot: %w (%w)", errors.ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("make a snapshot: %w", err)
	}
	return nil
}

// CopyAs makes a writable snapshot of the tree. That nothing divides it is
// looked at once more after it.
func (engine) CopyAs(ctx context.Context, volume, dir *os.Root, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := snapshotAs(volume, dir, name); err != nil {
		return err
	}
	return with(volume, undivided)
}

// Load makes the tree of files that share the blocks of the stored ones, or of
// copies on another file system.
func (engine) Load(ctx context.Context, store *os.Root, c copyengine.Content, into *os.Root, p copyengine.Progress) error {
	each := func(n int64) error {
		p(n, 0)
		return ctx.Err()
	}
	return using(ctx, store, c, func(root *os.Root) error {
		m, err := tree.NewMaker(into)
		if err != nil {
			return err
		}
		defer m.Close()
		err = tree.Walk(ctx, root, ignore, func(n *tree.Node) error {
			if err := m.Clone(n, each); err != nil {
				return err
			}
			if n.Path != "." {
				p(0, 1)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return m.Finish()
	})
}

// Entries gives the entries of the stored subvolume.
func (engine) Entries(ctx context.Context, store *os.Root, c copyengine.Content, visit func(e *tree.Entry, content io.Reader) error) error {
	return using(ctx, store, c, func(root *os.Root) error {
		return tree.Walk(ctx, root, ignore, func(n *tree.Node) error {
			e := n.Entry // which the walk still needs as it is
			return visit(&e, n.Content())
		})
	})
}
