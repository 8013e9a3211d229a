package budget

import (
	"context"
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// The priority of copying. Of the best-effort classes the disk's is the last,
// and not that of idle time, in which a busy disk never gets to it.
const (
	niceness     = 10
	whoProcess   = 1         // IOPRIO_WHO_PROCESS of linux/ioprio.h, with 0 for the calling thread
	ioprioLowest = 2<<13 | 7 // IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)
	kernelNice   = 20        // the system call gives 20 less the nice value (getpriority(2))
)

// errEnded is what Do gives where do did not return.
var errEnded = errors.New("the copying was ended")

// Do runs do, on a thread of low priority where ctx has a budget.
func Do(ctx context.Context, do func() error) error {
	if !bounded(ctx) {
		return do()
	}
	err, ended := errEnded, make(chan struct{})
	go func() {
		defer close(ended) // also where do ends its goroutine
		lower()
		err = do()
	}()
	<-ended
	return err
}

// Worker gives what a goroutine that works for the calling one calls first, so
// that its priority is no higher. That goroutine must end with the work.
func Worker() func() {
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || kernelNice-raw < niceness {
		return func() {}
	}
	return lower
}

// lower keeps the calling goroutine on a thread of low priority that ends with
// it. Where the kernel does not want to lower it, it stays as it is.
func lower() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, ioprioLowest)
}
