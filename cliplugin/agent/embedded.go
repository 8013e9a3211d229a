//go:build embedagent

package agent

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
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

func embedded(arch string) (executable, error) {
	packed, err := embeddedAgents.ReadFile("embedded/linux-" + arch + ".gz")
	if errors.Is(err, fs.ErrNotExist) {
		return executable{}, errNotEmbedded
	}
	if err != nil {
		return executable{}, fmt.Errorf("open embedded agent: %w", err)
	}
	return executable{sha256.Sum256(packed), func() ([]byte, error) {
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, fmt.Errorf("unpack embedded agent: %w", err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			return nil, fmt.Errorf("unpack embedded agent: %w", err)
		}
		return data, nil
	}}, nil
}
