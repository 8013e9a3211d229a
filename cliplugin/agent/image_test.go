package agent

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

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
		img, err := NewImage("amd64", staticELF(t))
		assert.NilError(t, err)
		assert.NilError(t, img.Archive(&archives[i]))
	}
	assert.Check(t, bytes.Equal(archives[0].Bytes(), archives[1].Bytes()))
	other, err := NewImage("amd64", append(staticELF(t), 0))
	assert.NilError(t, err)
	img, err := NewImage("amd64", staticELF(t))
	assert.NilError(t, err)
	assert.Check(t, img.Reference != other.Reference)
}

func TestImageHoldsTheProgramAndItsDigests(t *testing.T) {
	agent := staticELF(t)
	img, err := NewImage("arm64", agent)
	assert.NilError(t, err)
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
	_, err := NewImage("amd64", staticELF(t, elf.Prog32{Type: uint32(elf.PT_INTERP), Off: 84}))
	assert.ErrorContains(t, err, "not static")
	_, err = NewImage("amd64", []byte("#!/bin/sh\n"))
	assert.ErrorContains(t, err, "read agent binary")
}

func TestEngineWithoutAnAgentIsRefusedWithAHint(t *testing.T) {
	for _, host := range []restore.Host{{OS: "windows", Arch: "amd64"}, {OS: "linux", Arch: "s390x"}} {
		_, err := binaryFor(host)
		f := fault.From(err)
		assert.Check(t, err != nil && f.Hint != "" && f.State == "nothing was changed", "%v", err)
	}
}

func TestOwnProgramIsTheAgentOfItsOwnArchitecture(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("agents run on Linux; elsewhere they are embedded")
	}
	name, err := os.Executable()
	assert.NilError(t, err)
	own, err := os.ReadFile(name)
	assert.NilError(t, err)
	data, err := binaryFor(restore.Host{OS: "linux", Arch: runtime.GOARCH})
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(data, own))
}
