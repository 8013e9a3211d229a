//go:build !linux

package main

import (
	"fmt"
	"os"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// drive refuses: the volume driver runs where the engine does.
func drive() int {
	fmt.Fprintln(os.Stderr, volume.Program+": runs on Linux only")
	return 1
}
