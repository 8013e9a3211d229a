package journal

import (
	"crypto/rand"
	"encoding/hex"
	"regexp"
)

// NewID makes an id for an operation or a snapshot: 12 hexadecimal digits.
func NewID() string {
	b := make([]byte, 6)
	if _, err := rand.Read(b); err != nil {
		panic(err) // the system's source of randomness does not fail
	}
	return hex.EncodeToString(b)
}

var idShape = regexp.MustCompile(`^[0-9a-f]{12}$`)

// ValidID reports whether id has the shape of an operation's or snapshot's id.
func ValidID(id string) bool { return idShape.MatchString(id) }
