package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/budget"
)

// keepsToLimit is for engines that read and write contents: with a limit they
// take no less than the time for it, and end with their context while they
// wait.
func (s suite) keepsToLimit(t *testing.T) {
	p := s.at(t)
	b := builder{t, p.source}
	b.file("large", random(600<<10))
	b.mkdir("small")
	for _, name := range []string{"a", "b", "c", "d"} {
		b.file("small/"+name, random(100<<10))
	}
	c, err := p.save(context.Background())
	assert.NilError(t, err)
	if st, err := os.Stat(filepath.Join(p.stored, c.File)); err == nil && st.IsDir() {
		t.Skip("the engine copies no contents")
	}
	// A tenth of a second's bytes come at once, the rest in half a second.
	const limit = 1 << 20
	least := time.Duration(float64(c.Bytes-limit/10) / limit * float64(time.Second))
	for name, run := range map[string]func(*place, context.Context) error{
		"save": func(p *place, ctx context.Context) error { _, err := p.save(ctx); return err },
		"load": func(p *place, ctx context.Context) error { return p.load(ctx, c) },
	} {
		other := s.at(t)
		if other.tree = p.tree; name == "load" {
			other.store = p.store
		}
		began := time.Now()
		assert.NilError(t, run(other, budget.With(context.Background(), limit)), name)
		assert.Assert(t, time.Since(began) >= least, "%s took %s, and at the limit it is %s", name, time.Since(began), least)

		other = s.at(t)
		if other.tree = p.tree; name == "load" {
			other.store = p.store
		}
		ctx, cancel := context.WithCancel(context.Background())
		other.onProgress = cancel
		err := run(other, budget.With(ctx, 1)) // which would take days
		assert.Assert(t, errors.Is(err, context.Canceled), "%s: %v", name, err)
		cancel()
	}
}
