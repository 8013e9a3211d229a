package restore

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// choose gives the indexes of the snapshot's volumes that are wanted: all, or
// those named by name, compose key or index.
func choose(snap snapshot.Snapshot, wanted []string) ([]int, error) {
	if len(wanted) == 0 {
		var all []int
		for i := range snap.Volumes {
			all = append(all, i)
		}
		return all, nil
	}
	var out []int
	seen := map[int]bool{}
	for _, want := range wanted {
		found := -1
		for i, v := range snap.Volumes {
			if v.Name == want {
				found = i
				break
			}
			if v.Key == want || strconv.Itoa(i) == want {
				found = i
			}
		}
		if found < 0 {
			return nil, fault.New(fault.NotFound, "restore volume %s: snapshot %s does not hold it", want, snap.ID).
				WithState("nothing was changed").
				WithHint("docker snaprestore inspect %s", snap.ID)
		}
		if !seen[found] {
			seen[found] = true
			out = append(out, found)
		}
	}
	sort.Ints(out)
	return out, nil
}

// match finds the volume of today that a volume of the snapshot belongs to:
// the one that the same service mounts at the same target in the current
// configuration, else the one with the same key in the project, else the one
// with the same name. The archive's own source paths are never used. An empty
// name says that there is none and it has to be made.
func match(inv *inventory, snap snapshot.Snapshot, sv snapshot.Volume, project string) (name, warning string, err error) {
	byTarget := map[string]bool{}
	for _, use := range sv.Uses {
		for _, c := range inv.containers {
			if project != "" && c.Labels[labelProject] != project {
				continue
			}
			if use.Service != "" && c.Labels[labelService] != use.Service {
				continue
			}
			if use.Service == "" && use.Container != "" && c.Name != use.Container {
				continue
			}
			if project == "" && (use.Container == "" || c.Name != use.Container) {
				continue // a mere target or service needs a project
			}
			for _, m := range c.Mounts {
				if m.Target != use.Target {
					continue
				}
				switch {
				case m.Type == "volume" && (!anonymous(m.Name) || anonymous(sv.Name)):
					byTarget[m.Name] = true
				case m.Type == "bind":
					byTarget[m.Source] = true
				}
			}
		}
	}
	switch {
	case len(byTarget) == 1:
		for found := range byTarget {
			if snap.Project == project && found != sv.Name {
				warning = fmt.Sprintf("volume %s of the snapshot goes into volume %s, which is now mounted in its place", sv.Name, found)
			}
			return found, warning, nil
		}
	case len(byTarget) > 1:
		if byTarget[sv.Name] {
			return sv.Name, "", nil
		}
		return "", "", fault.New(fault.Failed, "restore volume %s: several volumes are mounted at its target now: %s", sv.Name, list(byTarget)).
			WithState("nothing was changed").
			WithHint("see what the containers mount: docker ps -a --format '{{.Names}} {{.Mounts}}' --no-trunc")
	}
	if sv.Key != "" && project != "" {
		for _, v := range inv.volumes {
			if v.Labels[labelProject] == project && v.Labels[labelVolume] == sv.Key {
				return v.Name, "", nil
			}
		}
	}
	if _, ok := inv.volumes[sv.Name]; ok && sv.Driver != bindDriver && sv.Name != "" && snap.Project == project && snap.Kind != snapshot.Imported {
		return sv.Name, "", nil
	}
	return "", "", nil
}

func list(set map[string]bool) string {
	var out []string
	for s := range set {
		out = append(out, s)
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// newVolume describes the volume that has to be made for sv.
func (d *Domain) newVolume(snap snapshot.Snapshot, sv snapshot.Volume, project string) (*plan.CreateVolume, error) {
	if sv.Driver == bindDriver {
		return nil, fault.New(fault.NotFound, "restore bind mount %s: nothing mounts a directory at %s now", sv.Name, targets(sv)).
			WithState("nothing was changed").
			WithHint("make the containers first (docker compose up --no-start), or name the volumes to restore")
	}
	if _, err := d.placeOf(Volume{Name: "new", Driver: driverOf(sv), Options: sv.Options, Mountpoint: "/_data"}); err != nil {
		return nil, fault.New(fault.Failed, "make volume %s: %w", sv.Name, err).
			WithState("nothing was changed").
			WithHint("make the volume yourself, then restore again: docker volume create")
	}
	if snap.Project == project && sv.Name != "" && snap.Kind != snapshot.Imported {
		// Compose compares its hash with the label and offers to make the
		// volume anew where they differ: all labels as they were.
		return &plan.CreateVolume{Name: sv.Name, Driver: driverOf(sv), Labels: sv.Labels, Options: sv.Options}, nil
	}
	if project != "" && sv.Key != "" {
		labels := map[string]string{}
		for k, v := range sv.Labels {
			labels[k] = v
		}
		delete(labels, labelConfig)
		labels[labelProject], labels[labelVolume] = project, sv.Key
		return &plan.CreateVolume{Name: project + "_" + sv.Key, Driver: driverOf(sv), Labels: labels, Options: sv.Options}, nil
	}
	if project == "" && sv.Name != "" && snap.Kind == snapshot.Imported && len(sv.Uses) == 0 {
		return &plan.CreateVolume{Name: sv.Name, Driver: driverOf(sv), Labels: sv.Labels, Options: sv.Options}, nil
	}
	what := sv.Name
	if what == "" {
		what = fmt.Sprintf("for %s", targets(sv))
	}
	f := fault.New(fault.NotFound, "restore volume %s: nothing mounts a volume at %s", what, targets(sv)).WithState("nothing was changed")
	if project == "" {
		return nil, f.WithHint("say which project it belongs to: docker snaprestore restore -p PROJECT %s", snap.ID)
	}
	return nil, f.WithHint("make the project's containers first: docker compose -p %s up --no-start", project)
}

// driverOf is the driver of a volume to be made; old archives do not tell.
func driverOf(sv snapshot.Volume) string {
	if sv.Driver == "" {
		return "local"
	}
	return sv.Driver
}

func targets(sv snapshot.Volume) string {
	var out []string
	for _, use := range sv.Uses {
		out = append(out, use.Target)
	}
	if len(out) == 0 {
		return "any place"
	}
	return strings.Join(out, ", ")
}
