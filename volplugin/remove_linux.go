package volplugin

import (
	"context"
	"errors"
	"log"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/volume"
)

// remove removes a volume, with its data when it is the last of its scope.
func (d *Driver) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.find(name)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	mounted, _, err := d.points.bound(name, nil)
	if err != nil {
		return err
	}
	if mounted {
		users, err := d.points.users(name)
		if err != nil {
			return err
		}
		if len(d.leases[name]) > 0 || len(users) > 0 {
			return fault.New(fault.Failed, "remove volume %s: it is mounted", name).
				WithState("nothing was changed").WithHint("stop the containers that use it: docker ps --filter volume=%s", name)
		}
		if err := d.points.detach(name); err != nil {
			return err
		}
	}
	held, err := d.exclude(v)
	if err != nil {
		return err
	}
	defer held.Release()
	if err := d.volumes.Remove(name); err != nil {
		return err
	}
	log.Printf("removed volume %s; its snapshots stay, docker snaprestore rm removes them", name)
	return nil
}

// exclude takes the volume's lock for a removal, or says who is at work on it.
// An operation that made the volume and goes back may remove it itself, and so
// may an adoption that has the volume's data parked elsewhere.
func (d *Driver) exclude(v volume.Volume) (*journal.Held, error) {
	open, err := d.journal.Open()
	if err != nil {
		return nil, err
	}
	for _, op := range open {
		if parked, err := d.parked(op, v); parked || err != nil {
			return nil, err
		}
		for _, ov := range op.Volumes {
			if ov.Dir != v.Dir {
				continue
			}
			goingBack := op.State == journal.Aborting || op.State == journal.Starting
			if ov.Created && goingBack {
				return nil, nil
			}
			return nil, underOperation(v.Name, string(op.Kind), op.ID)
		}
	}
	held, err := d.journal.Locks().Lock(context.Background(), journal.Exclusive(v.LockKey()),
		journal.Holder{Kind: "docker volume rm", Since: time.Now().UTC()}, 0)
	var locked *journal.LockedError
	if errors.As(err, &locked) {
		return nil, underOperation(v.Name, string(locked.Holder.Kind), locked.Holder.Operation)
	}
	return held, err
}

// parked reports whether an operation changes the driver of this volume and
// has its tree in the state root's own folder meanwhile, so that there is
// nothing in the volume to lose.
func (d *Driver) parked(op *journal.Operation, v volume.Volume) (bool, error) {
	if op.Remake == nil || !op.Remake.Parked || len(op.Volumes) != 1 || op.Volumes[0].Name != v.Name {
		return false, nil
	}
	tree, err := openTree(filepath.Join(d.config.Root, restore.Parking), op.ID)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, tree.Close()
}

func underOperation(name, kind, id string) error {
	what := strings.TrimSpace(kind + " " + id)
	if what == "" {
		what = "an operation"
	}
	return fault.New(fault.Locked, "remove volume %s: %s is at work on it", name, what).
		WithState("nothing was changed").WithHint("docker snaprestore status %s", id)
}
