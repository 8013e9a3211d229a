package portable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/archive"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Export writes the snapshot to w in the portable form; with gzip in the
// heritage layout. It checks what is stored while it reads: damage is an error
// of kind fault.Corrupt. Engines are those that may have stored it. After any error what w has got is torn, and Import
// refuses it.
func Export(ctx context.Context, store *snapshot.Store, engines copyengine.Set, snap snapshot.Snapshot, gzip bool, w io.Writer, watch Watch) error {
	if len(snap.Volumes) == 0 {
		return fault.New(fault.Failed, "export snapshot %s: it holds no volume", snap.ID).
			WithHint("docker snaprestore inspect %s shows what it holds", snap.ID)
	}
	for _, v := range snap.Volumes {
		if gzip && target(v) == "" {
			return fault.New(fault.Failed, "export snapshot %s: no container mounts volume %s, and the gzip layout names volumes by their mount", snap.ID, v.Name).
				WithState("nothing was written").
				WithHint("docker snaprestore export %s without --gzip keeps its name", snap.ID)
		}
	}
	snap, err := count(ctx, store, engines, snap)
	if err != nil {
		return fmt.Errorf("export snapshot %s: %w", snap.ID, err)
	}
	form := archive.Zstd
	if gzip {
		form = archive.Gzip
	}
	z := archive.Compress(w, form)
	err = write(ctx, store, engines, snap, gzip, archive.NewWriter(z), watch)
	if e := z.Close(); err == nil {
		err = e
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("export snapshot %s: %w", snap.ID, err)
	}
	return err
}

// count counts the volumes that were stored without that: a description that
// travels says how much belongs to it.
func count(ctx context.Context, store *snapshot.Store, engines copyengine.Set, snap snapshot.Snapshot) (snapshot.Snapshot, error) {
	snap.Volumes = slices.Clone(snap.Volumes)
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		if !v.Uncounted {
			continue
		}
		engine, err := engines.Named(v.Engine)
		if err != nil {
			return snap, err
		}
		root, err := store.Content(snap.ID)
		if err != nil {
			return snap, err
		}
		var bytes, files int64
		err = engine.Entries(ctx, root, contentOf(*v), func(e *archive.Entry, _ io.Reader) error {
			if e.Path != "." {
				files++
			}
			bytes += e.Stored()
			return nil
		})
		root.Close()
		if err != nil {
			return snap, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		v.Bytes, v.Files, v.Uncounted = bytes, files, false
	}
	return snap, nil
}

func contentOf(v snapshot.Volume) copyengine.Content {
	return copyengine.Content{File: v.File, SHA256: v.SHA256, Bytes: v.Bytes, Files: v.Files, Stored: v.Stored, Uncounted: v.Uncounted}
}

// write writes the tar stream. It is ended only when all of it was right.
func write(ctx context.Context, store *snapshot.Store, engines copyengine.Set, snap snapshot.Snapshot, gzip bool, w *archive.Writer, watch Watch) error {
	data, err := manifest(snap)
	if err != nil {
		return err
	}
	if err := text(w, Manifest, data, snap.Created); err != nil {
		return err
	}
	if !gzip {
		data, err := snapshot.Encode(snap)
		if err != nil {
			return err
		}
		if err := text(w, snapshot.File, data, snap.Created); err != nil {
			return err
		}
	}
	ex := exporter{ctx: ctx, store: store, engines: engines, id: snap.ID, w: w, watch: watch, buf: make([]byte, buffer)}
	for i, v := range snap.Volumes {
		export := ex.stored
		if v.Engine == snapshot.Tree {
			export = ex.tree
		}
		if err := export(i, v); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return w.Close()
}

// text writes a file of the top.
func text(w *archive.Writer, name string, data []byte, at time.Time) error {
	err := w.WriteEntry(&archive.Entry{Path: name, Type: archive.File, Mode: 0o644, ModTime: at.Truncate(time.Second), Size: int64(len(data))})
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}

type exporter struct {
	ctx     context.Context
	store   *snapshot.Store
	engines copyengine.Set
	id      string
	w       *archive.Writer
	watch   Watch
	buf     []byte
}

// stored copies a volume out of what its copy engine stored.
func (ex exporter) stored(index int, v snapshot.Volume) error {
	engine, err := ex.engines.Named(v.Engine)
	if err != nil {
		return err
	}
	root, err := ex.store.Content(ex.id)
	if err != nil {
		return err
	}
	defer root.Close()
	return engine.Entries(ex.ctx, root, contentOf(v), func(e *archive.Entry, content io.Reader) error {
		if err := ex.entry(index, e); err != nil {
			return err
		}
		return pump(ex.ctx, ex.w, content, ex.buf, ex.watch, index)
	})
}

// entry begins an entry of a volume.
func (ex exporter) entry(index int, e *archive.Entry) error {
	if e.Path != "." {
		ex.watch.progress(index, 0, 1)
	}
	e.Path = inVolume(index, e.Path)
	if e.Type == archive.HardLink {
		e.Link = inVolume(index, e.Link)
	}
	return ex.w.WriteEntry(e)
}

// tree copies a volume of a safety snapshot out of the tree that it keeps.
func (ex exporter) tree(index int, v snapshot.Volume) error {
	dir, err := durable.Open(v.Tree, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Corrupt, "the tree that it keeps is gone: %w", err).
			WithHint("docker snaprestore rm %s removes what is left of the snapshot", ex.id)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	root, err := dir.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	skipped := func(path, reason string) {
		if ex.watch.Skipped != nil {
			ex.watch.Skipped(index, path, reason)
		}
	}
	return archive.WriteTree(ex.ctx, ex.w, root, inVolume(index, "."), skipped,
		func(bytes, files int64) { ex.watch.progress(index, bytes, files) })
}
