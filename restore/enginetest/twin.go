package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
)

// CreateTwin implements restore.Engine. The twin has its original's health, and
// fails to be made where its name is taken, as the engine's does.
func (e *Engine) CreateTwin(ctx context.Context, t restore.Twin) (id string, err error) {
	err = e.do(ctx, Call{Method: "CreateTwin", On: t.Name}, func() error {
		of := e.find(t.Of)
		switch {
		case of == nil:
			return noSuch("container", t.Of)
		case e.find(t.Name) != nil:
			return fmt.Errorf("the container name %q is already in use", t.Name)
		}
		c := &container{health: of.health}
		c.ID, c.Name, c.State = "twin-of-"+of.ID, t.Name, "created"
		c.Image, c.ImageID, c.Labels = of.Image, of.ImageID, maps.Clone(t.Labels)
		c.HealthCheck, c.Policy, c.Network = of.HealthCheck, journal.Policy{Name: "no"}, t.Network
		for _, m := range t.Mounts {
			if m.Type == "volume" && m.Name != "" {
				v, ok := e.volumes[m.Name]
				if !ok {
					return noSuch("volume", m.Name)
				}
				m.Driver, m.Source = v.Driver, v.Mountpoint
			}
			if m.Type != "volume" || m.Name != "" {
				c.Mounts = append(c.Mounts, m)
			}
		}
		e.containers = append(e.containers, c)
		id = c.ID
		return nil
	})
	return id, err
}

// RemoveContainer implements restore.Engine.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	return e.do(ctx, Call{Method: "RemoveContainer", On: id}, func() error {
		e.drop(id)
		return nil
	})
}

// CreateNetwork implements restore.Engine.
func (e *Engine) CreateNetwork(ctx context.Context, name string, _ map[string]string) error {
	return e.do(ctx, Call{Method: "CreateNetwork", On: name}, func() error {
		if e.networks[name] {
			return fmt.Errorf("network with name %s already exists", name)
		}
		e.networks[name] = true
		return nil
	})
}

// RemoveNetwork implements restore.Engine. One with running containers is in
// use.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	return e.do(ctx, Call{Method: "RemoveNetwork", On: name}, func() error {
		if !e.networks[name] {
			return noSuch("network", name)
		}
		for _, c := range e.containers {
			if c.Network == name && c.Up() {
				return errors.New("network " + name + " has active endpoints")
			}
		}
		delete(e.networks, name)
		return nil
	})
}

// Output implements restore.Engine: the container says its name.
func (e *Engine) Output(ctx context.Context, id string, _ int) (lines []string, err error) {
	err = e.on(ctx, Call{Method: "Output", On: id}, func(c *container) error {
		lines = []string{"this is " + c.Name}
		return nil
	})
	return lines, err
}

// Networks are the networks that were made, by name.
func (e *Engine) Networks() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.networks))
}
