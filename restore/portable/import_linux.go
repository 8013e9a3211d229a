package portable

import (
	"context"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Import stores the volumes of a portable archive in draft, and returns the
// description to commit it with: of kind Imported, under the draft's id. Its
// name is the one that the archive gives, or none where that is not to be had
// here; Operation is the caller's to set.
//
// An archive that is damaged, incomplete or hostile is an error of kind
// fault.Corrupt. After any error the caller discards the draft, and nothing
// was stored; nothing but the draft's directory is ever touched.
func Import(ctx context.Context, r io.Reader, draft *snapshot.Draft, watch Watch) (snapshot.Snapshot, error) {
	snap, err := read(ctx, r, draft, watch)
	if err == nil || ctx.Err() != nil {
		return snap, err
	}
	f := fault.From(fmt.Errorf("import snapshot: %w", err))
	f.State = "nothing was imported"
	if f.Hint == "" && f.Kind == fault.Corrupt {
		f.Hint = "docker snaprestore import takes a whole archive that docker snaprestore export wrote, or one of its layout"
	}
	return snapshot.Snapshot{}, f
}

func read(ctx context.Context, r io.Reader, draft *snapshot.Draft, watch Watch) (snapshot.Snapshot, error) {
	in, err := archive.NewReader(r, archive.Limits{})
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	defer in.Close()
	im := &importer{ctx: ctx, in: in, draft: draft, watch: watch, stored: map[int]copyengine.Content{}, buf: make([]byte, buffer)}
	defer im.abort()
	for {
		if err := ctx.Err(); err != nil {
			return snapshot.Snapshot{}, err
		}
		e, err := in.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = im.entry(e)
		}
		if err != nil {
			return snapshot.Snapshot{}, err
		}
	}
	if err := im.finish(); err != nil {
		return snapshot.Snapshot{}, err
	}
	return im.describe()
}

// importer is the state of one import.
type importer struct {
	ctx   context.Context
	in    *archive.Reader
	draft *snapshot.Draft
	watch Watch
	buf   []byte

	manifest, description []byte // nil until read
	stored                map[int]copyengine.Content

	out   *archive.Output // of the volume whose entries are being read, or nil
	index int
}

// entry takes one entry of the archive. Its path is clean and relative.
func (im *importer) entry(e *archive.Entry) error {
	first, rest, deep := strings.Cut(e.Path, "/")
	if index, ok := parseIndex(first); ok {
		if !deep {
			rest = "."
		}
		return im.volume(index, rest, e)
	}
	switch e.Path {
	case ".": // the directory that holds all; its attributes mean nothing
		return nil
	case Manifest:
		return im.text(e, &im.manifest, manifestLimit)
	case snapshot.File:
		return im.text(e, &im.description, snapshot.FileLimit)
	}
	return corrupt("read archive: entry %.200q belongs to no volume", e.Path)
}

// text reads a file of the top.
func (im *importer) text(e *archive.Entry, into *[]byte, limit int64) error {
	if e.Type != archive.File || e.Sparse {
		return corrupt("read archive: entry %q is not a plain file", e.Path)
	}
	if e.Size > limit {
		return corrupt("read archive: entry %q is larger than %d bytes", e.Path, limit)
	}
	data, err := io.ReadAll(im.in)
	*into = data
	return err
}

// volume stores one entry of a volume.
func (im *importer) volume(index int, rest string, e *archive.Entry) error {
	name := e.Path
	if im.out == nil || im.index != index {
		if err := im.begin(index); err != nil {
			return err
		}
		if rest != "." {
			if err := im.out.WriteEntry(&archive.Entry{Path: ".", Type: archive.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
				return err
			}
		}
	} else if rest == "." {
		return corrupt("read archive: entry %q comes after others of its directory", name)
	}
	if rest == "." && e.Type != archive.Directory {
		return corrupt("read archive: volume %d is not a directory", index)
	}
	if e.Type == archive.HardLink {
		link, ok := strings.CutPrefix(e.Link, inVolume(index, ""))
		if !ok {
			return corrupt("read archive: entry %.200q is a hard link to %.200q, outside of its volume", name, e.Link)
		}
		e.Link = link
	}
	e.Path = rest
	if err := im.out.WriteEntry(e); err != nil {
		return err
	}
	if rest != "." {
		im.watch.progress(index, 0, 1)
	}
	return pump(im.ctx, im.out, im.in, im.buf, im.watch, index)
}

// begin opens the stored file of a volume.
func (im *importer) begin(index int) error {
	if err := im.finish(); err != nil {
		return err
	}
	if _, ok := im.stored[index]; ok {
		return corrupt("read archive: the entries of volume %d do not lie together", index)
	}
	out, err := archive.Create(im.draft.Root(), index)
	if err != nil {
		return err
	}
	im.out, im.index = out, index
	return nil
}

// finish ends the stored file that is open, if one is.
func (im *importer) finish() error {
	if im.out == nil {
		return nil
	}
	out := im.out
	im.out = nil
	content, err := out.Finish()
	im.stored[im.index] = content
	return err
}

func (im *importer) abort() {
	if im.out != nil {
		im.out.Abort()
		im.out = nil
	}
}

// describe holds what was stored against manifest.json and snapshot.json and
// makes the description.
func (im *importer) describe() (snapshot.Snapshot, error) {
	if im.manifest == nil {
		return snapshot.Snapshot{}, corrupt("read archive: it has no %s", Manifest)
	}
	lines, err := parseManifest(im.manifest)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	indexes := make([]int, 0, len(lines))
	for index := range lines {
		if _, ok := im.stored[index]; !ok {
			return snapshot.Snapshot{}, corrupt("read archive: volume %d of %s is not in it", index, Manifest)
		}
		indexes = append(indexes, index)
	}
	sort.Ints(indexes)
	for index := range im.stored {
		if _, ok := lines[index]; !ok {
			return snapshot.Snapshot{}, corrupt("read archive: volume %d is not in %s", index, Manifest)
		}
	}
	var snap snapshot.Snapshot
	if im.description == nil {
		snap, err = fromManifest(lines, indexes)
	} else {
		snap, err = im.fromDescription(lines)
	}
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	snap.ID, snap.Kind, snap.Operation = im.draft.ID(), snapshot.Imported, ""
	for i, index := range indexes {
		c := im.stored[index]
		v := &snap.Volumes[i]
		v.Engine, v.Tree = archive.Name, ""
		v.File, v.SHA256, v.Bytes, v.Files, v.Stored, v.Uncounted = c.File, c.SHA256, c.Bytes, c.Files, c.Stored, false
	}
	return snap, nil
}

// fromManifest describes a snapshot of which only the manifest is known.
func fromManifest(lines map[int]line, indexes []int) (snapshot.Snapshot, error) {
	snap := snapshot.Snapshot{Format: snapshot.Format, Created: time.Now().UTC()}
	for _, index := range indexes {
		l := lines[index]
		if l.Target == "" {
			return snapshot.Snapshot{}, corrupt("read %s: volume %d has no target", Manifest, index)
		}
		snap.Volumes = append(snap.Volumes, snapshot.Volume{Name: l.Target, Scope: l.Scope, Uses: []snapshot.Use{{Target: l.Target}}})
	}
	return snap, nil
}

// fromDescription describes a snapshot that brought its own description.
func (im *importer) fromDescription(lines map[int]line) (snapshot.Snapshot, error) {
	snap, err := snapshot.Decode(im.description)
	if err != nil {
		return snapshot.Snapshot{}, err
	}
	if err := printable(&snap); err != nil {
		return snapshot.Snapshot{}, err
	}
	if now := time.Now().UTC(); snap.Created.After(now) {
		snap.Created = now // or it would be the latest for ever
	}
	if len(lines) != len(snap.Volumes) {
		return snapshot.Snapshot{}, corrupt("read archive: %s lists %d volumes, %s %d", Manifest, len(lines), snapshot.File, len(snap.Volumes))
	}
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		l, ok := lines[i]
		if at := target(*v); !ok || l.Target != at && l.Target != path.Clean(at) {
			return snapshot.Snapshot{}, corrupt("read archive: %s and %s disagree about volume %d", Manifest, snapshot.File, i)
		}
		if c := im.stored[i]; v.Engine != snapshot.Tree && (c.Files != v.Files || c.Bytes != v.Bytes) {
			return snapshot.Snapshot{}, corrupt("read archive: volume %d has %d files of %d bytes, %s says %d of %d",
				i, c.Files, c.Bytes, snapshot.File, v.Files, v.Bytes)
		}
		// Options name paths and hosts; on this engine they would be those
		// that the archive's maker chooses.
		if len(v.Options) > 0 {
			snap.Skipped = append(snap.Skipped, snapshot.Skipped{
				What: "driver options of volume " + v.Name, Reason: "they were those of another engine"})
			v.Options = nil
		}
	}
	if snap.Kind == snapshot.Safety || snap.Name != "" && im.draft.Store().NameFree(snap.Name) != nil {
		snap.Name = ""
	}
	return snap, nil
}

// printable refuses a description whose names would play with a terminal.
func printable(snap *snapshot.Snapshot) error {
	texts := []string{snap.Project, string(snap.Consistency), snap.Tool, snap.Engine}
	for _, v := range snap.Volumes {
		texts = append(texts, v.Name, v.Driver, v.Key, v.Scope)
		for _, u := range v.Uses {
			texts = append(texts, u.Container, u.Service, u.Target)
		}
	}
	for _, c := range snap.Containers {
		texts = append(texts, c.Name, c.Service, c.Image, c.ImageID)
		texts = append(texts, c.Digests...)
	}
	for _, k := range snap.Skipped {
		texts = append(texts, k.What, k.Reason)
	}
	for _, text := range texts {
		if strings.ContainsFunc(text, isControl) {
			return corrupt("read %s: control characters in %.100q", snapshot.File, text)
		}
	}
	return nil
}
