package journal

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// Key names what a lock is held on, e.g. "volume:shop_db".
type Key struct {
	Name   string
	Shared bool // several holders at once, and none exclusive
}

// Exclusive makes exclusive keys of names.
func Exclusive(names ...string) (keys []Key) {
	for _, name := range names {
		keys = append(keys, Key{Name: name})
	}
	return keys
}

// Holder says who holds a lock. It is a hint for people, written after the
// lock was taken; of several shared holders it is the last one.
type Holder struct {
	Operation string    `json:"operation"` // "" where there is no record: a snapshot is read
	Kind      Kind      `json:"kind"`      // or the verb of what has no record
	Since     time.Time `json:"since"`
}

// LockedError says that a key is held by a living process.
type LockedError struct {
	Key    string
	Holder Holder // zero where it is not known
}

func (e *LockedError) Error() string {
	switch {
	case e.Holder.Operation == "" && e.Holder.Kind == "":
		return fmt.Sprintf("%s is held by another operation", e.Key)
	case e.Holder.Operation == "":
		return fmt.Sprintf("%s is held by %s, since %s", e.Key, e.Holder.Kind, time.Since(e.Holder.Since).Round(time.Second))
	}
	return fmt.Sprintf("%s is held by operation %s (%s, since %s)",
		e.Key, e.Holder.Operation, e.Holder.Kind, time.Since(e.Holder.Since).Round(time.Second))
}

// Locks are files in one directory that are locked with flock. The kernel
// drops a lock when its process dies (0.6 ms after SIGKILL, measured), so
// there is nothing to clean up.
//
// Lock files of workloads and volumes are never unlinked. That of an operation
// goes with its record, while it is held exclusively; whoever locks a file
// therefore looks whether it still has a name, and starts over if not. Without
// that an unlinked lock file has two holders.
type Locks struct {
	dir *os.Root
}

// OpenLocks uses dir for lock files.
func OpenLocks(dir *durable.Dir) (*Locks, error) {
	root, err := dir.Root()
	if err != nil {
		return nil, fmt.Errorf("open lock directory: %w", err)
	}
	return &Locks{dir: root}, nil
}

// Close closes the directory; locks that are held stay held.
func (l *Locks) Close() error { return l.dir.Close() }

// Held is a set of locks that this process holds, to be kept until Release:
// files that nobody refers to are closed by the garbage collector.
type Held struct {
	files []signed
}

// signed is a locked file and what was written into it.
type signed struct {
	*os.File
	holder Holder
}

// pollInterval is how often a lock is tried while waiting for it.
const pollInterval = 20 * time.Millisecond

// signPolls is how often a lock whose holder has not signed yet is looked at
// again by who does not wait for it.
const signPolls = 10

// Lock takes all keys, in sorted order so that two processes cannot wait for
// each other. It waits at most wait in all, then returns a LockedError and
// holds nothing.
func (l *Locks) Lock(ctx context.Context, keys []Key, holder Holder, wait time.Duration) (*Held, error) {
	deadline := time.Now().Add(wait)
	held := &Held{}
	for _, key := range ordered(keys) {
		f, err := l.one(ctx, key, deadline)
		if err != nil {
			held.Release()
			return nil, err
		}
		held.files = append(held.files, signed{f, holder})
		if err := sign(f, holder); err != nil {
			held.Release()
			return nil, fmt.Errorf("sign lock %s: %w", key.Name, err)
		}
	}
	return held, nil
}

// ordered sorts keys by name and keeps one of each, the exclusive one first.
func ordered(keys []Key) []Key {
	keys = append([]Key(nil), keys...)
	sort.SliceStable(keys, func(i, j int) bool {
		if keys[i].Name != keys[j].Name {
			return keys[i].Name < keys[j].Name
		}
		return !keys[i].Shared && keys[j].Shared
	})
	kept := keys[:0]
	for i, key := range keys {
		if i == 0 || key.Name != kept[len(kept)-1].Name {
			kept = append(kept, key)
		}
	}
	return kept
}

// fileName makes one directory entry of any key. A long one, which a file
// system would refuse, keeps its beginning for people and gets a digest.
func fileName(key string) string {
	name := url.PathEscape(key)
	if len(name) <= 200 {
		return name
	}
	sum := sha256.Sum256([]byte(key))
	return name[:128] + "~" + hex.EncodeToString(sum[:])
}

func (l *Locks) one(ctx context.Context, key Key, deadline time.Time) (*os.File, error) {
	how := unix.LOCK_EX
	if key.Shared {
		how = unix.LOCK_SH
	}
	for unsigned := 0; ; {
		f, err := l.try(key.Name, how)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", key.Name, err)
		}
		if f.free {
			return f.File, nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			holder := whose(f.File)
			if holder != (Holder{}) || unsigned == signPolls {
				f.Close()
				return nil, &LockedError{Key: key.Name, Holder: holder}
			}
			unsigned++
			left = pollInterval
		}
		f.Close()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s: %w", key.Name, ctx.Err())
		case <-time.After(min(left, pollInterval)):
		}
	}
}

// tried is a lock file after one attempt to lock it.
type tried struct {
	*os.File
	free bool // it was, and is locked now
}

// try opens and locks a key's file, without waiting for a holder.
func (l *Locks) try(key string, how int) (tried, error) {
	for {
		f, err := l.dir.OpenFile(fileName(key), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return tried{}, err
		}
		free, err := flock(f, how)
		if err != nil {
			f.Close()
			return tried{}, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			return tried{}, err
		}
		if free && st.Nlink == 0 {
			f.Close() // forgotten between the open and the lock
			continue
		}
		return tried{File: f, free: free}, nil
	}
}

// flock locks f where nobody else has it locked.
func flock(f *os.File, how int) (free bool, err error) {
	for {
		switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err {
		case nil:
			return true, nil
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return false, nil
		default:
			return false, err
		}
	}
}

// taken reports whether a process holds the key, without making its file.
func (l *Locks) taken(key string) (bool, error) {
	f, err := l.dir.OpenFile(fileName(key), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at lock %s: %w", key, err)
	}
	defer unlock(f)
	free, err := flock(f, unix.LOCK_SH)
	if err != nil {
		return false, fmt.Errorf("look at lock %s: %w", key, err)
	}
	return !free, nil
}

// forget unlinks the file of a key that the caller holds exclusively and that
// no operation will have again.
func (l *Locks) forget(key string) { _ = l.dir.Remove(fileName(key)) }

// sign writes the holder into its lock file, for those who find it locked.
func sign(f *os.File, holder Holder) error {
	data, err := json.Marshal(holder)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		// A full disk or a read-only one must not forbid a lock.
		return ignoreSpace(err)
	}
	_, err = f.WriteAt(data, 0)
	return ignoreSpace(err)
}

func ignoreSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}

// whose reads the signature; a torn or missing one is nobody's.
func whose(f *os.File) (holder Holder) {
	data := make([]byte, 512)
	n, _ := f.ReadAt(data, 0)
	if json.Unmarshal(data[:n], &holder) != nil {
		return Holder{}
	}
	return holder
}

// Add takes more locks into h, in one go. The caller sees to the order: keys
// that were taken before must sort first, or not be wanted by others.
func (h *Held) Add(more *Held) { h.files = append(h.files, more.files...); more.files = nil }

// Release lets all go.
func (h *Held) Release() {
	if h == nil {
		return
	}
	for _, f := range h.files {
		// A name that stays behind would be shown for the next holder, who may
		// not have signed yet, or for a shared one.
		if by := whose(f.File); by.Operation == f.holder.Operation && by.Since.Equal(f.holder.Since) {
			_ = f.Truncate(0)
		}
		unlock(f.File)
	}
	h.files = nil
}

// unlock lets a lock go at once: a close does so only when the descriptor's
// last copy is closed, and a child has copies of all between fork and exec.
func unlock(f *os.File) {
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	f.Close()
}
