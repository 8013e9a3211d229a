package snapshot

import (
	"regexp"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Latest is the reference to the newest snapshot of a project; "latest~1" is
// the one before it.
const Latest = "latest"

// nameLimit bounds a name, in bytes, so that it fits a file name on every
// file system.
const nameLimit = 128

var nameShape = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// reserved begins the names that this tool gives.
const reserved = "pre-"

// SafetyName is the name of the snapshot that keeps what a restore or an undo
// replaced: "pre-restore-<operation>", "pre-undo-<operation>".
func SafetyName(kind journal.Kind, operation string) string {
	return reserved + string(kind) + "-" + operation
}

// CheckName refuses a name that a new snapshot may not have: one with other
// characters than letters, digits, "_", "." and "-", or that reads as an id,
// as latest, or as the name of a safety snapshot. It does not know which
// names are taken; Store.NameFree does.
func CheckName(name string) error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Failed, "name snapshot: "+format, args...).
			WithState("nothing was changed").
			WithHint("a name starts with a letter or digit and holds letters, digits, '_', '.' and '-': docker snaprestore create --name before-upgrade")
	}
	switch {
	case len(name) > nameLimit:
		return bad("the name is %d bytes long, the most is %d", len(name), nameLimit)
	case !nameShape.MatchString(name):
		return bad("%q is not a name", name)
	case journal.ValidID(name):
		return bad("%q reads as the id of a snapshot", name)
	case name == Latest:
		return bad("%q always means the newest snapshot", name)
	case safetyShape.MatchString(name):
		return bad("%q is kept for the data that a restore or undo replaces", name)
	}
	return nil
}

var safetyShape = regexp.MustCompile(`^` + reserved + `(` +
	strings.Join([]string{string(journal.Restore), string(journal.Undo)}, "|") + `)-`)
