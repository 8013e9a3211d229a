package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"strings"
)

// Errors about a record.
var (
	// ErrNotFound: no operation has this id.
	ErrNotFound = errors.New("no such operation")
	// ErrCorrupt: the record does not match its checksum or cannot be read.
	ErrCorrupt = errors.New("journal record is damaged")
	// ErrNewer: a newer version of this tool wrote the record.
	ErrNewer = errors.New("journal record is of a newer format")
	// ErrInDoubt: the decision was tried, and an error hides whether it holds.
	ErrInDoubt = errors.New("decision is in doubt")
)

// Envelope is a record as it is written: one JSON object.
type Envelope struct {
	// Format is the version of the layout.
	Format int `json:"format"`
	// Seq grows with every record of the operation.
	Seq int `json:"seq"`
	// Epoch is 0 for the process that began the operation and grows by one
	// with every takeover; it shows in the first record written after it.
	Epoch int `json:"epoch"`
	// CRC is a CRC-32C, 8 hexadecimal digits, of "<format> <seq> <epoch> " in
	// decimal digits and the bytes of Body.
	CRC string `json:"crc32c"`
	// Body is an Operation.
	Body json.RawMessage `json:"body"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers all of the envelope but itself.
func (e *Envelope) checksum() string {
	crc := crc32.Checksum(fmt.Appendf(nil, "%d %d %d ", e.Format, e.Seq, e.Epoch), castagnoli)
	return fmt.Sprintf("%08x", crc32.Update(crc, castagnoli, e.Body))
}

// Decode reads one record and believes nothing that its checksum does not
// cover. A record of a newer format is ErrNewer, any other fault ErrCorrupt.
func Decode(data []byte) (*Operation, Envelope, error) {
	var env Envelope
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return nil, env, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if format.Format > Format {
		return nil, env, fmt.Errorf("%w: %d, this version reads up to %d", ErrNewer, format.Format, Format)
	}
	if err := strict(data, &env); err != nil {
		return nil, Envelope{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if env.Format < 1 || env.CRC != env.checksum() {
		return nil, Envelope{}, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	op := &Operation{}
	if err := json.Unmarshal(env.Body, op); err != nil {
		return nil, Envelope{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := strict(env.Body, &Operation{}); err != nil {
		// Whole, and with a field that this version does not know: an action
		// may depend on it.
		return nil, Envelope{}, fmt.Errorf("%w: %w", ErrNewer, err)
	}
	if err := op.check(); err != nil {
		return nil, Envelope{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return op, env, nil
}

// strict decodes exactly one JSON value without unknown fields.
func strict(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("something follows the record")
	}
	return nil
}

// encode makes the bytes of op's record in the given state.
func encode(op Operation, state State, seq, epoch int) ([]byte, error) {
	op.State = state
	if err := op.check(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(op)
	if err != nil {
		return nil, err
	}
	env := Envelope{Format: Format, Seq: seq, Epoch: epoch, Body: body}
	env.CRC = env.checksum()
	return json.Marshal(env)
}

// check refuses an operation that recovery could not act on: what it renames
// and removes are single names in a directory given by a clean absolute path.
func (op *Operation) check() error {
	if !ValidID(op.ID) {
		return fmt.Errorf("bad id %q", op.ID)
	}
	if !slices.Contains(Kinds(), op.Kind) {
		return fmt.Errorf("unknown kind %q", op.Kind)
	}
	if !slices.Contains(States(), op.State) {
		return fmt.Errorf("unknown state %q", op.State)
	}
	for _, v := range op.Volumes {
		if v.Dir != "" && (!path.IsAbs(v.Dir) || path.Clean(v.Dir) != v.Dir) {
			return fmt.Errorf("volume %q: bad directory %q", v.Name, v.Dir)
		}
		for _, name := range []string{v.Live, v.Stage, v.Fence, v.Old} {
			if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return fmt.Errorf("volume %q: bad entry name %q", v.Name, name)
			}
		}
	}
	return nil
}
