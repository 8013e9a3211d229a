package agent

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// repository names the agents' images; their tag is the start of their
// program's id.
const repository = "snaprestore-agent"

// program is the binary's path in the image.
const program = "/snaprestored"

// Argument is a program's first argument that makes it the agent.
const Argument = "agent"

// Image is an agent's image, made of one static binary.
type Image struct {
	Reference string
	arch      string
	program   executable
}

// newImage makes the image of a program for linux/arch.
func newImage(arch string, p executable) *Image {
	return &Image{Reference: repository + ":" + hex.EncodeToString(p.id[:6]), arch: arch, program: p}
}

// layer writes the only layer: the binary.
func layer(w io.Writer, binary []byte) error {
	t := tar.NewWriter(w)
	if err := t.WriteHeader(entry(strings.TrimPrefix(program, "/"), 0o755, int64(len(binary)))); err != nil {
		return err
	}
	if _, err := t.Write(binary); err != nil {
		return err
	}
	return t.Close()
}

func entry(name string, mode, size int64) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size,
		ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	}
}

// counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// Archive writes the image in the format of docker save that every engine
// since 1.10 loads. The same binary gives the same bytes.
func (i *Image) Archive(w io.Writer) error {
	binary, err := i.program.read()
	if err != nil {
		return err
	}
	if err := static(binary); err != nil {
		return err
	}
	var size counter
	digest := sha256.New()
	if err := layer(io.MultiWriter(&size, digest), binary); err != nil {
		return err
	}
	diff := hex.EncodeToString(digest.Sum(nil))
	epoch := time.Unix(0, 0).UTC()
	config, err := json.Marshal(map[string]any{
		"architecture": i.arch, "os": "linux", "created": epoch,
		"config":  map[string]any{"Entrypoint": []string{program, Argument}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diff}},
		"history": []any{map[string]any{"created": epoch, "created_by": "docker-snaprestore"}},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	layerName := diff + "/layer.tar"
	manifest, err := json.Marshal([]any{map[string]any{
		"Config": configName, "RepoTags": []string{i.Reference}, "Layers": []string{layerName},
	}})
	if err != nil {
		return err
	}

	t := tar.NewWriter(w)
	if err := t.WriteHeader(entry(layerName, 0o644, size.n)); err != nil {
		return err
	}
	if err := layer(t, binary); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{configName, config}, {"manifest.json", manifest}} {
		if err := t.WriteHeader(entry(file.name, 0o644, int64(len(file.data)))); err != nil {
			return err
		}
		if _, err := t.Write(file.data); err != nil {
			return err
		}
	}
	return t.Close()
}

// binaryFor finds the program for an engine host: one that this build carries, or
// itself where it was built without any for a machine like its own.
func binaryFor(host restore.Host) (executable, error) {
	if host.OS != "linux" {
		return executable{}, fault.New(fault.Failed, "the engine runs %s containers, and only volumes of Linux containers can be handled", host.OS).
			WithState("nothing was changed").
			WithHint("switch to an engine with Linux containers: docker context ls")
	}
	program, err := embedded(host.Arch)
	if errors.Is(err, errNotEmbedded) && runtime.GOOS == "linux" && runtime.GOARCH == host.Arch {
		return own()
	}
	if errors.Is(err, errNotEmbedded) {
		return executable{}, fault.New(fault.Failed, "this build holds no agent for linux/%s, which the engine needs", host.Arch).
			WithState("nothing was changed").
			WithHint("use a released build, or make one with scripts/build")
	}
	return program, err
}

// load makes sure that the engine has the image.
func (i *Image) load(ctx context.Context, e Engine) error {
	found, err := e.HasImage(ctx, i.Reference)
	if err != nil || found {
		return err
	}
	return e.LoadImage(ctx, func() io.Reader {
		r, w := io.Pipe()
		go func() { w.CloseWithError(i.Archive(w)) }()
		return r
	})
}
