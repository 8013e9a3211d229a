package journal

import (
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestDesignHasTheStates(t *testing.T) {
	data, err := os.ReadFile("../DESIGN.md")
	assert.NilError(t, err)
	_, after, found := strings.Cut(string(data), "\n### States")
	assert.Assert(t, found)
	got := map[string]string{}
	for line := range strings.Lines(strings.SplitN(after, "\n#", 2)[0]) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			got[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[2])
		}
	}
	want := map[string]string{"from": "to", "---": "---"}
	for _, row := range transitions {
		var to []string
		for _, s := range row.to {
			to = append(to, string(s))
		}
		want[or(row.from, "(new)")] = strings.Join(to, ", ")
	}
	assert.DeepEqual(t, got, want)
}
