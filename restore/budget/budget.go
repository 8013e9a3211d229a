// Package budget bounds what copying takes from what else the machine does.
//
// Algorithm: a context carries a limit in bytes a second, which whoever reads or
// writes contents draws from before he does, and says that other work goes on
// meanwhile. Do then copies on a thread of low priority, for the processor and
// for the disk, and the workers that are started from it take theirs from it.
// Priorities belong to threads, and a process without CAP_SYS_NICE cannot raise
// one again: so such a thread ends with its goroutine, and what is done while a
// workload stands still is done on others, at full speed.
//
// It leaves nothing on the disk.
package budget

import (
	"context"

	"golang.org/x/time/rate"
)

// key is that of the budget in a context.
type key struct{}

// With gives a context for copying while other work goes on. Limit is in bytes
// a second, 0 for none, and is shared by all that is done with the context.
func With(ctx context.Context, limit int64) context.Context {
	var l *rate.Limiter
	if limit > 0 {
		l = rate.NewLimiter(rate.Limit(limit), burst(limit))
	}
	return context.WithValue(ctx, key{}, l)
}

// burst is how many bytes may come at once: those of a tenth of a second, but
// not so few that the calls cost more than the bytes.
func burst(limit int64) int { return int(min(max(limit/10, 64<<10), 64<<20)) }

// Take waits until n bytes may be read or written, or ctx ends, whose error it
// gives.
func Take(ctx context.Context, n int64) error {
	l, _ := ctx.Value(key{}).(*rate.Limiter)
	if l == nil {
		return nil
	}
	for n > 0 {
		part := min(n, int64(l.Burst()))
		if err := l.WaitN(ctx, int(part)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		n -= part
	}
	return nil
}

// Progress gives a function that calls p and takes the bytes that it was
// called with, for copying whose every byte is told when it was copied.
func Progress(ctx context.Context, p func(bytes, files int64)) func(bytes, files int64) {
	return func(bytes, files int64) {
		p(bytes, files)
		_ = Take(ctx, bytes) // that ctx has ended is noticed by who copies
	}
}

// bounded reports whether other work goes on while something is done with ctx.
func bounded(ctx context.Context) bool {
	_, ok := ctx.Value(key{}).(*rate.Limiter)
	return ok
}
