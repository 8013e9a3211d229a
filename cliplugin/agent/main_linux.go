package agent

import (
	"context"
	"runtime/debug"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/reflink"
)

// Main is the agent's process: docker-snaprestore agent. It gives the exit
// status.
func Main() int {
	debug.SetGCPercent(garbage)
	return process(openDomain)
}

// garbage is how much, in percent of what is in use, may pile up before it is
// collected. An agent holds few things, most of them buffers without a pointer:
// to collect often costs next to nothing, and it is a guest on the machine.
const garbage = 25

func openDomain(ctx context.Context, c restore.Config) (Domain, error) {
	c.Copiers = copyengine.Set{btrfs.New(), reflink.New(), pack.New(), archive.New()}
	return restore.Open(ctx, c)
}
