// Package build says which build of the tool this is. The values are set by
// the linker (-X), so that a client and the agent it loads can compare them.
package build

// Version is the release, "dev" for a build by hand.
var Version = "dev"
