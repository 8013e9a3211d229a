//go:build linux

// Command snaprestored is the volume driver as a program of its own. The same
// code is in docker-snaprestore, under this name as the first argument.
package main

import (
	"os"

	"github.com/snaprestore/snaprestore/volplugin"
)

func main() { os.Exit(volplugin.Main(os.Args[1:], os.Stderr)) }
