package output

import (
	"strings"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Error is err for a person: what failed and which state the data is in, then
// what to do next on a line of its own.
func Error(err error) string {
	f := fault.From(err)
	if f == nil {
		return ""
	}
	text := strings.TrimRight(f.Error(), "\n") + "\n"
	if f.Hint != "" {
		text += "hint: " + f.Hint + "\n"
	}
	return text
}
