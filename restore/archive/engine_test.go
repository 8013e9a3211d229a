//go:build linux

package archive

import (
	"testing"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func TestEngine(t *testing.T) { conformance.Run(t, New(), nil) }
