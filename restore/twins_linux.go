package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// twin is a container that a drill makes, and the one that it is like.
type twin struct {
	of   Container
	made Twin
}

// planTwins finds the containers that are started on the throwaway volumes and
// puts their names, and that of their network, on record. They are like those
// of today that ran when the snapshot was made: what a restore would start. A
// snapshot holds no environment, which may have passwords in it, since
// snapshots travel.
func (d *Domain) planTwins(ctx context.Context, op *journal.Operation, snap snapshot.Snapshot, r plan.DrillRequest) ([]twin, error) {
	inv, err := d.inventory(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := originals(inv, snap, r.Services)
	if err != nil {
		return nil, err
	}
	level := levels(chosen)
	sort.SliceStable(chosen, func(i, j int) bool { return level[chosen[i].ID] < level[chosen[j].ID] })
	var out []twin
	var planned []plan.Container
	names := map[string]string{} // of twins by their originals' ids
	for n, listed := range chosen {
		c, err := d.Engine.Container(ctx, listed.ID)
		if err != nil {
			return nil, fmt.Errorf("inspect container %s: %w", listed.Name, err)
		}
		name := trialName(op.ID, c.Name, n)
		names[c.ID] = name
		t := twin{of: c, made: Twin{Of: c.ID, Name: name, Labels: map[string]string{
			labelDrill: op.ID, labelSnapshot: snap.ID, labelOf: c.Name,
		}}}
		if err := t.join(op, names); err != nil {
			return nil, err
		}
		if t.made.Mounts, err = d.twinMounts(op, snap, c); err != nil {
			return nil, err
		}
		out = append(out, t)
		op.Containers = append(op.Containers, journal.Container{
			ID: name, Name: name, Service: c.Labels[labelService], Running: true, Health: c.HealthCheck,
			Policy: journal.Policy{Name: "no"}, Level: level[c.ID], Await: awaited(c, chosen),
		})
		planned = append(planned, plan.Container{
			Container: journal.Container{Name: c.Name, Service: c.Labels[labelService]}, Image: c.Image, ImageID: c.ImageID,
		})
	}
	for _, warning := range imageWarnings(snap, planned) {
		d.warn(op.ID, "%s", warning)
	}
	return out, nil
}

// cannotStart is the fault of a drill whose containers cannot be started.
func cannotStart(kind fault.Kind, hint, format string, args ...any) error {
	return fault.New(kind, "drill: "+format, args...).WithState("nothing was changed").
		WithHint("%s; without --start a drill restores and compares only", hint)
}

// originals are the containers of today that ran when the snapshot was made:
// all, or the services that are named and what they depend on.
func originals(inv *inventory, snap snapshot.Snapshot, services []string) ([]Container, error) {
	var all []Container
	var missing []string
	for _, was := range snap.Containers {
		if !was.Running {
			continue
		}
		if c, ok := original(inv, was); ok {
			all = append(all, c)
		} else {
			missing = append(missing, was.Name)
		}
	}
	if len(all)+len(missing) == 0 {
		return nil, cannotStart(fault.NotFound, "docker snaprestore inspect "+snap.ID, "no container ran when snapshot %s was made", snap.ID)
	}
	chosen := unique(all)
	if len(services) > 0 {
		var err error
		if chosen, err = withDependencies(chosen, services); err != nil {
			return nil, err
		}
	} else if len(missing) > 0 {
		return nil, cannotStart(fault.NotFound, "docker compose create makes them without starting them",
			"the engine has no container %s, which ran when the snapshot was made", strings.Join(missing, ", "))
	}
	return chosen, nil
}

// original is the container of today that a container of a snapshot is.
func original(inv *inventory, was snapshot.Container) (Container, bool) {
	var found []Container
	for _, c := range inv.containers {
		switch {
		case was.Service == "" && c.Name == was.Name:
			return c, true
		case was.Service == "" || c.Labels[labelService] != was.Service || c.Labels[labelProject] != was.Labels[labelProject]:
		case c.Name == was.Name:
			return c, true
		case c.Labels[labelOneOff] != "True":
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return Container{}, false
	}
	return found[0], true
}

// withDependencies chooses services, or containers by name, and what they depend
// on.
func withDependencies(all []Container, wanted []string) ([]Container, error) {
	in := map[string]bool{}
	for todo := slices.Clone(wanted); len(todo) > 0; todo = todo[1:] {
		found := false
		for _, c := range all {
			if c.Labels[labelService] != todo[0] && c.Name != todo[0] {
				continue
			}
			found = true
			if in[c.ID] {
				continue
			}
			in[c.ID] = true
			for _, dep := range dependencies(c) {
				todo = append(todo, dep.service)
			}
		}
		// A dependency that did not run, a job that was done, need not run now.
		if !found && slices.Contains(wanted, todo[0]) {
			return nil, cannotStart(fault.NotFound, "docker ps -a", "no service %s of the snapshot can be started", todo[0])
		}
	}
	return slices.DeleteFunc(all, func(c Container) bool { return !in[c.ID] }), nil
}

// join puts a twin into the drill's network under its service's name, so that
// twins find each other and nothing else; or where its original is, if that is
// in none or in another container's.
func (t *twin) join(op *journal.Operation, names map[string]string) error {
	if len(t.of.Reach) > 0 {
		return cannotStart(fault.Failed, "name others with --service", "container %s has %s, and its twin would too",
			t.of.Name, strings.Join(t.of.Reach, ", "))
	}
	other, shared := strings.CutPrefix(t.of.Network, "container:")
	switch {
	case shared:
		name, known := names[other]
		if !known {
			return cannotStart(fault.Failed, "name others with --service", "container %s is in the network of another container, which is not started", t.of.Name)
		}
		t.made.Network = "container:" + name
	case t.of.Network != "":
		t.made.Network = t.of.Network
	default:
		op.Network = trialPrefix(op.ID)
		t.made.Network = op.Network
		t.made.Aliases = []string{t.of.Name}
		if service := t.of.Labels[labelService]; service != "" && service != t.of.Name {
			t.made.Aliases = append(t.made.Aliases, service)
		}
	}
	return nil
}

// twinMounts are the mounts of a container with throwaway volumes in the place
// of those of the snapshot. Other volumes are empty, and binds read-only.
func (d *Domain) twinMounts(op *journal.Operation, snap snapshot.Snapshot, c Container) (out []Mount, err error) {
	trials := map[int]string{}
	for _, v := range op.Volumes {
		trials[v.Index] = v.Name
	}
	for _, m := range c.Mounts {
		index := mountedVolume(snap, c, m)
		trial, have := trials[index]
		switch {
		case have:
			out = append(out, Mount{Type: "volume", Name: trial, Target: m.Target, ReadOnly: m.ReadOnly})
		case index >= 0:
			return nil, cannotStart(fault.Failed, "name all volumes or none", "container %s needs volume %s, which was not named",
				c.Name, snap.Volumes[index].Name)
		case m.Type == "volume":
			if !anonymous(m.Name) {
				d.warn(op.ID, "container %s has an empty volume at %s: %s is not in the snapshot", c.Name, m.Target, m.Name)
			}
			out = append(out, Mount{Type: "volume", Target: m.Target, ReadOnly: m.ReadOnly})
		case m.Type == "bind" && talks(m.Source):
			return nil, cannotStart(fault.Failed, "name others with --service", "container %s has %s of the host, by which it could do more than its data allows",
				c.Name, m.Source)
		case m.Type == "bind":
			if !m.ReadOnly {
				d.warn(op.ID, "container %s has %s read-only: it is not in the snapshot", c.Name, m.Source)
			}
			out = append(out, Mount{Type: "bind", Source: m.Source, Target: m.Target, ReadOnly: true})
		case m.Type == "tmpfs":
		default:
			return nil, cannotStart(fault.Failed, "name others with --service", "container %s has a mount of kind %s at %s", c.Name, m.Type, m.Target)
		}
	}
	return out, nil
}

// talks tells whether a path of the host leads to sockets, such as the
// engine's, which read-only does not close.
func talks(source string) bool {
	if filepath.Ext(source) == ".sock" {
		return true
	}
	for _, dir := range []string{"/run", "/var/run"} {
		if within(source, dir) || within(dir, source) {
			return true
		}
	}
	return false
}

// mountedVolume is the volume of the snapshot that a container mounts there, by
// what the snapshot says of it; -1 for none.
func mountedVolume(snap snapshot.Snapshot, c Container, m Mount) int {
	if m.Type != "volume" && m.Type != "bind" {
		return -1
	}
	service := c.Labels[labelService]
	for i, v := range snap.Volumes {
		if slices.ContainsFunc(v.Uses, func(u snapshot.Use) bool {
			same := u.Container == c.Name || service != "" && u.Service == service
			return same && u.Target == m.Target
		}) {
			return i
		}
	}
	return slices.IndexFunc(snap.Volumes, func(v snapshot.Volume) bool {
		return v.Name == m.Name && m.Type == "volume" || v.Name == m.Source && m.Type == "bind"
	})
}
