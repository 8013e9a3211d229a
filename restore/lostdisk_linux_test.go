package restore_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/journal/durable"
)

// A model of a file system that keeps no promise but these: an entry of a
// directory is on the disk after a sync of the directory, the content of a
// file after a sync of the file, everything after a sync of the file system.
// Until then each change is on the disk or not, in any combination, and a file
// whose content is not is empty. A rename or an exchange is there whole or not
// at all.

// node is a file, a directory or a link.
type node struct {
	mode    fs.FileMode
	data    string           // on the disk
	entries map[string]*node // on the disk
	now     map[string]*node // as the processes see them
}

// change is one that is not on the disk yet.
type change struct {
	name string // for messages
	// sets are the entries that it changes, all together.
	sets []set
	// file and data are the content that it gives to a file.
	file *node
	data string
}

type set struct {
	dir  *node
	name string
	to   *node // nil removes the entry
}

// disk is the model in one moment.
type disk struct {
	w       *world
	root    *node
	pending []*change
}

func newDisk(w *world, s state) *disk {
	d := &disk{w: w, root: dirNode(s.entries[0].mode)}
	for _, e := range s.entries {
		if e.path == "." {
			continue
		}
		n := &node{mode: e.mode, data: e.data}
		if e.mode.IsDir() {
			n = dirNode(e.mode)
		}
		parent := d.find(filepath.Dir(e.path))
		parent.entries[filepath.Base(e.path)] = n
		parent.now[filepath.Base(e.path)] = n
	}
	return d
}

func dirNode(mode fs.FileMode) *node {
	return &node{mode: fs.ModeDir | mode.Perm(), entries: map[string]*node{}, now: map[string]*node{}}
}

// find resolves a path of now, absolute or from the world's directory.
func (d *disk) find(path string) *node {
	rel := strings.TrimPrefix(strings.TrimPrefix(path, d.w.dir), "/")
	n := d.root
	if rel == "." || rel == "" {
		return n
	}
	for _, name := range strings.Split(rel, "/") {
		if n = n.now[name]; n == nil {
			return nil
		}
	}
	return n
}

// do makes a change visible, and remembers that it is not on the disk.
func (d *disk) do(name string, sets ...set) {
	for _, s := range sets {
		if s.to == nil {
			delete(s.dir.now, s.name)
		} else {
			s.dir.now[s.name] = s.to
		}
	}
	d.pending = append(d.pending, &change{name: name, sets: sets})
}

// step applies a durable step that was done.
func (d *disk) step(s durable.Step) error {
	dir := d.find(s.Dir)
	if dir == nil {
		return fmt.Errorf("%s in %s, which is not there", s.Op, s.Dir)
	}
	name := strings.TrimSpace(fmt.Sprintf("%s %s %s", s.Op, s.Name, s.To))
	switch s.Op {
	case durable.OpMkdir, durable.OpSubvolume:
		d.do(name, set{dir, s.Name, dirNode(s.Mode)})
	case durable.OpSymlink:
		d.do(name, set{dir, s.Name, &node{mode: fs.ModeSymlink | 0o777, data: s.To}})
	case durable.OpUnlink:
		if dir.now[s.Name] != nil {
			d.do(name, set{dir, s.Name, nil})
		}
	case durable.OpRename:
		into := dir
		if s.ToIn != "" {
			into = d.find(s.ToIn)
		}
		moved := dir.now[s.Name]
		d.do(name+recordedIn(d.content(moved)), set{into, s.To, moved}, set{dir, s.Name, nil})
	case durable.OpExchange:
		d.do(name, set{dir, s.Name, dir.now[s.To]}, set{dir, s.To, dir.now[s.Name]})
	case durable.OpRemove:
		d.remove(name, dir, s.Name)
	case durable.OpCreate:
		file := dir.now[s.Name]
		if file == nil {
			file = &node{mode: s.Mode.Perm()}
			d.do(name, set{dir, s.Name, file})
		}
		d.pending = append(d.pending, &change{name: "content of " + s.Name + recordedIn(string(s.Data)), file: file, data: string(s.Data)})
	case durable.OpChmod:
		// The mode that it has already, in what is run here.
	case durable.OpFsync, durable.OpSyncDir, durable.OpSyncFS:
		d.sync(d.covered(s))
	default:
		return fmt.Errorf("the model does not know %s", s.Op)
	}
	return nil
}

// content is what the processes see in a file.
func (d *disk) content(n *node) string {
	data := n.data
	for _, c := range d.pending {
		if c.file == n {
			data = c.data
		}
	}
	return data
}

// recordedIn names the state that a record of the journal has, for messages.
func recordedIn(data string) string {
	op, _, err := journal.Decode([]byte(data))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (%s)", op.State)
}

// remove removes a tree: every entry of it is a change of its own.
func (d *disk) remove(what string, dir *node, name string) {
	n := dir.now[name]
	if n == nil {
		return
	}
	for _, below := range slices.Sorted(maps.Keys(n.now)) {
		d.remove(what, n, below)
	}
	d.do(what, set{dir, name, nil})
}

// covered gives the changes that a sync brings to the disk.
func (d *disk) covered(s durable.Step) (out []*change) {
	at := d.find(s.Dir)
	var file *node
	if s.Op == durable.OpFsync {
		file = at.now[s.Name]
	}
	for _, c := range d.pending {
		switch s.Op {
		case durable.OpSyncFS:
		case durable.OpFsync:
			if c.file != file {
				continue
			}
		case durable.OpSyncDir:
			elsewhere := func(s set) bool { return s.dir != at }
			if c.file != nil || slices.ContainsFunc(c.sets, elsewhere) {
				continue
			}
		}
		out = append(out, c)
	}
	return out
}

// sync brings changes to the disk.
func (d *disk) sync(changes []*change) {
	for _, c := range changes {
		c.apply()
	}
	d.pending = slices.DeleteFunc(d.pending, func(c *change) bool { return slices.Contains(changes, c) })
}

func (c *change) apply() {
	if c.file != nil {
		c.file.data = c.data
	}
	for _, s := range c.sets {
		if s.to == nil {
			delete(s.dir.entries, s.name)
		} else {
			s.dir.entries[s.name] = s.to
		}
	}
}

// after gives what is on the disk when, of the pending changes, all are there
// but the lost ones. The model itself is not changed.
func (d *disk) after(lost func(*change) bool) []entry {
	entries, data := map[*node]map[string]*node{}, map[*node]string{}
	of := func(n *node) map[string]*node {
		if entries[n] == nil {
			entries[n] = maps.Clone(n.entries)
		}
		return entries[n]
	}
	for _, c := range d.pending {
		if lost(c) {
			continue
		}
		if c.file != nil {
			data[c.file] = c.data
		}
		for _, s := range c.sets {
			if s.to == nil {
				delete(of(s.dir), s.name)
			} else {
				of(s.dir)[s.name] = s.to
			}
		}
	}
	var out []entry
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		e := entry{path: path, mode: n.mode, data: n.data}
		if now, ok := data[n]; ok {
			e.data = now
		}
		out = append(out, e)
		if !n.mode.IsDir() {
			return
		}
		below := of(n)
		for _, name := range slices.Sorted(maps.Keys(below)) {
			walk(filepath.Join(path, name), below[name])
		}
	}
	walk(".", d.root)
	return out
}
