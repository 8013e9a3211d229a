//go:build linux

// Command snaprestored is the engine's side of snaprestore: the volume driver,
// and, called with "agent" as its first argument, the agent. It is what
// docker-snaprestore carries for engines to run.
//
// It has its own main because of what that does not need: without Docker's client and
// Compose's files a program starts in half the time and holds half the memory,
// and a driver runs all the time.
package main

import (
	"os"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/volplugin"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == agent.Argument {
		os.Exit(agent.Main())
	}
	os.Exit(volplugin.Main(os.Args[1:], os.Stderr))
}
