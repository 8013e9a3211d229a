package restore

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/budget"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// aheadPasses is how often volumes are copied ahead at most, and aheadShort how
// short a pass need not be followed by another: about what a pause costs whose
// work is next to nothing.
const (
	aheadPasses = 3
	aheadShort  = time.Second
)

// aheadName is the folder of a draft for a pass of copying ahead.
func aheadName(pass int) string { return "ahead-" + strconv.Itoa(pass) }

// ahead is what was copied of the volumes while the workload ran.
type ahead struct {
	earlier
	draft *snapshot.Draft
	took  time.Duration
	names []string
}

// copyAhead stores the volumes while the workload runs, so that the copy that
// the snapshot is made of, under the pause, reads only what changed meanwhile:
// the pause follows the rate of change and not the size. A pass that took long
// is followed by another, as long as they get shorter. Volumes whose engine
// takes nothing over from earlier snapshots are left for the pause.
//
// What it stores lies in the draft, in folders that are gone when the draft
// becomes a snapshot; a crash leaves them in the draft, which is swept whole.
func (d *Domain) copyAhead(ctx context.Context, log *journal.Log, inv *inventory, draft *snapshot.Draft, snap *snapshot.Snapshot) (*ahead, error) {
	a := &ahead{earlier: d.since(inv, snap), draft: draft}
	if len(log.Op.Containers) == 0 {
		return a, nil
	}
	began := time.Now()
	for pass, last := 1, time.Duration(0); pass <= aheadPasses; pass++ {
		since := time.Now()
		copied, err := d.aheadOnce(ctx, log.Op.ID, inv, a, snap, pass)
		if err != nil {
			a.close()
			return nil, err
		}
		if !copied {
			return a, nil
		}
		now := time.Since(since)
		a.settled = d.settle(inv, snap)
		if now < aheadShort || (last > 0 && now > last/2) {
			break
		}
		last = now
	}
	a.took = time.Since(began)
	return a, nil
}

// aheadOnce makes one pass; false where no engine can.
func (d *Domain) aheadOnce(ctx context.Context, id string, inv *inventory, a *ahead, snap *snapshot.Snapshot, pass int) (bool, error) {
	copied := false
	for i := range snap.Volumes {
		v := &snap.Volumes[i]
		engine, err := d.Copiers.Named(v.Engine)
		if err != nil {
			return false, err
		}
		incremental, ok := engine.(copyengine.Incremental)
		if !ok {
			continue
		}
		if !copied {
			copied = true
			if pass == 1 {
				d.phase(id, "copy ahead")
			}
			a.names = append(a.names, aheadName(pass))
			if err := a.draft.Root().Mkdir(aheadName(pass), 0o700); err != nil {
				return false, fmt.Errorf("copy ahead: %w", err)
			}
		}
		base, err := d.aheadVolume(ctx, id, inv, a, i, v, incremental, pass)
		if err != nil {
			return false, fmt.Errorf("copy volume %s ahead: %w", v.Name, err)
		}
		if was := a.bases[v.Name]; was != nil {
			was.Store.Close()
		}
		a.bases[v.Name] = base
	}
	return copied, nil
}

func (d *Domain) aheadVolume(ctx context.Context, id string, inv *inventory, a *ahead, index int, v *snapshot.Volume, engine copyengine.Incremental, pass int) (*copyengine.Base, error) {
	tree, err := d.openTree(inv.places[v.Name].path())
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	store, err := a.draft.Root().OpenRoot(aheadName(pass))
	if err != nil {
		return nil, err
	}
	progress, end := d.meter(id, v.Name, 0, 0)
	silent := func(string, string) {} // told when the snapshot itself is made
	var content copyengine.Content
	err = budget.Do(ctx, func() (err error) {
		content, err = engine.Ahead(ctx, a.bases[v.Name], a.settled, tree, store, index, silent, progress)
		return err
	})
	if err != nil {
		store.Close()
		return nil, err
	}
	end()
	return &copyengine.Base{Store: store, Content: content}, nil
}

// remove takes the folders out of the draft. What the snapshot took over from
// them has names of its own.
func (a *ahead) remove() error {
	a.close()
	a.bases = nil
	for _, name := range a.names {
		if err := a.draft.Root().RemoveAll(name); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove what was copied ahead: %w", err)
		}
	}
	a.names = nil
	return nil
}

// weigh notes the size of what each volume took over from there: files that no
// other snapshot has.
func (a *ahead) weigh(snap *snapshot.Snapshot) error {
	dir, err := a.draft.Root().Open(".")
	if err != nil {
		return fmt.Errorf("weigh what was copied ahead: %w", err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("weigh what was copied ahead: %w", err)
	}
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= len(snap.Volumes) || entry.Name() == snap.Volumes[i].File || !entry.Type().IsRegular() {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("weigh what was copied ahead: %w", err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink == 1 {
			snap.Volumes[i].Beside += info.Size()
		}
	}
	return nil
}
