package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Layout is the version of the state root's layout that this code writes, and
// the newest that it works with.
const Layout = 1

// Config says what a Domain works on.
type Config struct {
	Engine Engine
	// Root is the state root on the engine host, absolute. Its parent must
	// exist and be on the volumes' mount.
	Root string
	// Events watches; nil for nobody.
	Events event.Sink
	// Self is the id of the agent's own container, which is left alone.
	Self string
	// Proc is where the processes of the engine's host are seen: "/proc".
	Proc string
	// Mounts are the directories of the host, beside the data root, that this
	// process sees at their own paths; nil where it sees all.
	Mounts []string
	// Copiers store and load volumes, the best first.
	Copiers copyengine.Set
	// Fail is called at every durable step; nil outside tests.
	Fail durable.Failpoint
}

// Domain carries operations out on one engine and one state root.
type Domain struct {
	Config

	root      *durable.Dir
	journal   *journal.Store
	snapshots *snapshot.Store
	open      []*durable.Dir
	departing departures
}

// Open opens the state root, and makes it (mode 0700) where it is missing.
func Open(ctx context.Context, c Config) (*Domain, error) {
	if c.Events == nil {
		c.Events = event.Discard
	}
	if c.Proc == "" {
		c.Proc = "/proc"
	}
	d := &Domain{Config: c, departing: departures{}}
	if err := d.openRoot(); err != nil {
		d.Close()
		return nil, err
	}
	return d, ctx.Err()
}

func (d *Domain) openRoot() error {
	parent, err := durable.Open(filepath.Dir(d.Root), d.Fail)
	if err != nil {
		return d.unusable(err)
	}
	d.open = append(d.open, parent)
	if d.root, err = parent.MakeDir(filepath.Base(d.Root), 0o700); err != nil {
		return d.unusable(err)
	}
	d.open = append(d.open, d.root)
	if err := parent.Chmod(filepath.Base(d.Root), 0o700); err != nil {
		return d.unusable(err)
	}
	if err := CheckLayout(d.root); err != nil {
		return err
	}
	journalDir, err := d.root.MakeDir("journal", 0o700)
	if err != nil {
		return d.unusable(err)
	}
	d.open = append(d.open, journalDir)
	if d.journal, err = journal.Open(journalDir); err != nil {
		return d.unusable(err)
	}
	snapshotDir, err := d.root.MakeDir("snapshots", 0o700)
	if err != nil {
		return d.unusable(err)
	}
	d.open = append(d.open, snapshotDir)
	if d.snapshots, err = snapshot.Open(snapshotDir); err != nil {
		return d.unusable(err)
	}
	return nil
}

func (d *Domain) unusable(err error) error { return unusable(d.Root, err) }

func unusable(root string, err error) error {
	return fault.New(fault.Failed, "open state root %s: %w", root, err).
		WithState("nothing was changed").
		WithHint("docker snaprestore doctor")
}

// layoutName is the file that tells the layout of a state root.
const layoutName = "format"

// layoutFile is its content.
type layoutFile struct {
	Layout int `json:"layout"`
}

// CheckLayout refuses a state root of a newer layout, and marks a new one.
func CheckLayout(root *durable.Dir) error {
	const name = layoutName
	data, err := root.ReadFile(name, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = json.Marshal(layoutFile{Layout: Layout})
		if err == nil {
			err = root.WriteFile(name, append(data, '\n'), 0o600)
		}
		if err != nil {
			return unusable(root.Path(), err)
		}
		return nil
	}
	if err != nil {
		return unusable(root.Path(), err)
	}
	var f layoutFile
	if err := json.Unmarshal(data, &f); err != nil || f.Layout < 1 {
		return fault.New(fault.Corrupt, "read %s: the layout of the state root is not told", filepath.Join(root.Path(), name)).
			WithState("nothing was changed").
			WithHint("docker snaprestore doctor")
	}
	if f.Layout > Layout {
		return fault.New(fault.Failed, "open state root %s: it has layout %d, this version knows up to %d", root.Path(), f.Layout, Layout).
			WithState("nothing was changed").
			WithHint("install the newer docker-snaprestore that wrote it; docker snaprestore version")
	}
	return nil
}

// Close lets go of the state root.
func (d *Domain) Close() error {
	var errs []error
	if d.journal != nil {
		errs = append(errs, d.journal.Close())
	}
	for _, dir := range d.open {
		errs = append(errs, dir.Close())
	}
	d.open = nil
	return errors.Join(errs...)
}

// Known tells whether the journal has an operation, and whether it is open:
// what a restarted agent asks first.
func (d *Domain) Known(id string) (open, known bool, err error) {
	op, err := d.journal.Load(id)
	if errors.Is(err, journal.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, journalFault(err)
	}
	return op.State != journal.Closed, true, nil
}

// say sends an event of an operation.
func (d *Domain) say(op string, e event.Event) {
	e.Operation = op
	e.Time = time.Now().UTC()
	d.Events(e)
}

func (d *Domain) phase(op, name string) {
	d.say(op, event.Event{Type: event.Phase, Phase: name})
}

// meter makes a progress function for one volume that sends a few events a
// second, and a function that sends the last one.
func (d *Domain) meter(op, volume string, totalBytes, totalFiles int64) (copyengine.Progress, func()) {
	const interval = 200 * time.Millisecond
	var bytes, files int64
	var last time.Time
	send := func(done bool) {
		d.say(op, event.Event{Type: event.Progress, Volume: volume, Bytes: bytes, Files: files,
			TotalBytes: totalBytes, TotalFiles: totalFiles, Done: done})
	}
	add := func(b, f int64) {
		bytes, files = bytes+b, files+f
		if now := time.Now(); now.Sub(last) >= interval {
			last = now
			send(false)
		}
	}
	return add, func() { send(true) }
}

// taken says that a volume was copied as a whole.
func (d *Domain) taken(op, volume string) {
	d.say(op, event.Event{Type: event.Progress, Volume: volume, Done: true, Whole: true})
}

// journalFault explains an error of the journal.
func journalFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, journal.ErrNotFound):
		return fault.New(fault.NotFound, "%w", err).WithHint("docker snaprestore status")
	case errors.Is(err, journal.ErrCorrupt):
		return fault.New(fault.Corrupt, "%w", err).
			WithState("what that operation was doing is not known, so nothing was changed").
			WithHint("keep a copy of the file, then look at the volumes' directories; docker snaprestore doctor")
	case errors.Is(err, journal.ErrNewer):
		return fault.New(fault.Failed, "%w", err).
			WithState("nothing was changed").
			WithHint("install the newer docker-snaprestore that wrote it")
	}
	var locked *journal.LockedError
	if errors.As(err, &locked) {
		return lockedFault(locked)
	}
	return fmt.Errorf("journal: %w", err)
}

const nothingChanged = "nothing was changed"

// unchanged completes an error that came before anything was done: what has no
// state or hint of its own says that nothing was changed.
func unchanged(err *error) {
	if *err == nil {
		return
	}
	f := *fault.From(*err)
	if f.State == "" {
		f.State = nothingChanged
	}
	if f.Hint == "" {
		f.Hint = "docker snaprestore doctor"
	}
	*err = &f
}

// after completes an error that came when a part of what was asked for was
// done already, which its state then says.
func after(done string, err error) error {
	f := *fault.From(err)
	if f.State != "" && f.State != nothingChanged {
		done += "; " + f.State
	}
	f.State = done
	return &f
}

func lockedFault(locked *journal.LockedError) error {
	f := fault.New(fault.Locked, "%w", locked).WithState("nothing was changed")
	switch op := locked.Holder.Operation; {
	case op != "":
		return f.WithHint("wait with --lock-timeout, or watch it with docker snaprestore status %s", op)
	case locked.Holder.Kind != "":
		return f.WithHint("try again when it has ended")
	}
	return f.WithHint("wait with --lock-timeout, or see docker snaprestore status")
}

// lock takes the locks of an operation and refuses to go on where an earlier
// operation on the same things died half way.
func (d *Domain) lock(ctx context.Context, id string, kind journal.Kind, keys []journal.Key, wait time.Duration) (*journal.Held, error) {
	holder := journal.Holder{Operation: id, Kind: kind, Since: time.Now().UTC()}
	held, err := d.journal.Locks().Lock(ctx, keys, holder, wait)
	if err != nil {
		return nil, journalFault(err)
	}
	if err := d.refuseInterrupted(keys); err != nil {
		held.Release()
		return nil, err
	}
	return held, nil
}

// refuseInterrupted fails where an open operation has one of these keys on
// record. Since the caller holds the keys, its process is dead. What is only
// shared (a snapshot that is read) is in nobody's way.
func (d *Domain) refuseInterrupted(keys []journal.Key) error {
	open, err := d.journal.Open()
	if err != nil {
		return journalFault(err)
	}
	wanted := map[string]bool{}
	for _, key := range keys {
		wanted[key.Name] = !key.Shared
	}
	for _, op := range open {
		for _, key := range op.Locks {
			if wanted[key] {
				return fault.New(fault.Interrupted, "%s %s was interrupted while it was %s, and holds %s", op.Kind, op.ID, op.State, key).
					WithState("nothing was changed").
					WithHint("docker snaprestore recover %s", op.ID)
			}
		}
	}
	return nil
}

func names(keys []journal.Key) (out []string) {
	for _, key := range keys {
		out = append(out, key.Name)
	}
	return out
}
