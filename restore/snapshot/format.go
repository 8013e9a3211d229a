package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"regexp"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Format is the version of snapshot.json that this code writes, and the
// newest that it reads.
const Format = 1

// Tree is the engine of a volume whose content is a plain tree: that of a
// safety snapshot.
const Tree = "tree"

// File is the name of a snapshot's description in its directory and in the
// portable archive.
const File = "snapshot.json"

// FileLimit bounds what is read of a description, in bytes.
const FileLimit = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is a description as it is written, laid out like a record of the
// journal.
type envelope struct {
	Format int             `json:"format"`
	CRC    string          `json:"crc32c"` // of Body's bytes, 8 hexadecimal digits
	Body   json.RawMessage `json:"body"`
}

func checksum(body []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli))
}

// Encode makes the bytes of snapshot.json; it sets the format.
func Encode(snap Snapshot) ([]byte, error) {
	snap.Format = Format
	body, err := json.Marshal(snap)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot %s: %w", snap.ID, err)
	}
	return json.Marshal(envelope{Format: Format, CRC: checksum(body), Body: body})
}

// Decode reads the bytes of snapshot.json and checks its checksum and its
// rules. Its errors are of kind fault.Corrupt, or fault.Failed for a newer
// format.
func Decode(data []byte) (Snapshot, error) {
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return Snapshot{}, fault.New(fault.Corrupt, "read %s: %w", File, err)
	}
	if env.Format > Format {
		return Snapshot{}, fault.New(fault.Failed, "read %s: its format is %d and this version reads up to %d", File, env.Format, Format).
			WithHint("a newer version of this tool wrote it: install that one, docker snaprestore version tells which this is")
	}
	if env.Format < 1 || env.CRC != checksum(env.Body) {
		return Snapshot{}, fault.New(fault.Corrupt, "read %s: its checksum differs", File)
	}
	var snap Snapshot
	if err := json.Unmarshal(env.Body, &snap); err != nil {
		return Snapshot{}, fault.New(fault.Corrupt, "read %s: %w", File, err)
	}
	if snap.Format != env.Format {
		return Snapshot{}, fault.New(fault.Corrupt, "read %s: it is of format %d outside and %d inside", File, env.Format, snap.Format)
	}
	if err := snap.validate(); err != nil {
		return Snapshot{}, fault.New(fault.Corrupt, "read %s: %w", File, err)
	}
	return snap, nil
}

var sha256Shape = regexp.MustCompile(`^[0-9a-f]{64}$`)

// validate checks the rules that readers rest on: names that stay in the
// snapshot's directory, trees only in a safety snapshot.
func (s *Snapshot) validate() error {
	if !journal.ValidID(s.ID) {
		return fmt.Errorf("%q is not an id", s.ID)
	}
	if s.Created.IsZero() {
		return errors.New("it has no date")
	}
	switch s.Kind {
	case Made, Imported:
		if s.Name != "" {
			if err := CheckName(s.Name); err != nil {
				return err
			}
		}
	case Safety:
		if !journal.ValidID(s.Operation) {
			return fmt.Errorf("a safety snapshot of operation %q", s.Operation)
		}
		if s.Name != SafetyName(journal.Restore, s.Operation) && s.Name != SafetyName(journal.Undo, s.Operation) {
			return fmt.Errorf("a safety snapshot of operation %s with the name %q", s.Operation, s.Name)
		}
	default:
		return fmt.Errorf("unknown kind %q", s.Kind)
	}
	files := map[string]bool{File: true}
	for i, v := range s.Volumes {
		if err := v.validate(s.Kind); err != nil {
			return fmt.Errorf("volume %d: %w", i, err)
		}
		if v.File != "" && files[v.File] {
			return fmt.Errorf("volume %d: the file %q serves twice", i, v.File)
		}
		files[v.File] = true
	}
	return nil
}

func (v *Volume) validate(kind Kind) error {
	switch {
	case v.Name == "":
		return errors.New("it has no name")
	case v.Bytes < 0 || v.Files < 0 || v.Stored < 0 || v.Beside < 0:
		return errors.New("a negative size")
	case v.Engine == "":
		return errors.New("it names no copy engine")
	case (v.Engine == Tree) != (kind == Safety):
		return fmt.Errorf("engine %q in a snapshot of kind %s", v.Engine, kind)
	case v.Engine == Tree:
		if !path.IsAbs(v.Tree) || path.Clean(v.Tree) != v.Tree || strings.ContainsRune(v.Tree, 0) {
			return fmt.Errorf("the path of its tree is %q", v.Tree)
		}
		if v.File != "" {
			return fmt.Errorf("a tree with the file %q", v.File)
		}
	case v.Tree != "":
		return fmt.Errorf("engine %q with the tree %q", v.Engine, v.Tree)
	case !nameShape.MatchString(v.File) || len(v.File) > nameLimit:
		return fmt.Errorf("its file is named %q", v.File)
	case !sha256Shape.MatchString(v.SHA256):
		return fmt.Errorf("its checksum is %q", v.SHA256)
	}
	return nil
}

// same reports whether two safety snapshots keep the same trees for the same
// operation. What only describes them may differ: a recovery by another
// version of this tool records its own.
func same(a, b *Snapshot) bool {
	if a.Kind != b.Kind || a.Operation != b.Operation || a.Name != b.Name || len(a.Volumes) != len(b.Volumes) {
		return false
	}
	for i := range a.Volumes {
		if a.Volumes[i].Name != b.Volumes[i].Name || a.Volumes[i].Tree != b.Volumes[i].Tree {
			return false
		}
	}
	return true
}
