//go:build linux

package pack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// An operation that is cut short anywhere holds no file, which would keep a
// volume busy.
func TestWhatIsCutShortHoldsNothing(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	assert.NilError(t, os.Mkdir(source, 0o700))
	for i := range 200 {
		assert.NilError(t, os.WriteFile(filepath.Join(source, fmt.Sprint("small", i)), make([]byte, i+1), 0o600))
	}
	for i := range 3 {
		assert.NilError(t, os.WriteFile(filepath.Join(source, fmt.Sprint("large", i)), make([]byte, 5<<20), 0o600))
	}
	from, store := openDir(t, source), openDir(t, dir)
	skipped := func(string, string) {}
	whole, err := New().Save(context.Background(), from, store, 0, skipped, nobody)
	assert.NilError(t, err)
	cold := engine{func(*tree.Node, []byte) bool { return false }}
	for name, run := range map[string]func(context.Context, copyengine.Progress) error{
		"save": func(ctx context.Context, p copyengine.Progress) error {
			_, err := New().Save(ctx, from, store, 1, skipped, p)
			return err
		},
		"save from a cold disk": func(ctx context.Context, p copyengine.Progress) error {
			_, err := cold.Save(ctx, from, store, 1, skipped, p)
			return err
		},
		"capture": func(ctx context.Context, p copyengine.Progress) error {
			c, err := New().(copyengine.Incremental).Capture(ctx, nil, ever, from, store, 1, skipped, p)
			if err == nil {
				c.Close()
			}
			return err
		},
		"verify": func(ctx context.Context, p copyengine.Progress) error { return New().Verify(ctx, store, whole, p) },
		"load": func(ctx context.Context, p copyengine.Progress) error {
			target := filepath.Join(dir, "target")
			if err := errors.Join(os.RemoveAll(target), os.Mkdir(target, 0o700)); err != nil {
				return err
			}
			root, err := os.OpenRoot(target)
			if err != nil {
				return err
			}
			defer root.Close()
			return New().Load(ctx, store, whole, root, p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 1; at < 400; at += 1 + at/3 {
				_ = os.Remove(filepath.Join(dir, FileName(1)))
				files := held(t)
				ctx, cancel := context.WithCancel(context.Background())
				calls := 0
				err := run(ctx, func(int64, int64) {
					if calls++; calls == at {
						cancel()
					}
				})
				cancel()
				assert.ErrorIs(t, err, context.Canceled, "ended at call %d", at)
				assert.Equal(t, held(t), files, "open files, ended at call %d", at)
			}
		})
	}
}

// What was captured and is given up, or whose storing is cut short, holds nothing.
func TestWhatWasCapturedHoldsNothingWhenItIsGivenUp(t *testing.T) {
	s := newSeries(t)
	s.write("large", 3<<20)
	s.write("small", 3000)
	base := s.ahead("ahead", nil, ever)
	s.write("large", 3<<20)
	for _, end := range []string{"close", "cut short", "finish"} {
		store := s.folder(end)
		files := held(t)
		c, _, _ := s.capture(store, base, ever)
		ctx, cancel := context.WithCancel(context.Background())
		var err error
		switch end {
		case "cut short":
			cancel()
			_, err = c.Finish(ctx)
			assert.ErrorIs(t, err, context.Canceled)
		case "finish":
			_, err = c.Finish(ctx)
			assert.NilError(t, err)
		}
		c.Close()
		cancel()
		assert.Equal(t, held(t), files+1, end) // the tree, which the capture opened for the test
		for _, name := range contents(t, store) {
			assert.Assert(t, filepath.Ext(name) == ".pack", name)
		}
	}
}

// held is the number of files that the process has open.
func held(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	assert.NilError(t, err)
	return len(all)
}
