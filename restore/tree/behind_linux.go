package tree

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore/budget"
)

const (
	// writeBehind is how many bytes are made before the file system is told to
	// write them.
	writeBehind = 64 << 20
	// perFile is what a file counts besides its content: its inode and name.
	perFile = 4 << 10
)

// behind has the file system written out (syncfs) while a tree is made, so that
// the disk has something to do meanwhile and the sync that the caller rests on
// finds little. That one is still needed: this promises nothing. A small file
// costs the kernel as much to write as to make, on one processor, while the
// others wait for it: side by side both take a sixth less (measured on ext4).
type behind struct {
	fd     int
	bytes  atomic.Int64
	begin  chan struct{}
	end    func()
	failed atomic.Pointer[error]
}

// newBehind begins with the file system of root.
func newBehind(root *os.Root) (*behind, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	defer f.Close()
	// Opened anew, since a descriptor has each error of a write once.
	fd, err := openat(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathErr("open", ".", err)
	}
	b := &behind{fd: fd, begin: make(chan struct{}, 1)}
	done, low := make(chan struct{}), budget.Worker()
	go func() {
		defer close(done)
		low()
		b.work()
	}()
	b.end = sync.OnceFunc(func() {
		close(b.begin)
		<-done
		unix.Close(fd)
	})
	return b, nil
}

func (b *behind) work() {
	for range b.begin {
		if b.failed.Load() != nil {
			continue
		}
		if err := unix.Syncfs(b.fd); err != nil {
			err = pathErr("sync", ".", err)
			b.failed.Store(&err)
		}
	}
}

// wrote counts a file, or a part of one, of n bytes.
func (b *behind) wrote(n int64) {
	if b.bytes.Add(n) < writeBehind {
		return
	}
	b.bytes.Store(0)
	select {
	case b.begin <- struct{}{}:
	default: // it was told, and has not begun
	}
}

// err is what became of the writing so far.
func (b *behind) err() error {
	if err := b.failed.Load(); err != nil {
		return *err
	}
	return nil
}
