package enginetest

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/snaprestore/snaprestore/restore"
)

// Checkpoint is the state of an engine at one moment, without the volumes' trees.
type Checkpoint struct {
	host       restore.Host
	volumes    map[string]restore.Volume
	images     []restore.Image
	containers []frozen
	networks   map[string]bool
}

// frozen is a container in a checkpoint. Of the trees that it has mounted it holds
// the paths that they had at that moment.
type frozen struct {
	container
	paths map[string]string
}

// Checkpoint takes the engine's state.
func (e *Engine) Checkpoint() (Checkpoint, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := Checkpoint{host: e.host, volumes: maps.Clone(e.volumes), images: slices.Clone(e.images), networks: maps.Clone(e.networks)}
	for _, c := range e.containers {
		f := frozen{container: *c, paths: map[string]string{}}
		f.trees = nil
		for target, tree := range c.trees {
			path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", tree.Fd()))
			if err != nil {
				return i, err
			}
			f.paths[target] = path
		}
		i.containers = append(i.containers, f)
	}
	return i, nil
}

// PowerOff is the state that a power loss leaves: containers that were up still
// count as such, for Reboot, and have nothing mounted.
func (i Checkpoint) PowerOff() Checkpoint {
	i.containers = slices.Clone(i.containers)
	for n := range i.containers {
		i.containers[n].paths = nil
	}
	return i
}

// Rewind gives the engine the state of a checkpoint. The trees that containers have
// mounted must be where they were when it was taken.
func (e *Engine) Rewind(i Checkpoint) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.containers {
		c.letGo()
	}
	e.host, e.volumes, e.images = i.host, maps.Clone(i.volumes), slices.Clone(i.images)
	e.networks = maps.Clone(i.networks)
	e.containers, e.calls, e.crashed = nil, nil, false
	for _, f := range i.containers {
		c := f.container
		if len(f.paths) > 0 {
			c.trees = map[string]*os.File{}
		}
		for target, path := range f.paths {
			tree, err := os.Open(path)
			if err != nil {
				return err
			}
			c.trees[target] = tree
		}
		e.containers = append(e.containers, &c)
	}
	return nil
}

// Containers are the containers as they were.
func (i Checkpoint) Containers() (all []restore.Container) {
	for _, f := range i.containers {
		all = append(all, f.Container)
	}
	return all
}

// Mounted are the paths of the trees that containers had mounted.
func (i Checkpoint) Mounted() (all []string) {
	for _, f := range i.containers {
		all = append(all, slices.Collect(maps.Values(f.paths))...)
	}
	return all
}

// String tells what is of interest of each container: state, policy, and the
// paths of the trees that it has mounted.
func (i Checkpoint) String() string {
	var s string
	for _, f := range i.containers {
		s += fmt.Sprintf("%s %s %s:%d by-hand=%t", f.Name, f.State, f.Policy.Name, f.Policy.Retries, f.byHand)
		for _, target := range slices.Sorted(maps.Keys(f.paths)) {
			s += fmt.Sprintf(" %s=%s", target, f.paths[target])
		}
		s += "\n"
	}
	for _, name := range slices.Sorted(maps.Keys(i.volumes)) {
		s += "volume " + name + "\n"
	}
	for _, name := range slices.Sorted(maps.Keys(i.networks)) {
		s += "network " + name + "\n"
	}
	return s
}
