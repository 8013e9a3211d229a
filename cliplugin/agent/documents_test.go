package agent

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestDesignHasAReasonForEveryCapability(t *testing.T) {
	data, err := os.ReadFile("../../DESIGN.md")
	assert.NilError(t, err)
	_, after, found := strings.Cut(string(data), "\n### Privileges")
	assert.Assert(t, found)
	var got []string
	for line := range strings.Lines(strings.SplitN(after, "\n#", 2)[0]) {
		cells := strings.Split(line, "|")
		if len(cells) == 4 && strings.TrimSpace(cells[2]) != "" {
			got = append(got, strings.TrimSpace(cells[1]))
		}
	}
	assert.DeepEqual(t, got, append([]string{"capability", "---"}, capabilities...))
}
