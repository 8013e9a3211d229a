package restore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// Labels that Compose puts on what it makes.
const (
	labelProject   = "com.docker.compose.project"
	labelService   = "com.docker.compose.service"
	labelVolume    = "com.docker.compose.volume"
	labelDependsOn = "com.docker.compose.depends_on"
	labelOneOff    = "com.docker.compose.oneoff"
	labelConfig    = "com.docker.compose.config-hash"
	labelTask      = "com.docker.swarm.task.id"
)

// inventory is what the engine has, read once for a plan.
type inventory struct {
	host       Host
	containers []Container
	volumes    map[string]Volume
	// places has the volumes that can be worked with, reasons the others.
	places  map[string]place
	reasons map[string]error
}

func (d *Domain) inventory(ctx context.Context) (*inventory, error) {
	containers, err := d.Engine.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	volumes, err := d.Engine.Volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	// After the volumes: their list has the engine look for its drivers.
	host, err := d.Engine.Host(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the engine: %w", err)
	}
	inv := &inventory{host: host, volumes: map[string]Volume{}, places: map[string]place{}, reasons: map[string]error{}}
	for _, c := range containers {
		if c.ID != d.Self {
			inv.containers = append(inv.containers, c)
		}
	}
	sort.Slice(inv.containers, func(i, j int) bool { return inv.containers[i].Name < inv.containers[j].Name })
	for _, v := range volumes {
		inv.volumes[v.Name] = v
		if at, err := d.placeOf(v); err != nil {
			inv.reasons[v.Name] = err
		} else {
			inv.places[v.Name] = at
		}
	}
	return inv, d.addBinds(inv)
}

// addBinds takes the sources of bind mounts among the volumes, each by its
// path, with its place or the reason why it has none.
func (d *Domain) addBinds(inv *inventory) error {
	prefixes, err := d.Allowed()
	if err != nil {
		return err
	}
	for _, c := range inv.containers {
		for _, m := range c.Mounts {
			if _, known := inv.volumes[m.Source]; known || m.Type != "bind" {
				continue
			}
			inv.volumes[m.Source] = Volume{Name: m.Source, Driver: bindDriver, Mountpoint: m.Source}
			if at, err := d.bindPlace(m.Source, inv.host.DataRoot, prefixes); err != nil {
				inv.reasons[m.Source] = err
			} else {
				inv.places[m.Source] = at
			}
		}
	}
	return nil
}

// project gives the containers of a Compose project, without one-off ones of
// "compose run" unless they are up.
func (inv *inventory) project(name string) (out []Container) {
	for _, c := range inv.containers {
		if name == "" || c.Labels[labelProject] != name {
			continue
		}
		if c.Labels[labelOneOff] == "True" && !c.Up() {
			continue
		}
		out = append(out, c)
	}
	return out
}

var anonymousName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// anonymous reports whether the engine named the volume itself.
func anonymous(name string) bool { return anonymousName.MatchString(name) }

// trees is a set of volumes' trees, with the names of all volumes that are one
// of them: volumes of a shared scope have one tree.
type trees struct {
	names map[string]bool
	paths []string
}

// trees gives the trees of these volumes. Names that have no place are left out.
func (inv *inventory) trees(names ...string) trees {
	t := trees{names: map[string]bool{}}
	for _, name := range names {
		at, ok := inv.places[name]
		if !ok {
			continue
		}
		t.paths = append(t.paths, at.path())
		for _, other := range inv.sharing(name) {
			t.names[other] = true
		}
	}
	return t
}

// sharing lists the volumes that have the same tree as this one, with it.
func (inv *inventory) sharing(name string) (out []string) {
	for other, at := range inv.places {
		if at == inv.places[name] {
			out = append(out, other)
		}
	}
	sort.Strings(out)
	return out
}

// mounted reports whether a mount shows one of the trees: by the volume's
// name, or as a bind of its directory or of something inside it. What binds a
// directory above a bind mount's source sees it too; above the volumes' own
// directories only agents and observers look.
func (t trees) mounted(m Mount) bool {
	switch m.Type {
	case "volume":
		return t.names[m.Name]
	case "bind":
		for _, path := range t.paths {
			if within(m.Source, path) || (t.names[path] && within(path, m.Source)) {
				return true
			}
		}
	}
	return false
}

// users gives every container that mounts one of the trees.
func (inv *inventory) users(t trees) (out []Container) {
	for _, c := range inv.containers {
		for _, m := range c.Mounts {
			if t.mounted(m) {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	if dir == "" {
		return false
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// dependency is one entry of the depends_on label.
type dependency struct {
	service, condition string
}

// dependencies reads the label: "db:service_healthy:false,cache:service_started:true".
func dependencies(c Container) (out []dependency) {
	for _, field := range strings.Split(c.Labels[labelDependsOn], ",") {
		parts := strings.Split(field, ":")
		if parts[0] == "" {
			continue
		}
		dep := dependency{service: parts[0], condition: "service_started"}
		if len(parts) > 1 && parts[1] != "" {
			dep.condition = parts[1]
		}
		out = append(out, dep)
	}
	return out
}

// withDependents adds to users every container of their projects that depends
// on one of them, directly or not: it would run on with what it read of the
// old data.
func (inv *inventory) withDependents(users []Container) []Container {
	in := map[string]bool{}
	services := map[[2]string]bool{}
	add := func(c Container) {
		in[c.ID] = true
		if s := c.Labels[labelService]; s != "" {
			services[[2]string{c.Labels[labelProject], s}] = true
		}
	}
	for _, c := range users {
		add(c)
	}
	for grown := true; grown; {
		grown = false
		for _, c := range inv.containers {
			if in[c.ID] || c.Labels[labelProject] == "" {
				continue
			}
			for _, dep := range dependencies(c) {
				if services[[2]string{c.Labels[labelProject], dep.service}] {
					add(c)
					grown = true
					break
				}
			}
		}
	}
	var out []Container
	for _, c := range inv.containers {
		if in[c.ID] {
			out = append(out, c)
		}
	}
	return out
}

// levels gives each container its place in the start order: one more than the
// highest of what it depends on among them. A circle, which Compose refuses,
// is cut where it closes.
func levels(containers []Container) map[string]int {
	byService := map[[2]string][]Container{}
	for _, c := range containers {
		key := [2]string{c.Labels[labelProject], c.Labels[labelService]}
		byService[key] = append(byService[key], c)
	}
	level := map[string]int{}
	const visiting = -1
	var visit func(c Container) int
	visit = func(c Container) int {
		if n, ok := level[c.ID]; ok {
			return max(n, 0)
		}
		level[c.ID] = visiting
		n := 0
		for _, dep := range dependencies(c) {
			for _, other := range byService[[2]string{c.Labels[labelProject], dep.service}] {
				if other.ID != c.ID && level[other.ID] != visiting {
					n = max(n, visit(other)+1)
				}
			}
		}
		level[c.ID] = n
		return n
	}
	for _, c := range containers {
		visit(c)
	}
	return level
}

// involve inspects the containers that an operation will stop, and refuses
// those that a stop would destroy or that something else would start again.
func (d *Domain) involve(ctx context.Context, containers []Container, project string, grace *int) ([]plan.Container, error) {
	level := levels(containers)
	var out []plan.Container
	for _, listed := range containers {
		c, err := d.Engine.Container(ctx, listed.ID)
		if errors.Is(err, ErrNoSuch) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("inspect container %s: %w", listed.Name, err)
		}
		if c.Up() && c.AutoRemove {
			return nil, fault.New(fault.Failed, "stop container %s: it was started with --rm, so a stop would delete it", c.Name).
				WithState("nothing was changed").
				WithHint("end it first: docker stop %s", c.Name)
		}
		if c.Labels[labelTask] != "" && c.Up() {
			return nil, fault.New(fault.Failed, "stop container %s: it is a task of a swarm service, which swarm would start again", c.Name).
				WithState("nothing was changed").
				WithHint("scale the service to 0 first: docker service scale SERVICE=0")
		}
		stop := grace
		if stop == nil {
			stop = c.StopTimeout
		}
		out = append(out, plan.Container{
			Container: journal.Container{
				ID: c.ID, Name: c.Name,
				Service: c.Labels[labelService], Project: c.Labels[labelProject],
				Running: c.Up(), Paused: c.State == "paused", Health: c.HealthCheck,
				Policy: c.Policy, Level: level[c.ID], StopTimeout: stop,
				Await: awaited(c, containers),
			},
			Image:   c.Image,
			ImageID: c.ImageID,
			Foreign: c.Labels[labelProject] != project,
		})
	}
	sort.SliceStable(out, func(i, j int) bool {
		if out[i].Level != out[j].Level {
			return out[i].Level < out[j].Level
		}
		return out[i].Name < out[j].Name
	})
	return out, nil
}

// awaited reports whether a container of the set is to be started only when c
// is healthy.
func awaited(c Container, set []Container) bool {
	for _, other := range set {
		if other.Labels[labelProject] != c.Labels[labelProject] {
			continue
		}
		for _, dep := range dependencies(other) {
			if dep.service == c.Labels[labelService] && dep.condition == "service_healthy" && c.HealthCheck {
				return true
			}
		}
	}
	return false
}
