package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal"
)

// TestWhoHoldsAnOldTree: a process with the fenced tree mounted, or a part of
// it, is waited for.
func TestWhoHoldsAnOldTree(t *testing.T) {
	op, other := journal.NewID(), journal.NewID()
	fence := "/volumes/db/" + besidePrefix + op + "-db" + fenceSuffix
	for _, c := range []struct {
		name, root, mountpoint string
		held                   bool
	}{
		{"a container", fence, "/data", true},
		{"a container below a subdirectory", fence + "/base", "/data", true},
		{"another operation's", "/volumes/db/" + besidePrefix + other + "-db" + fenceSuffix, "/data", false},
		{"the live tree", "/volumes/db/_data", "/data", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			assert.NilError(t, os.Mkdir(filepath.Join(proc, "77"), 0o700))
			line := fmt.Sprintf("36 35 98:0 %s %s rw,noatime - ext4 /dev/root rw\n", c.root, c.mountpoint)
			assert.NilError(t, os.WriteFile(filepath.Join(proc, "77", "mountinfo"), []byte(line), 0o600))
			d := &Domain{Config: Config{Proc: proc}}
			pids, err := d.holders(op)
			assert.NilError(t, err)
			assert.Equal(t, len(pids) == 1, c.held, "%v", pids)
		})
	}
}
