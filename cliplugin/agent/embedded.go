//go:build embedagent

package agent

import (
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// embeddedAgents holds embedded/linux-ARCH.gz for each architecture that is
// not the build's own.
//
//go:embed embedded/*.gz
var embeddedAgents embed.FS

func embedded(arch string) ([]byte, error) {
	f, err := embeddedAgents.Open("embedded/linux-" + arch + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotEmbedded
	}
	if err != nil {
		return nil, fmt.Errorf("open embedded agent: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("unpack embedded agent: %w", err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("unpack embedded agent: %w", err)
	}
	return data, nil
}
