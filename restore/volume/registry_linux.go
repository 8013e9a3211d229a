package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// Format is the version of volume.json that this code writes, and the newest
// that it reads.
const Format = 1

// Errors of the registry.
var (
	// ErrNotFound: no volume has this name.
	ErrNotFound = errors.New("no such volume")
	// ErrCorrupt: a record does not match its checksum or cannot be read, so
	// that it is not known which volumes it names.
	ErrCorrupt = errors.New("volume record is damaged")
	// ErrNewer: a newer version of this tool wrote the record.
	ErrNewer = errors.New("volume record is of a newer format")
)

const (
	recordFile  = "volume.json"
	recordLimit = 16 << 20 // bytes
)

// Volume is one volume of the registry.
type Volume struct {
	Spec
	Created time.Time `json:"created"`
	// Dir is the absolute path of the directory that holds the live tree.
	Dir string `json:"-"`
}

// record is the body of volume.json.
type record struct {
	Key     string   `json:"key"`     // name of the directory that it lies in
	Volumes []Volume `json:"volumes"` // by name; none: the data is being deleted
}

// envelope is volume.json as it is written.
type envelope struct {
	Format int             `json:"format"`
	CRC    string          `json:"crc32c"` // of Body's bytes, 8 hexadecimal digits
	Body   json.RawMessage `json:"body"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(body []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) }

// Registry is the directory of all plugin volumes. Only one process at a time
// may change it: the driver.
type Registry struct {
	dir *durable.Dir
}

// Open uses dir, the folder "volumes" of the state root. The registry does
// not close it.
func Open(dir *durable.Dir) *Registry { return &Registry{dir: dir} }

// Create makes a volume with an empty tree, or finds the one that it asks for.
// A volume of a shared scope joins the tree that is there.
func (r *Registry) Create(s Spec) (Volume, error) {
	old, err := r.Get(s.Name)
	switch {
	case err == nil && old.same(s):
		return old, nil
	case err == nil:
		return Volume{}, refuse("create volume %s: it exists with scope %s (%s)", s.Name, old.Scope, old.Key()).
			WithHint("docker volume inspect %s", s.Name)
	case !errors.Is(err, ErrNotFound):
		return Volume{}, err
	}
	dir, err := r.dir.MakeDir(s.Key(), 0o700)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", s.Name, err)
	}
	defer dir.Close()
	rec, err := r.read(s.Key())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rec = record{Key: s.Key()}
	case err != nil:
		return Volume{}, fmt.Errorf("create volume %s: %w", s.Name, err)
	case len(rec.Volumes) == 0:
		if err := clear(dir); err != nil {
			return Volume{}, fmt.Errorf("create volume %s: delete what was removed under this name: %w", s.Name, err)
		}
	}
	if err := makeTree(dir); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", s.Name, err)
	}
	v := Volume{Spec: s, Created: time.Now().UTC().Truncate(time.Second), Dir: dir.Path()}
	rec.Volumes = append(rec.Volumes, v)
	if err := write(dir, rec); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", s.Name, err)
	}
	return v, nil
}

// makeTree makes an empty live tree where nothing is, on btrfs a subvolume. A link is the fence of
// an operation and stays.
func makeTree(dir *durable.Dir) error {
	shape, err := dir.Shape(Live)
	if err != nil || shape != durable.Missing {
		return err
	}
	if err := dir.MakeTree(Live, 0o755); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	return dir.Chmod(Live, 0o755) // whatever the umask
}

// Get finds a volume by name.
func (r *Registry) Get(name string) (Volume, error) {
	if checkName("volume name", name) != nil {
		return Volume{}, fmt.Errorf("volume %q: %w", name, ErrNotFound)
	}
	if v, err := r.in(name, name); !errors.Is(err, ErrNotFound) {
		return v, err
	}
	keys, err := r.keys()
	if err != nil {
		return Volume{}, err
	}
	for _, key := range keys {
		if !shared(key) {
			continue
		}
		if v, err := r.in(key, name); !errors.Is(err, ErrNotFound) {
			return v, err
		}
	}
	return Volume{}, fmt.Errorf("volume %s: %w", name, ErrNotFound)
}

func shared(key string) bool { return strings.Contains(key, "@") }

// in finds the volume name in one directory.
func (r *Registry) in(key, name string) (Volume, error) {
	rec, err := r.read(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Volume{}, fmt.Errorf("volume %s: %w", name, err)
	}
	for _, v := range rec.Volumes {
		if v.Name == name {
			return v, nil
		}
	}
	return Volume{}, fmt.Errorf("volume %s: %w", name, ErrNotFound)
}

// List gives all volumes by name. Records that cannot be read are in the
// joined error; the volumes of the others are returned all the same.
func (r *Registry) List() ([]Volume, error) {
	keys, err := r.keys()
	if err != nil {
		return nil, err
	}
	var all []Volume
	var bad []error
	for _, key := range keys {
		rec, err := r.read(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			bad = append(bad, err)
		default:
			all = append(all, rec.Volumes...)
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, errors.Join(bad...)
}

// Sharing gives the names of all volumes with the tree of v, v's too.
func (r *Registry) Sharing(v Volume) ([]string, error) {
	rec, err := r.read(v.Key())
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	var names []string
	for _, other := range rec.Volumes {
		names = append(names, other.Name)
	}
	return names, nil
}

// Remove removes a volume, and with the last of its directory the live tree.
// Trees of safety snapshots stay. A missing volume is ErrNotFound. The caller
// holds the volume's locks.
func (r *Registry) Remove(name string) error {
	v, err := r.Get(name)
	if err != nil {
		return fmt.Errorf("remove %w", err)
	}
	dir, err := r.dir.OpenDir(v.Key())
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	defer dir.Close()
	rec, err := r.read(v.Key())
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	kept := rec.Volumes[:0]
	for _, other := range rec.Volumes {
		if other.Name != name {
			kept = append(kept, other)
		}
	}
	rec.Volumes = kept
	if err := write(dir, rec); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	if len(rec.Volumes) > 0 {
		return nil
	}
	if err := r.bury(dir, v.Key()); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// bury deletes what is left of a directory whose record names no volume.
func (r *Registry) bury(dir *durable.Dir, key string) error {
	if err := clear(dir); err != nil {
		return err
	}
	return r.drop(dir, key)
}

// clear deletes the live tree, then the record that says it is not wanted.
func clear(dir *durable.Dir) error {
	if err := dir.RemoveAll(Live); err != nil {
		return err
	}
	// The record must outlive the tree: without it the tree would be found as
	// the data of a volume that is made again.
	if err := dir.Sync(); err != nil {
		return err
	}
	if err := dir.Unlink(recordFile); err != nil {
		return err
	}
	return dir.Sync()
}

// drop removes a directory that holds nothing.
func (r *Registry) drop(dir *durable.Dir, key string) error {
	if err := dir.Sweep(); err != nil {
		return err
	}
	names, err := dir.Names()
	if err != nil || len(names) > 0 {
		return err
	}
	if err := r.dir.RemoveAll(key); err != nil {
		return err
	}
	return r.dir.Sync()
}

// Sweep finishes removals that a crash interrupted, and drops directories that
// hold no volume any more. Busy tells the directories, by absolute path, that
// an open operation works in; they are left alone.
func (r *Registry) Sweep(busy func(dir string) bool) error {
	keys, err := r.keys()
	if err != nil {
		return err
	}
	var bad []error
	for _, key := range keys {
		if busy(filepath.Join(r.dir.Path(), key)) {
			continue
		}
		if err := r.sweep(key); err != nil {
			bad = append(bad, fmt.Errorf("sweep volume directory %s: %w", key, err))
		}
	}
	return errors.Join(bad...)
}

func (r *Registry) sweep(key string) error {
	rec, err := r.read(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(rec.Volumes) > 0 {
		return nil
	}
	dir, openErr := r.dir.OpenDir(key)
	if openErr != nil {
		return openErr
	}
	defer dir.Close()
	if errors.Is(err, fs.ErrNotExist) {
		// Without a record the tree belongs to nobody that is known, so it is
		// not deleted; an empty one was made for a volume that was not named.
		return r.dropEmpty(dir, key)
	}
	return r.bury(dir, key)
}

func (r *Registry) dropEmpty(dir *durable.Dir, key string) error {
	shape, err := dir.Shape(Live)
	if err != nil {
		return err
	}
	if shape == durable.Directory {
		tree, err := dir.OpenDir(Live)
		if err != nil {
			return err
		}
		names, err := tree.Names()
		tree.Close()
		if err != nil || len(names) > 0 {
			return err
		}
		if err := dir.RemoveAll(Live); err != nil {
			return err
		}
		if err := dir.Sync(); err != nil {
			return err
		}
	}
	return r.drop(dir, key)
}

// keys lists the directories.
func (r *Registry) keys() ([]string, error) {
	names, err := r.dir.Names()
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	kept := names[:0]
	for _, name := range names {
		shape, err := r.dir.Shape(name)
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		if shape == durable.Directory && !strings.HasPrefix(name, ".") {
			kept = append(kept, name)
		}
	}
	return kept, nil
}

func (r *Registry) read(key string) (record, error) {
	dir, err := r.dir.OpenDir(key)
	if err != nil {
		return record{}, err
	}
	defer dir.Close()
	data, err := dir.ReadFile(recordFile, recordLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return record{}, err
	case err != nil:
		return record{}, fmt.Errorf("read record of %s: %w: %w", key, ErrCorrupt, err)
	}
	rec, err := decode(data)
	if err == nil && rec.Key != key {
		err = fmt.Errorf("%w: it is the record of %q", ErrCorrupt, rec.Key)
	}
	if err != nil {
		return record{}, fmt.Errorf("read record of %s: %w", key, err)
	}
	for i := range rec.Volumes {
		rec.Volumes[i].Dir = dir.Path()
	}
	return rec, nil
}

// decode reads volume.json and checks it: every volume in it must be one that
// Parse allows and whose key is the record's.
func decode(data []byte) (record, error) {
	var env envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if env.Format > Format {
		return record{}, fmt.Errorf("%w: %d, this version reads up to %d", ErrNewer, env.Format, Format)
	}
	if env.Format < 1 || env.CRC != checksum(env.Body) {
		return record{}, fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	var rec record
	if err := json.Unmarshal(env.Body, &rec); err != nil {
		return record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for _, v := range rec.Volumes {
		s, err := Parse(v.Name, v.Options)
		if err != nil {
			return record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if s.Key() != rec.Key || v.Scope != s.Scope || v.Project != s.Project || v.Stage != s.Stage {
			return record{}, fmt.Errorf("%w: volume %s is not of %s", ErrCorrupt, v.Name, rec.Key)
		}
	}
	return rec, nil
}

func write(dir *durable.Dir, rec record) error {
	body, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	data, err := json.Marshal(envelope{Format: Format, CRC: checksum(body), Body: body})
	if err != nil {
		return err
	}
	return dir.WriteFile(recordFile, data, 0o600)
}
