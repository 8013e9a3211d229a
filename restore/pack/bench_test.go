//go:build linux

package pack

import (
	"testing"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

func BenchmarkEngine(b *testing.B) { conformance.Benchmark(b, New()) }
