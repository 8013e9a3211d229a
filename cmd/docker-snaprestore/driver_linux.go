package main

import (
	"os"

	"github.com/snaprestore/snaprestore/volplugin"
)

// drive runs the volume driver: the program as the engine starts it.
func drive() int { return volplugin.Main(os.Args[1:], os.Stderr) }
