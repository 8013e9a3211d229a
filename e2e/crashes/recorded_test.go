//go:build e2e && linux

package crashes

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// The disk ends well however its last request and its unmount meet: many at
// once, since without the case for it one in a thousand failed.
func TestARecordedDiskEndsWell(t *testing.T) {
	needRoot(t)
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			d := newDisks(t, ext4)
			disk := filepath.Join(d.dir, "disk")
			assert.NilError(t, d.make(disk))
			for range 100 {
				log, unmount, err := d.mountRecorded(disk, d.at)
				assert.NilError(t, err)
				assert.NilError(t, unmount())
				events, err := readLog(log, d.sector)
				assert.NilError(t, err)
				assert.Assert(t, len(events) > 0, "a mount that writes nothing")
				assert.NilError(t, os.Remove(log))
			}
		})
	}
}
