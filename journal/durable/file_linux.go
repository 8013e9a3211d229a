package durable

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// temporary is the prefix of files that are being written. Nobody reads them;
// Sweep removes them.
const temporary = ".tmp-"

// CreateFile writes a new file and syncs its content, but not the directory.
// A torn file may be left after a crash, so the name must be one that nobody
// reads until it is renamed.
func (d *Dir) CreateFile(name string, data []byte, mode fs.FileMode) error {
	if err := plain(name); err != nil {
		return err
	}
	var f *os.File
	err := d.step(Step{Op: OpCreate, Name: name, Mode: mode.Perm(), Data: data}, func() error {
		fd, err := openat2(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, noLinks|unix.RESOLVE_BENEATH, mode)
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), name)
		_, err = f.Write(data)
		return err
	})
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		return err
	}
	return d.step(Step{Op: OpFsync, Name: name}, f.Sync)
}

// WriteFile makes name hold data, in one atomic and durable step: a reader,
// and the disk after a crash, has the old content or the new. On an error the
// disk has one of the two. The caller sees to it that one process at a time
// writes a name: the temporary file has a name of its own only by that.
func (d *Dir) WriteFile(name string, data []byte, mode fs.FileMode) error {
	if err := d.PlaceFile(name, data, mode); err != nil {
		return err
	}
	return d.Sync()
}

// PlaceFile is WriteFile without the last sync, which is the caller's: until
// then the disk has the old content or the new.
func (d *Dir) PlaceFile(name string, data []byte, mode fs.FileMode) error {
	if err := plain(name); err != nil {
		return err
	}
	if err := d.CreateFile(temporary+name, data, mode); err != nil {
		return err
	}
	return d.Replace(temporary+name, name)
}

// ReadFile reads a file of at most limit bytes that the process's user owns
// and nobody else may write; ErrForeign otherwise.
func (d *Dir) ReadFile(name string, limit int64) ([]byte, error) {
	fd, err := openat2(d.fd(), name, unix.O_RDONLY|unix.O_NONBLOCK, noLinks|unix.RESOLVE_BENEATH)
	if err != nil {
		return nil, d.err("open", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, d.err("stat", name, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, d.err("read", name, ErrNotFile)
	case foreign(&st):
		return nil, d.err("read", name, ErrForeign)
	case st.Size > limit:
		return nil, d.err("read", name, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit))
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	return data, d.err("read", name, err)
}
