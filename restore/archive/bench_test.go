//go:build linux

package archive

import (
	"testing"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func BenchmarkEngine(b *testing.B) { conformance.Benchmark(b, New()) }
