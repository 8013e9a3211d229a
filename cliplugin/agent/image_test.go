package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// staticELF is the smallest file that is an ELF program.
func staticELF(t *testing.T, progs ...elf.Prog32) []byte {
	t.Helper()
	var ident [elf.EI_NIDENT]byte
	copy(ident[:], "\x7fELF\x01\x01\x01")
	var b bytes.Buffer
	h := elf.Header32{Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: 1,
		Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: uint16(len(progs)), Shentsize: 40}
	assert.NilError(t, binary.Write(&b, binary.LittleEndian, h))
	for _, p := range progs {
		assert.NilError(t, binary.Write(&b, binary.LittleEndian, p))
	}
	return b.Bytes()
}

func TestImageIsTheSameEachTime(t *testing.T) {
	var archives [2]bytes.Buffer
	for i := range archives {
		img := newImage("amd64", executableOf(staticELF(t)))
		assert.NilError(t, img.Archive(&archives[i]))
	}
	assert.Check(t, bytes.Equal(archives[0].Bytes(), archives[1].Bytes()))
	other := newImage("amd64", executableOf(append(staticELF(t), 0)))
	img := newImage("amd64", executableOf(staticELF(t)))
	assert.Check(t, img.Reference != other.Reference)
}

func TestImageHoldsTheProgramAndItsDigests(t *testing.T) {
	agent := staticELF(t)
	img := newImage("arm64", executableOf(agent))
	var b bytes.Buffer
	assert.NilError(t, img.Archive(&b))
	files := untar(t, b.Bytes())

	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	assert.NilError(t, json.Unmarshal(files["manifest.json"], &manifest))
	assert.Equal(t, len(manifest), 1)
	assert.DeepEqual(t, manifest[0].RepoTags, []string{img.Reference})
	var config struct {
		Architecture, OS string
		Rootfs           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	assert.NilError(t, json.Unmarshal(files[manifest[0].Config], &config))
	assert.Equal(t, config.Architecture, "arm64")
	assert.Equal(t, config.OS, "linux")
	layer := files[manifest[0].Layers[0]]
	sum := sha256.Sum256(layer)
	assert.DeepEqual(t, config.Rootfs.DiffIDs, []string{"sha256:" + hex.EncodeToString(sum[:])})
	content := untar(t, layer)
	assert.Equal(t, len(content), 1)
	assert.Check(t, bytes.Equal(content[strings.TrimPrefix(program, "/")], agent))
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		assert.NilError(t, err)
		assert.Equal(t, h.ModTime.Unix(), int64(0))
		files[h.Name], err = io.ReadAll(r)
		assert.NilError(t, err)
	}
}

func TestBinaryThatNeedsALoaderIsRefused(t *testing.T) {
	for want, data := range map[string][]byte{
		"not static":        staticELF(t, elf.Prog32{Type: uint32(elf.PT_INTERP), Off: 84}),
		"read agent binary": []byte("#!/bin/sh\n"),
	} {
		err := newImage("amd64", executableOf(data)).Archive(io.Discard)
		assert.ErrorContains(t, err, want)
	}
}

func TestEngineWithoutAnAgentIsRefusedWithAHint(t *testing.T) {
	for _, host := range []restore.Host{{OS: "windows", Arch: "amd64"}, {OS: "linux", Arch: "s390x"}} {
		_, err := binaryFor(host)
		f := fault.From(err)
		assert.Check(t, err != nil && f.Hint != "" && f.State == "nothing was changed", "%v", err)
	}
}

func TestAProgramIsNamedByItsBuildAndReadOnlyWhenItIsNeeded(t *testing.T) {
	built, err := os.Executable()
	assert.NilError(t, err)
	f, err := os.Open(built)
	assert.NilError(t, err)
	defer f.Close()
	if runtime.GOOS == "linux" {
		note, ok := buildNote(f)
		assert.Check(t, ok && len(note) > 16, "this very program has no build id")
	}

	name := filepath.Join(t.TempDir(), "program")
	assert.NilError(t, os.WriteFile(name, staticELF(t), 0o600))
	opened := 0
	p, err := executableIn(func() (*os.File, error) { opened++; return os.Open(name) })
	assert.NilError(t, err)
	assert.Equal(t, p.id, sha256.Sum256(staticELF(t)), "it has no build id")
	assert.Equal(t, opened, 1)
	data, err := p.read()
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(data, staticELF(t)))

	missing := func() (*os.File, error) { return os.Open(name + "x") }
	_, err = executableIn(missing)
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestACarriedProgramIsNamedByItsSumAndHeldAgainstIt(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(staticELF(t))
	assert.NilError(t, err)
	assert.NilError(t, z.Close())
	sum := sha256.Sum256(packed.Bytes())
	file := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data} }
	files := fstest.MapFS{
		"a.gz": file(packed.Bytes()), "a.sum": file([]byte(hex.EncodeToString(sum[:]) + "\n")),
		"other.gz": file(staticELF(t)), "other.sum": file([]byte(hex.EncodeToString(sum[:]))),
		"torn.gz": file(packed.Bytes()), "torn.sum": file([]byte("12ab")),
		"long.gz": file(packed.Bytes()), "long.sum": file([]byte("not hexadecimal")),
	}

	p, err := carried(files, "a")
	assert.NilError(t, err)
	assert.Equal(t, p.id, sum)
	data, err := p.read()
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(data, staticELF(t)))

	p, err = carried(files, "other")
	assert.NilError(t, err)
	_, err = p.read()
	assert.ErrorContains(t, err, "not the one")
	for _, name := range []string{"torn", "long"} {
		_, err = carried(files, name)
		assert.ErrorContains(t, err, "no sum")
	}
	_, err = carried(files, "missing")
	assert.ErrorIs(t, err, errNotEmbedded)
}
