//go:build e2e && linux

package crashes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// The part of the FUSE protocol that one file needs (include/uapi/linux/fuse.h).
const (
	fuseForget      = 2
	fuseGetattr     = 3
	fuseSetattr     = 4
	fuseOpen        = 14
	fuseRead        = 15
	fuseWrite       = 16
	fuseStatfs      = 17
	fuseRelease     = 18
	fuseFsync       = 20
	fuseFlush       = 25
	fuseInit        = 26
	fuseAccess      = 34
	fuseInterrupt   = 36
	fuseDestroy     = 38
	fuseBatchForget = 42
	fuseFallocate   = 43

	fuseBigWrites = 1 << 5
	fuseMaxPages  = 1 << 22
	fuseDirectIO  = 1 << 0 // of an open

	fuseHeader   = 40
	fuseMaxWrite = 1 << 20
)

// flushMark stands for the offset in a record of a flush.
const flushMark = ^uint64(0)

// server is the disk: a file system whose root is one file.
type server struct {
	dev  int      // of /dev/fuse
	disk *os.File // what was written
	log  *os.File // what was written, and when it was flushed
	size int64
}

// serveDisk is the role "disk": it serves the file at its first argument, as
// the file at its second, and notes what happens in that at its third. The
// note is there before the kernel has the answer, so that the length of the
// log is a moment of the disk. It is a process of its own, since one that is
// killed while its own disk does not answer could not end.
func serveDisk() error {
	args := os.Args[1:]
	if len(args) != 3 {
		return errors.New("needs a disk, a mount point and a log")
	}
	disk, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	info, err := disk.Stat()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(args[2], os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=100600,user_id=0,group_id=0", dev)
	if err := unix.Mount("snaprestore-crashes", args[1], "fuse.snaprestore-crashes", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount the disk at %s: %w", args[1], err)
	}
	fmt.Println("ready")
	return (&server{dev: dev, disk: disk, log: log, size: info.Size()}).serve()
}

func (s *server) serve() error {
	in := make([]byte, fuseMaxWrite+4096)
	for {
		n, err := unix.Read(s.dev, in)
		switch {
		case err == unix.ENODEV:
			return nil // unmounted
		case err == unix.EINTR || err == unix.ENOENT || err == unix.EAGAIN:
			continue
		case err == unix.ECONNABORTED:
			// Unmounted while a request, the release of the file, was being
			// taken (fuse_dev_do_read): the next read says so. Whoever waits for
			// a write or a flush is told that it failed.
			continue
		case err != nil:
			return fmt.Errorf("read a request: %w", err)
		case n < fuseHeader:
			return fmt.Errorf("a request of %d bytes", n)
		}
		if err := s.answer(in[:n]); err != nil {
			return err
		}
	}
}

// answer carries out one request.
func (s *server) answer(in []byte) error {
	opcode, unique := binary.LittleEndian.Uint32(in[4:]), binary.LittleEndian.Uint64(in[8:])
	body := in[fuseHeader:]
	var out []byte
	var failed unix.Errno
	switch opcode {
	case fuseForget, fuseBatchForget, fuseInterrupt:
		return nil
	case fuseInit:
		out = make([]byte, 64)
		put32(out, 0, 7)
		put32(out, 4, 31)
		put32(out, 8, binary.LittleEndian.Uint32(body[8:]))
		put32(out, 12, fuseBigWrites|fuseMaxPages)
		binary.LittleEndian.PutUint16(out[16:], 16)
		binary.LittleEndian.PutUint16(out[18:], 12)
		put32(out, 20, fuseMaxWrite)
		put32(out, 24, 1)
		binary.LittleEndian.PutUint16(out[28:], fuseMaxWrite/4096)
	case fuseGetattr, fuseSetattr:
		out = make([]byte, 104)
		binary.LittleEndian.PutUint64(out, 3600)
		binary.LittleEndian.PutUint64(out[16:], 1)
		binary.LittleEndian.PutUint64(out[24:], uint64(s.size))
		binary.LittleEndian.PutUint64(out[32:], uint64(s.size)/512)
		put32(out, 76, unix.S_IFREG|0o600)
		put32(out, 80, 1)
		put32(out, 96, 4096)
	case fuseOpen:
		out = make([]byte, 16)
		put32(out, 8, fuseDirectIO)
	case fuseRead:
		out = make([]byte, binary.LittleEndian.Uint32(body[16:]))
		n, err := s.disk.ReadAt(out, int64(binary.LittleEndian.Uint64(body[8:])))
		if err != nil && err != io.EOF {
			failed = unix.EIO
		}
		out = out[:n]
	case fuseWrite:
		offset, size := binary.LittleEndian.Uint64(body[8:]), binary.LittleEndian.Uint32(body[16:])
		data := body[40 : 40+size]
		if err := s.note(offset, data); err != nil {
			return err
		}
		if _, err := s.disk.WriteAt(data, int64(offset)); err != nil {
			return err
		}
		out = make([]byte, 8)
		put32(out, 0, size)
	case fuseFsync:
		if err := s.note(flushMark, nil); err != nil {
			return err
		}
	case fuseStatfs:
		out = make([]byte, 80)
	case fuseFlush, fuseRelease, fuseAccess, fuseDestroy:
	case fuseFallocate:
		failed = unix.EOPNOTSUPP
	default:
		failed = unix.ENOSYS
	}
	head := make([]byte, 16, 16+len(out))
	put32(head, 4, uint32(-int32(failed)))
	binary.LittleEndian.PutUint64(head[8:], unique)
	if failed == 0 {
		head = append(head, out...)
	}
	put32(head, 0, uint32(len(head)))
	// The request may have been given up meanwhile.
	if _, err := unix.Write(s.dev, head); err != nil && err != unix.ENOENT {
		return fmt.Errorf("answer a request: %w", err)
	}
	return nil
}

// note puts a write or a flush on record, whole.
func (s *server) note(offset uint64, data []byte) error {
	head := make([]byte, 16, 16+len(data))
	binary.LittleEndian.PutUint64(head, offset)
	binary.LittleEndian.PutUint64(head[8:], uint64(len(data)))
	_, err := s.log.Write(append(head, data...))
	return err
}

func put32(b []byte, at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
