package agent

import (
	"context"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/btrfs"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/pack"
	"github.com/snaprestore/snaprestore/restore/reflink"
)

// Main is the agent's process: docker-snaprestore agent. It gives the exit
// status.
func Main() int { return process(openDomain) }

func openDomain(ctx context.Context, c restore.Config) (Domain, error) {
	c.Copiers = copyengine.Set{btrfs.New(), reflink.New(), pack.New(), archive.New()}
	return restore.Open(ctx, c)
}
