package volume

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"gotest.tools/v3/assert"
)

// TestACopyOfTheDriversMountIsHeldByNobody: what mountinfo says of a process,
// and whether it holds the tree /volumes/db.
func TestACopyOfTheDriversMountIsHeldByNobody(t *testing.T) {
	const (
		root   = "20 1 8:1 / / rw - ext4 /dev/root rw\n"
		points = "30 20 0:40 / /host/lib/plugins/x/propagated-mount ro - tmpfs snaprestore ro\n"
		other  = "30 20 0:40 / /run ro - tmpfs tmpfs ro\n"
	)
	for _, c := range []struct {
		name, mountinfo string
		held            bool
	}{
		{"a container", root + "40 20 8:1 /volumes/db /data rw - ext4 /dev/root rw\n", true},
		{"a container that receives mounts", root + "40 20 8:1 /volumes/db /data rw master:3 - ext4 /dev/root rw\n", true},
		{"the driver, or the engine", root + points + "40 30 8:1 /volumes/db /host/lib/plugins/x/propagated-mount/db rw shared:3 - ext4 /dev/root rw\n", true},
		{"a copy that receives mounts", root + points + "40 30 8:1 /volumes/db /host/lib/plugins/x/propagated-mount/db rw master:3 - ext4 /dev/root rw\n", true},
		{"a copy", root + points + "40 30 8:1 /volumes/db /host/lib/plugins/x/propagated-mount/db rw - ext4 /dev/root rw\n", false},
		{"a bind on another tmpfs", root + other + "40 30 8:1 /volumes/db /run/db rw - ext4 /dev/root rw\n", true},
		{"another tree", root + "40 20 8:1 /volumes/web /data rw - ext4 /dev/root rw\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			proc := t.TempDir()
			assert.NilError(t, os.Mkdir(filepath.Join(proc, "77"), 0o700))
			assert.NilError(t, os.Mkdir(filepath.Join(proc, "78"), 0o700)) // has ended
			assert.NilError(t, os.WriteFile(filepath.Join(proc, "77", "mountinfo"), []byte(c.mountinfo), 0o600))
			pids, err := Holders(proc, func(m *mountinfo.Info) bool { return m.Root == "/volumes/db" })
			assert.NilError(t, err)
			assert.Equal(t, len(pids) == 1, c.held, "%v", pids)
		})
	}
}
