//go:build !linux

package agent

import (
	"fmt"
	"os"
)

// Main refuses: agents run where the engine does, on Linux.
func Main() int {
	fmt.Fprintln(os.Stderr, "docker-snaprestore agent: runs in a Linux container only")
	return exitElsewhere
}

// exitElsewhere is the status of an agent that was started outside Linux.
const exitElsewhere = 1
