package budget

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func TestBytesComeNoFasterThanTheLimit(t *testing.T) {
	const limit = 1 << 20
	ctx := With(context.Background(), limit)
	began := time.Now()
	var all sync.WaitGroup
	for range 4 { // who shares the context shares the limit
		all.Go(func() {
			for range 8 {
				assert.Check(t, Take(ctx, 10<<10) == nil)
			}
		})
	}
	all.Wait()
	least := time.Duration(float64(320<<10-burst(limit)) / limit * float64(time.Second))
	assert.Assert(t, time.Since(began) >= least, "%s", time.Since(began))
}

func TestOnlyALimitHoldsBack(t *testing.T) {
	for _, ctx := range []context.Context{context.Background(), With(context.Background(), 0)} {
		assert.NilError(t, Take(ctx, 1<<60))
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(With(context.Background(), 1))
	ended := make(chan error)
	go func() { ended <- Take(ctx, 1<<40) }()
	cancel()
	assert.ErrorIs(t, <-ended, context.Canceled)
}

// low tells the priorities of the calling thread.
func low(t *testing.T) bool {
	t.Helper()
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	assert.Check(t, err == nil)
	io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, 0, 0)
	assert.Check(t, errno == 0)
	nice, last := kernelNice-raw == niceness, io == ioprioLowest
	assert.Check(t, nice == last, "nice %d, disk %#x", kernelNice-raw, io)
	return nice && last
}

// Copying beside other work, and the workers that are started for it, have low
// priorities; what comes after it in the same goroutine has not.
func TestOnlyCopyingBesideOtherWorkIsOfLowPriority(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if low(t) {
		t.Skip("all of this process is of low priority")
	}
	worker := func() (is bool) {
		begin, done := Worker(), make(chan struct{})
		go func() {
			defer close(done)
			begin()
			is = low(t)
		}()
		<-done
		return is
	}
	failed := errors.New("failed")
	for _, bound := range []bool{true, false} {
		ctx := context.Background()
		if bound {
			ctx = With(ctx, 0)
		}
		err := Do(ctx, func() error {
			assert.Check(t, low(t) == bound)
			assert.Check(t, worker() == bound)
			return failed
		})
		assert.ErrorIs(t, err, failed)
		assert.Check(t, !low(t))
		assert.Check(t, !worker())
	}
}

func TestWhatDoesNotReturnIsAnError(t *testing.T) {
	err := Do(With(context.Background(), 0), func() error {
		runtime.Goexit()
		return nil
	})
	assert.ErrorIs(t, err, errEnded)
}
