//go:build e2e && linux

package crashes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// operations reads the journal.
func (w *world) operations() (all []*journal.Operation, err error) {
	names, err := filepath.Glob(filepath.Join(w.e.StateRoot(), "journal", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), ".") {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		op, _, err := journal.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, op)
	}
	return all, nil
}

// state is the last record of an operation.
func (w *world) state(id string) journal.State {
	all, err := w.operations()
	for _, op := range all {
		if err == nil && op.ID == id {
			return op.State
		}
	}
	return ""
}

// trial begins the names of all that a drill makes.
const trial = "snaprestore-drill-"

// containers tells the state and the policy of every container of the workload.
func (w *world) containers() (all []string) {
	for _, c := range w.e.All() {
		if strings.HasPrefix(c.Name, trial) {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s", c.ID, c.State, c.Policy.Name))
	}
	return all
}

// wanted is what the containers must be after recovery: those that an open
// operation has on record as they were when it began, all others as they are.
func (w *world) wanted() ([]string, error) {
	now := w.containers()
	all, err := w.operations()
	for _, op := range all {
		for i, was := range w.first {
			if op.State != journal.Closed && op.Find(strings.Fields(was)[0]) != nil {
				now[i] = was
			}
		}
	}
	return now, err
}

// neverMixed starts every container that can be started, and checks that what
// runs then, together, sees only old or only new data.
func (w *world) neverMixed() error {
	for _, c := range w.e.All() {
		_ = w.e.Start(context.Background(), c.ID) // what cannot start is in no danger
	}
	now, err := w.e.Checkpoint()
	if err != nil {
		return err
	}
	seen := map[string]string{}
	for _, tree := range now.Mounted() {
		if strings.Contains(tree, "/"+trial) {
			continue // it is nobody's data
		}
		word, err := read(w.volumeOf(tree), tree)
		if err != nil {
			return fmt.Errorf("before recovery a container runs on %s: %w", tree, err)
		}
		seen[word] = tree
	}
	if len(seen) > 1 {
		return fmt.Errorf("before recovery containers run on %v", seen)
	}
	return nil
}

// volumeOf tells which volume a tree is of, whatever name it has by now.
func (w *world) volumeOf(tree string) string {
	for name, live := range w.volumes() {
		if filepath.Dir(live) == filepath.Dir(tree) {
			return name
		}
	}
	return "?"
}

// outcome tells whether all is as before the scenario's operation or as after
// it; anything else is an error.
func (w *world) outcome(sc scenario) (string, error) {
	found := map[string]bool{}
	for name, tree := range w.volumes() {
		if sc.adopts[0] != "" {
			v, err := w.e.Volume(context.Background(), "shop_db")
			if err != nil {
				return "", err
			}
			if v.Labels["com.docker.compose.volume"] != "db" {
				return "", fmt.Errorf("volume shop_db of driver %s has the labels %v", v.Driver, v.Labels)
			}
			word, err := read("shop_db", v.Mountpoint)
			switch {
			case err != nil:
				return "", err
			case v.Driver == sc.adopts[0]:
				return "old", nil
			case v.Driver == sc.adopts[1]:
				return "new", nil
			}
			return "", fmt.Errorf("volume shop_db, with %q, is of driver %s", word, v.Driver)
		}
		word, err := read(name, tree)
		if err != nil {
			return "", fmt.Errorf("volume %s: %w", name, err)
		}
		found[word] = true
	}
	var names []string
	err := w.run(func(ctx context.Context, d *restore.Domain) error {
		all, err := d.List(ctx, "")
		for _, s := range all {
			names = append(names, s.Name)
		}
		return err
	})
	slices.Sort(names)
	is := func(word string, snapshots []string) bool {
		return len(found) == 1 && found[word] && slices.Equal(names, snapshots)
	}
	switch {
	case err != nil:
		return "", err
	case is(sc.becomes, sc.gets):
		return "new", nil
	case is(sc.was, sc.had):
		return "old", nil
	}
	return "", fmt.Errorf("the volumes hold %v and the snapshots are %q", found, names)
}

// settled checks that nothing is left of an operation but its result.
func (w *world) settled(want []string) error {
	if got := w.containers(); !slices.Equal(got, want) {
		return fmt.Errorf("the containers are %q and should be %q", got, want)
	}
	for _, c := range w.e.All() {
		for _, m := range c.Mounts {
			if !c.Up() {
				continue
			}
			live, err := os.Stat(m.Source)
			if err != nil {
				return err
			}
			if !os.SameFile(live, w.e.Sees(c.ID, m.Target)) {
				return fmt.Errorf("container %s runs on a tree of %s that is not the live one", c.Name, m.Target)
			}
		}
	}
	kept := map[string]bool{}
	if err := w.run(func(ctx context.Context, d *restore.Domain) error {
		all, err := d.List(ctx, "")
		if err != nil {
			return err
		}
		for _, s := range all {
			for _, v := range s.Volumes {
				if v.Tree == "" {
					continue
				}
				kept[v.Tree] = true
				if _, err := read(w.volumeOf(v.Tree), v.Tree); err != nil {
					return fmt.Errorf("snapshot %s: %w", s.Name, err)
				}
			}
		}
		rows, err := d.Verify(ctx, nil, "")
		for _, r := range rows {
			if r.Result != "ok" {
				err = errors.Join(err, fmt.Errorf("snapshot %s: %s: %s", r.Name, r.Result, r.Error))
			}
		}
		return err
	}); err != nil {
		return err
	}
	return w.leftovers(kept)
}

// leftovers looks for entries that should not be there, and for what drills
// made.
func (w *world) leftovers(kept map[string]bool) error {
	for _, c := range w.e.All() {
		if strings.HasPrefix(c.Name, trial) {
			return fmt.Errorf("container %s is still there", c.Name)
		}
	}
	if networks := w.e.Networks(); len(networks) > 0 {
		return fmt.Errorf("the networks %q are still there", networks)
	}
	if err := entries(filepath.Join(w.e.DataRoot(), "volumes"), func(name string) bool {
		return !strings.HasPrefix(name, trial)
	}); err != nil {
		return err
	}
	root := w.e.StateRoot()
	only := func(names ...string) func(string) bool {
		return func(name string) bool { return slices.Contains(names, name) }
	}
	for dir, expected := range map[string]func(string) bool{
		filepath.Join(root, "journal"): func(name string) bool {
			return name == "lock" || journal.ValidID(strings.TrimSuffix(name, ".json"))
		},
		filepath.Join(root, "snapshots"): journal.ValidID,
		filepath.Join(root, "parked"):    only(),
		root:                             only("format", "journal", "snapshots", "parked", "allow.json", volume.Folder),
	} {
		if err := entries(dir, expected); err != nil {
			return err
		}
	}
	for name, tree := range w.volumes() {
		if err := entries(filepath.Dir(tree), func(name string) bool {
			return name == filepath.Base(tree) || name == "volume.json" || kept[filepath.Join(filepath.Dir(tree), name)]
		}); err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

func entries(dir string, expected func(name string) bool) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range all {
		if !expected(e.Name()) {
			return fmt.Errorf("%s still has %s", dir, e.Name())
		}
	}
	return err
}

// listing is every file and directory of the world, with its content, but for
// the lock files, which hold nothing that lasts.
func (w *world) listing() (string, error) {
	var out strings.Builder
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.Contains(path, "/journal/lock/") || d.Name() == "lost+found" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var data []byte
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			var text string
			text, err = os.Readlink(path)
			data = []byte(text)
		case 0:
			data, err = os.ReadFile(path)
		}
		fmt.Fprintf(&out, "%s %s %q\n", path, info.Mode(), data)
		return err
	})
	return out.String(), err
}

// recovers is a recovery by this process.
func (w *world) recovers() error { return w.run(recoverAll) }

// recovered recovers the world, by the given means and once more, and checks
// where that ends.
func (w *world) recovered(sc scenario, told bool, recovery func() error) error {
	want, err := w.wanted()
	if err != nil {
		return err
	}
	before := w.state(idThis)
	if err := recovery(); err != nil {
		return fmt.Errorf("recovery from %q: %w", before, err)
	}
	end, err := w.outcome(sc)
	if err != nil {
		return fmt.Errorf("after recovery from %q: %w", before, err)
	}
	switch {
	case told && end != "new":
		return fmt.Errorf("it had been told that it was done, and after recovery from %q all is %s", before, end)
	case (before == journal.Prepared || before == journal.Committed) && end != "new":
		return fmt.Errorf("recovery from %q ended as %s", before, end)
	case (before == journal.Staging || before == journal.Stopping || before == journal.Aborting) && sc.was != sc.becomes && end != "old":
		return fmt.Errorf("recovery from %q ended as %s", before, end)
	}
	if err := w.settled(want); err != nil {
		return fmt.Errorf("after recovery from %q: %w", before, err)
	}
	once, err := w.listing()
	if err != nil {
		return err
	}
	if err := w.run(func(ctx context.Context, d *restore.Domain) error {
		out, err := d.Recover(ctx, "")
		if err == nil && len(out.Operations) > 0 {
			err = fmt.Errorf("it found %d operations", len(out.Operations))
		}
		return err
	}); err != nil {
		return fmt.Errorf("the second recovery: %w", err)
	}
	twice, err := w.listing()
	if err == nil && once != twice {
		err = errors.New("the second recovery changed something")
	}
	return err
}
