package agent

import (
	"path"

	"github.com/snaprestore/snaprestore/restore"
)

// Program is the static binary for an engine host: what an agent is made of,
// and the volume driver too.
func Program(host restore.Host) ([]byte, error) {
	p, err := binaryFor(host)
	if err != nil {
		return nil, err
	}
	return p.read()
}

// StateRoot is the path of the state root on an engine host.
func StateRoot(host restore.Host) string { return path.Join(host.DataRoot, stateDirectory) }
