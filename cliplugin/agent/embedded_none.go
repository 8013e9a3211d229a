//go:build !embedagent

package agent

// embedded finds nothing in a build that carries no programs for engines.
func embedded(string) (executable, error) { return executable{}, errNotEmbedded }
