package volplugin

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities are what the driver keeps, and what for. The engine gives a
// plugin the set of a container besides.
var capabilities = []struct {
	bit  uint
	name string
	why  string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "mount and unmount"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "tell the mount namespaces of other processes apart, to see who uses a tree, and enter the engine's"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "enter the engine's mount namespace, to give back the mount paths that it lost"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "delete trees that other users own"},
	{unix.CAP_FOWNER, "CAP_FOWNER", "delete in directories with the sticky bit"},
}

// dropCapabilities gives up everything but the capabilities above, in every
// thread of the process.
func dropCapabilities() error {
	var keep uint64
	for _, c := range capabilities {
		keep |= 1 << c.bit
	}
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for i := range have {
		mask := uint32(keep >> (32 * i))
		have[i].Permitted &= mask
		have[i].Effective = have[i].Permitted
		have[i].Inheritable = 0
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&have[0])), 0)
	switch {
	case errors.Is(errno, syscall.ENOTSUP): // a build with cgo cannot; releases have none
		return nil
	case errno != 0:
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	return nil
}
