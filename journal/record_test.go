package journal

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func example() *Operation {
	grace := 30
	return &Operation{
		ID: "0123456789ab", Kind: Restore, State: Staging,
		Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Project: "shop", Snapshot: "aaaaaaaaaaaa", Safety: "bbbbbbbbbbbb",
		Locks: []string{"volume:shop_db", "workload:shop"},
		Volumes: []Volume{{
			Name: "shop_db", Dir: "/var/lib/docker/volumes/shop_db", Live: "_data",
			Stage: ".snaprestore-0123456789ab.new", Fence: ".snaprestore-0123456789ab.fence",
			Old: ".snaprestore-0123456789ab.old", Bytes: 1 << 40,
		}},
		Containers: []Container{{
			ID: "c1", Name: "shop-db-1", Running: true, Policy: Policy{Name: "on-failure", Retries: 3}, StopTimeout: &grace,
		}},
		Start: true, Timeout: time.Minute,
	}
}

func encoded(t testing.TB, op *Operation) []byte {
	t.Helper()
	data, err := encode(*op, op.State, 7, 2)
	assert.NilError(t, err)
	return data
}

func TestARecordComesBackAsItWasWritten(t *testing.T) {
	op, env, err := Decode(encoded(t, example()))
	assert.NilError(t, err)
	assert.DeepEqual(t, op, example())
	assert.Equal(t, env.Seq, 7)
	assert.Equal(t, env.Epoch, 2)
}

func TestARecordTornAnywhereIsDamaged(t *testing.T) {
	data := encoded(t, example())
	for n := range data {
		_, _, err := Decode(data[:n])
		assert.Assert(t, errors.Is(err, ErrCorrupt), "%d of %d bytes: %v", n, len(data), err)
	}
	for _, more := range []string{"{}", "}", "x", "\x00"} {
		_, _, err := Decode(append(append([]byte(nil), data...), more...))
		assert.Assert(t, errors.Is(err, ErrCorrupt), "with %q: %v", more, err)
	}
	zeros := append([]byte(nil), data...)
	clear(zeros[len(zeros)/2:])
	_, _, err := Decode(zeros)
	assert.ErrorIs(t, err, ErrCorrupt)
}

// A flipped bit is found, or changes nothing that is read (the case of a key).
func TestABitFlippedAnywhereFailsClosedOrChangesNothing(t *testing.T) {
	data := encoded(t, example())
	found := 0
	for i := range data {
		for bit := range 8 {
			flipped := append([]byte(nil), data...)
			flipped[i] ^= 1 << bit
			op, env, err := Decode(flipped)
			if err != nil {
				assert.Assert(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNewer), "%v", err)
				assert.Assert(t, op == nil)
				found++
				continue
			}
			assert.DeepEqual(t, op, example())
			assert.Assert(t, env.Seq == 7 && env.Epoch == 2 && env.Format == Format, "byte %d bit %d: %+v", i, bit, env)
		}
	}
	assert.Assert(t, found > len(data)*7, "only %d flips of %d were found", found, len(data)*8)
}

// forge makes a record with a right checksum of any body.
func forge(t testing.TB, format int, body string) []byte {
	t.Helper()
	env := Envelope{Format: format, Seq: 1, Body: json.RawMessage(body)}
	env.CRC = env.checksum()
	data, err := json.Marshal(env)
	assert.NilError(t, err)
	return data
}

func TestARecordOfANewerVersionIsNotGuessedAt(t *testing.T) {
	for name, data := range map[string][]byte{
		"newer format":            forge(t, Format+1, `{"unheard":"of"}`),
		"newer format and layout": []byte(`{"format":2,"body":"somewhere else","more":[]}`),
		"a field not known":       forge(t, Format, `{"id":"0123456789ab","kind":"restore","state":"staging","careful":true}`),
		"a field not known below": forge(t, Format, `{"id":"0123456789ab","kind":"restore","state":"staging","volumes":[{"careful":true}]}`),
	} {
		_, _, err := Decode(data)
		assert.Check(t, errors.Is(err, ErrNewer), "%s: %v", name, err)
		assert.Check(t, !errors.Is(err, ErrCorrupt), "%s: %v", name, err)
	}
}

func TestARecordThatRecoveryCannotActOnIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Operation){
		"no id":                 func(op *Operation) { op.ID = "" },
		"an id that is a path":  func(op *Operation) { op.ID = "../../../etc" },
		"unknown kind":          func(op *Operation) { op.Kind = "erase" },
		"unknown state":         func(op *Operation) { op.State = "done" },
		"relative directory":    func(op *Operation) { op.Volumes[0].Dir = "volumes/x" },
		"directory with dots":   func(op *Operation) { op.Volumes[0].Dir = "/volumes/../etc" },
		"live name is a path":   func(op *Operation) { op.Volumes[0].Live = "a/b" },
		"stage name goes up":    func(op *Operation) { op.Volumes[0].Stage = ".." },
		"old name is the dir":   func(op *Operation) { op.Volumes[0].Old = "." },
		"fence name with a NUL": func(op *Operation) { op.Volumes[0].Fence = "a\x00b" },
	} {
		op := example()
		change(op)
		_, err := encode(*op, op.State, 1, 0)
		assert.Check(t, err != nil, "%s was written", name)
		body, err := json.Marshal(op)
		assert.NilError(t, err)
		_, _, err = Decode(forge(t, Format, string(body)))
		assert.Check(t, errors.Is(err, ErrCorrupt), "%s: %v", name, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f, example()))
	f.Add(encoded(f, &Operation{ID: "0123456789ab", Kind: Create, State: Closed, Outcome: &Outcome{Result: ResultDone}}))
	f.Add(forge(f, Format, `{"id":"0123456789ab","kind":"restore","state":"staging","volumes":[{"dir":"/","live":".."}]}`))
	f.Add(forge(f, Format+1, `{}`))
	f.Add(forge(f, Format, `[1,2]`))
	f.Add([]byte(`{"format":1,"seq":1,"epoch":0,"crc32c":"00000000","body":null}`))
	f.Add([]byte(``))
	f.Add([]byte(strings.Repeat(`{"body":`, 1000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		op, env, err := Decode(data)
		if err != nil {
			if op != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
				t.Fatalf("%v, %v", op, err)
			}
			return
		}
		if err := op.check(); err != nil {
			t.Fatal(err)
		}
		again, err := encode(*op, op.State, env.Seq, env.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		same, _, err := Decode(again)
		assert.NilError(t, err)
		assert.DeepEqual(t, same, op)
	})
}
