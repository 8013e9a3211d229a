//go:build e2e && linux

package crashes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// changing are the system calls that may change a file system. An open does
// where it makes a file, a write where it goes to one.
var changing = []uintptr{
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV,
	unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_FTRUNCATE, unix.SYS_TRUNCATE, unix.SYS_FALLOCATE,
	unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
	unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNCFS,
	unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
	unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR,
}

// Of seccomp(2): a filter on all threads, whose supervisor is not disturbed by
// the signals of Go's scheduler, which would report a call twice.
const (
	setModeFilter = 1
	allThreads    = 1 << 0
	newListener   = 1 << 3
	allThreadsOr  = 1 << 4 // an error, where a thread cannot have it
	waitKillable  = 1 << 5
	returnAllow   = 0x7fff0000
	returnNotify  = 0x7fc00000
	continueCall  = 1
)

// supervise puts this process under a filter that reports the changing system
// calls, and gives the descriptor that they are reported to.
func supervise() (int, error) {
	n := len(changing)
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the number
	for i, nr := range changing {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(n - i), K: uint32(nr)})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: returnNotify})
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads|newListener|allThreadsOr|waitKillable, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, fmt.Errorf("install the filter: %w", errno)
	}
	return int(fd), nil
}

// notification is struct seccomp_notif.
type notification struct {
	ID    uint64
	PID   uint32
	Flags uint32
	NR    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

// watch lets the changing system calls below dir happen one after the other,
// and calls kill instead of letting the one happen that is the n-th. It gives
// how many there were, when the process has ended.
func watch(listener int, dir string, n int, kill func()) (int, error) {
	count := 0
	for {
		wait := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return count, fmt.Errorf("wait for a system call: %w", err)
		}
		if wait[0].Revents&unix.POLLIN == 0 {
			return count, nil // nobody is under the filter any more
		}
		var at notification
		err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&at))
		if err == unix.EINTR || err == unix.ENOENT {
			continue // who asked is dead
		}
		if err != nil {
			return count, fmt.Errorf("receive a system call: %w", err)
		}
		counts, err := changes(at, dir)
		if err == nil && counts {
			if count++; count == n {
				kill()
				continue
			}
		}
		// An error is that of a process that was killed meanwhile.
		err = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response{ID: at.ID, Flags: continueCall}))
		if err != nil && err != unix.ENOENT && err != unix.EINPROGRESS {
			return count, fmt.Errorf("let a system call happen: %w", err)
		}
	}
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// changes tells whether a system call is one that changes something below dir.
func changes(at notification, dir string) (bool, error) {
	nr := uintptr(at.NR)
	switch nr {
	case unix.SYS_OPENAT:
		return at.Args[2]&unix.O_CREAT != 0, nil
	case unix.SYS_OPENAT2:
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", at.PID))
		if err != nil {
			return false, err
		}
		defer mem.Close()
		var flags [8]byte // the first member of struct open_how
		if _, err := mem.ReadAt(flags[:], int64(at.Args[2])); err != nil {
			return false, err
		}
		return binary.LittleEndian.Uint64(flags[:])&unix.O_CREAT != 0, nil
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_PWRITEV, unix.SYS_SENDFILE:
		return below(at.PID, at.Args[0], dir)
	case unix.SYS_COPY_FILE_RANGE:
		return below(at.PID, at.Args[2], dir)
	}
	return slices.Contains(changing, nr), nil
}

// below tells whether a process's descriptor is one of a file below dir.
func below(pid uint32, fd uint64, dir string) (bool, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	rel, relErr := filepath.Rel(dir, path)
	return err == nil && relErr == nil && rel != ".." && !strings.HasPrefix(rel, "../"), err
}
