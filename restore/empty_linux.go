package restore

import (
	"fmt"
	"path/filepath"

	"github.com/snaprestore/snaprestore/journal/durable"
)

// syncParent makes the entry of a directory durable that somebody else made.
func syncParent(path string, fail durable.Failpoint) error {
	dir, err := durable.Open(filepath.Dir(path), fail)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// checkEmpty refuses a new volume that somebody wrote into meanwhile.
func (d *Domain) checkEmpty(v Volume) error {
	at, err := d.placeOf(v)
	if err != nil {
		return err
	}
	dir, err := durable.Open(filepath.Join(at.dir, at.live), nil)
	if err != nil {
		return err
	}
	defer dir.Close()
	return empty(dir)
}

func empty(dir *durable.Dir) error {
	entries, err := dir.Names()
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s holds %d entries that were written meanwhile: move them away", dir.Path(), len(entries))
	}
	return err
}

// dropEmpty removes the empty tree that the engine made. One that somebody
// wrote into meanwhile stays beside the volume.
func dropEmpty(dir *durable.Dir, name string) error {
	sub, err := dir.OpenDir(name)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := empty(sub); err != nil {
		return err
	}
	if err := dir.RemoveAll(name); err != nil {
		return err
	}
	return dir.Sync()
}
