package agent

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"gotest.tools/v3/assert"
)

// chunked gives data as it travels.
func chunked(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := &archiveWriter{w: &b}
	n, err := w.Write(data)
	assert.NilError(t, err)
	assert.Equal(t, n, len(data))
	assert.NilError(t, w.End())
	return b.Bytes()
}

func TestEveryCutIsNoticed(t *testing.T) {
	wire := chunked(t, []byte("archive"))
	for cut := range len(wire) {
		_, err := io.ReadAll(&archiveReader{r: bytes.NewReader(wire[:cut])})
		assert.Check(t, errors.Is(err, errCut), "cut at %d: %v", cut, err)
		sink := &archiveSink{w: io.Discard}
		_, err = sink.Write(wire[:cut])
		assert.NilError(t, err)
		assert.Check(t, errors.Is(sink.Close(), errCut), "cut at %d", cut)
	}
}

func TestArchiveIsTheSameHoweverItIsRead(t *testing.T) {
	for _, size := range []int{0, 1, maxChunk - 1, maxChunk, maxChunk + 1, 3 * maxChunk} {
		data := bytes.Repeat([]byte{7}, size)
		wire := chunked(t, data)
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(wire),
			"half":  iotest.HalfReader(bytes.NewReader(wire)),
			"late":  iotest.DataErrReader(bytes.NewReader(wire)),
		} {
			got, err := io.ReadAll(&archiveReader{r: r})
			assert.NilError(t, err, "%s of %d", name, size)
			assert.Check(t, bytes.Equal(got, data), "%s of %d", name, size)
		}
		var got bytes.Buffer
		sink := &archiveSink{w: &got}
		for i := 0; i < len(wire); i += 1000 {
			_, err := sink.Write(wire[i:min(i+1000, len(wire))])
			assert.NilError(t, err)
		}
		assert.NilError(t, sink.Close())
		assert.Check(t, bytes.Equal(got.Bytes(), data), "%d", size)
	}
}

func TestNonsenseIsNoArchive(t *testing.T) {
	_, err := io.ReadAll(&archiveReader{r: bytes.NewReader([]byte("PK\x03\x04 this is no archive"))})
	assert.ErrorContains(t, err, "a chunk of")
}

// The rest of a container's output is read on when the archive's destination
// is full, and the first error is told at the end.
func TestFullDestinationIsToldAtTheEnd(t *testing.T) {
	full := errors.New("full")
	sink := &archiveSink{w: failing{full}}
	_, err := sink.Write(chunked(t, []byte("archive")))
	assert.NilError(t, err)
	assert.Check(t, errors.Is(sink.Close(), full))
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
