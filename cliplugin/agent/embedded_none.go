//go:build !embedagent

package agent

// embedded finds nothing in a build that is made for its own machine.
func embedded(string) (executable, error) { return executable{}, errNotEmbedded }
