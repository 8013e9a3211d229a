// Package portable is the form in which a snapshot travels between engines:
// one tar stream, written by Export and read by Import.
//
// At the top lies manifest.json, a list of {index, target, scope, source}, one
// for each volume, and one directory for each volume, named by its index: 0/,
// 1/ and so on, whose own entry carries the owner, mode, times and attributes
// of the volume's root. Export writes it in one of two ways:
//
//   - compressed with zstd, manifest.json first and snapshot.json second: the
//     snapshot's whole description, which a reader of the plain layout ignores;
//   - the heritage layout: compressed with gzip, manifest.json first, and the
//     directories, nothing else.
//
// The target is the path at which a container mounts the volume, and is what a
// restore matches it by. A volume that is mounted at several paths has one
// line, with the first of them: an index is there once, since readers take the
// directory of each line in turn. The others are in snapshot.json, and are lost
// in the heritage layout. That layout cannot name a volume which no container
// mounts, so Export refuses to write it for one. The source, a volume's name, is
// for people: Import never acts on it, as another machine's names and paths
// mean nothing here, or harm.
//
// Import reads plain tar, gzip and zstd, with manifest.json and snapshot.json
// anywhere in the stream, and stores each volume as the copy engine "archive"
// does, in one pass. A volume's entries must lie together, its root's first; a
// root that is missing is made with mode 0755 of root. The indexes may have
// gaps. Without snapshot.json a volume is named by its target, which cannot be
// mistaken for the name of a volume of this engine.
//
// A crash of Import leaves a draft that nobody sees (package snapshot); one of
// Export leaves a torn stream, which Import refuses.
package portable

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Manifest is the name of the list of volumes.
const Manifest = "manifest.json"

// Bounds on what an archive may claim.
const (
	manifestLimit = 16 << 20 // bytes of manifest.json
	maxVolumes    = 4096
	maxTarget     = 4096 // bytes of a path in a container (PATH_MAX)
)

// Watch is what follows an export or import. Each field may be nil.
type Watch struct {
	// Progress is called with what was done of the volume with this index
	// since the last call, from one goroutine at a time.
	Progress func(index int, bytes, files int64)
	// Skipped is called with what an export leaves out of a volume, and why.
	Skipped func(index int, path, reason string)
}

func (w Watch) progress(index int, bytes, files int64) {
	if w.Progress != nil {
		w.Progress(index, bytes, files)
	}
}

// line is one volume in manifest.json.
type line struct {
	Index  int    `json:"index"`
	Target string `json:"target"`
	Scope  string `json:"scope"`
	Source string `json:"source"`
}

// target is the path by which the manifest names the volume.
func target(v snapshot.Volume) string {
	if len(v.Uses) == 0 {
		return ""
	}
	return v.Uses[0].Target
}

// manifest lists the snapshot's volumes.
func manifest(snap snapshot.Snapshot) ([]byte, error) {
	lines := []line{}
	for i, v := range snap.Volumes {
		scope := v.Scope
		if scope == "" {
			scope = "named"
		}
		lines = append(lines, line{Index: i, Target: target(v), Scope: scope, Source: v.Name})
	}
	return json.MarshalIndent(lines, "", "  ")
}

func corrupt(format string, args ...any) error {
	return fault.New(fault.Corrupt, format, args...)
}

var scopeShape = regexp.MustCompile(`^[a-z_]{0,32}$`)

// parseManifest reads manifest.json of an archive from anywhere, by index.
// Fields beyond the four are let be.
func parseManifest(data []byte) (map[int]line, error) {
	var raw []struct {
		Index  json.Number `json:"index"` // some write it as a string
		Target string      `json:"target"`
		Scope  string      `json:"scope"`
		Source string      `json:"source"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, corrupt("read %s: %w", Manifest, err)
	}
	if len(raw) == 0 {
		return nil, corrupt("read %s: it lists no volume", Manifest)
	}
	lines := map[int]line{}
	for i, r := range raw {
		index, ok := parseIndex(r.Index.String())
		if !ok {
			return nil, corrupt("read %s: line %d has the index %q", Manifest, i+1, r.Index)
		}
		if _, twice := lines[index]; twice {
			return nil, corrupt("read %s: the index %d is there twice", Manifest, index)
		}
		l := line{Index: index, Target: r.Target, Scope: r.Scope, Source: r.Source}
		if l.Target != "" {
			if !path.IsAbs(l.Target) || len(l.Target) > maxTarget || strings.ContainsFunc(l.Target, isControl) {
				return nil, corrupt("read %s: volume %d has the target %.100q", Manifest, index, l.Target)
			}
			l.Target = path.Clean(l.Target)
		}
		if !scopeShape.MatchString(l.Scope) {
			return nil, corrupt("read %s: volume %d has the scope %.100q", Manifest, index, l.Scope)
		}
		lines[index] = l
	}
	return lines, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// parseIndex reads the canonical decimal form.
func parseIndex(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n < maxVolumes && strconv.Itoa(n) == s
}

// buffer is the size of one step of a copy, in bytes: after each the context
// is asked and progress told.
const buffer = 256 << 10

// pump copies the content of one entry of volume index.
func pump(ctx context.Context, w io.Writer, r io.Reader, buf []byte, watch Watch, index int) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			watch.progress(index, int64(n), 0)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// inVolume is the path in the portable archive of a path in a volume.
func inVolume(index int, p string) string {
	if p == "." {
		return strconv.Itoa(index)
	}
	return fmt.Sprintf("%d/%s", index, p)
}
