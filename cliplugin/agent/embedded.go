//go:build embedagent

package agent

import "embed"

// embeddedAgents holds the programs that the build carries for engines:
// embedded/linux-ARCH.gz and, in embedded/linux-ARCH.sum, the SHA-256 of that
// file in hexadecimal digits.
//
//go:embed embedded/*.gz embedded/*.sum
var embeddedAgents embed.FS

func embedded(arch string) (executable, error) {
	return carried(embeddedAgents, "embedded/linux-"+arch)
}
