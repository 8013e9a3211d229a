package restore

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
)

// An ext4 without a journal, which no option of its mount tells from one with,
// is warned of.
func TestAFileSystemWithoutAJournalIsWarnedOf(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []string
		status  string
	}{
		{"with a journal", nil, checkOK},
		{"without a journal", []string{"-O", "^has_journal"}, checkWarning},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &Domain{Config: Config{Root: conformance.FileSystem(t, "ext4", c.options...)}}
			check := d.fileSystemCheck()
			assert.Equal(t, check.Status, c.status, "%+v", check)
			assert.Equal(t, strings.Contains(check.Hint, "has_journal"), c.status == checkWarning, "%+v", check)
		})
	}
}
