package enginetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// do runs one call between its two hooks.
func (e *Engine) do(ctx context.Context, c Call, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.hook(c); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	e.mu.Lock()
	if e.crashed {
		e.mu.Unlock()
		return fmt.Errorf("%s: %w", c, ErrCrashed)
	}
	err := effect()
	c.Done = err == nil
	e.calls = append(e.calls, c)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	if err := e.hook(c); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.crashed {
		return fmt.Errorf("%s: %w", c, ErrCrashed)
	}
	return nil
}

func (e *Engine) hook(c Call) error {
	if e.Hook == nil {
		return nil
	}
	return e.Hook(c)
}

func noSuch(what, name string) error {
	return fmt.Errorf("%s %s: %w", what, name, restore.ErrNoSuch)
}

// Host implements restore.Engine.
func (e *Engine) Host(ctx context.Context) (h restore.Host, err error) {
	err = e.do(ctx, Call{Method: "Host"}, func() error {
		h = e.host
		return nil
	})
	return h, err
}

// Containers implements restore.Engine.
func (e *Engine) Containers(ctx context.Context) (all []restore.Container, err error) {
	err = e.do(ctx, Call{Method: "Containers"}, func() error {
		for _, c := range e.containers {
			all = append(all, restore.Container{
				ID: c.ID, Name: c.Name, Image: c.Image, ImageID: c.ImageID, Labels: c.Labels,
				State: c.State, Mounts: slices.Clone(c.Mounts),
			})
		}
		slices.Reverse(all) // the engine lists the newest first
		return nil
	})
	return all, err
}

// Container implements restore.Engine.
func (e *Engine) Container(ctx context.Context, id string) (got restore.Container, err error) {
	err = e.on(ctx, Call{Method: "Container", On: id}, func(c *container) error {
		c.looked++
		c.Health = c.healthNow()
		got = c.Container
		got.Mounts = slices.Clone(c.Mounts)
		return nil
	})
	return got, err
}

// on runs a call on the container that it names.
func (e *Engine) on(ctx context.Context, call Call, effect func(*container) error) error {
	return e.do(ctx, call, func() error {
		c := e.find(call.On)
		if c == nil {
			return noSuch("container", call.On)
		}
		return effect(c)
	})
}

// Volumes implements restore.Engine.
func (e *Engine) Volumes(ctx context.Context) (all []restore.Volume, err error) {
	err = e.do(ctx, Call{Method: "Volumes"}, func() error {
		for _, v := range e.volumes {
			all = append(all, v)
		}
		sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
		return nil
	})
	return all, err
}

// Volume implements restore.Engine.
func (e *Engine) Volume(ctx context.Context, name string) (v restore.Volume, err error) {
	err = e.do(ctx, Call{Method: "Volume", On: name}, func() error {
		found, ok := e.volumes[name]
		if !ok {
			return noSuch("volume", name)
		}
		v = found
		return nil
	})
	return v, err
}

// CreateVolume implements restore.Engine.
func (e *Engine) CreateVolume(ctx context.Context, p plan.CreateVolume) (v restore.Volume, err error) {
	err = e.do(ctx, Call{Method: "CreateVolume", On: p.Name}, func() error {
		v, err = e.makeVolume(restore.Volume{Name: p.Name, Driver: p.Driver, Labels: p.Labels, Options: p.Options})
		return err
	})
	return v, err
}

// RemoveVolume implements restore.Engine. As the local driver does, it removes
// the volume's directory with everything in it.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	return e.do(ctx, Call{Method: "RemoveVolume", On: name}, func() error {
		v, ok := e.volumes[name]
		if !ok {
			return noSuch("volume", name)
		}
		for _, c := range e.containers {
			for _, m := range c.Mounts {
				if m.Type == "volume" && m.Name == name {
					return fmt.Errorf("remove %s: volume is in use - [%s]", name, c.ID)
				}
			}
		}
		if err := os.RemoveAll(filepath.Dir(v.Mountpoint)); err != nil {
			return err
		}
		delete(e.volumes, name)
		return nil
	})
}

// Image implements restore.Engine.
func (e *Engine) Image(ctx context.Context, ref string) (i restore.Image, err error) {
	err = e.do(ctx, Call{Method: "Image", On: ref}, func() error {
		for _, image := range e.images {
			if image.ID == ref || slices.Contains(image.Tags, ref) || slices.Contains(image.Digests, ref) {
				i = image
				return nil
			}
		}
		return noSuch("image", ref)
	})
	return i, err
}

// Stop implements restore.Engine.
func (e *Engine) Stop(ctx context.Context, id string, grace *int) error {
	call := Call{Method: "Stop", On: id}
	if grace != nil {
		call.Arg = strconv.Itoa(*grace)
	}
	return e.on(ctx, call, func(c *container) error {
		if !c.Up() {
			return nil
		}
		c.stop(0)
		c.byHand = true
		if c.AutoRemove {
			e.drop(c.ID)
		}
		return nil
	})
}

// Start implements restore.Engine.
func (e *Engine) Start(ctx context.Context, id string) error {
	return e.on(ctx, Call{Method: "Start", On: id}, func(c *container) error { return c.start() })
}

// Pause implements restore.Engine.
func (e *Engine) Pause(ctx context.Context, id string) error {
	return e.on(ctx, Call{Method: "Pause", On: id}, func(c *container) error {
		switch c.State {
		case "running":
			c.State = "paused"
		case "paused":
		default:
			return fmt.Errorf("container %s is not running", c.Name)
		}
		return nil
	})
}

// Unpause implements restore.Engine.
func (e *Engine) Unpause(ctx context.Context, id string) error {
	return e.on(ctx, Call{Method: "Unpause", On: id}, func(c *container) error {
		switch c.State {
		case "paused":
			c.State = "running"
		case "running":
		default:
			return fmt.Errorf("container %s is not running", c.Name)
		}
		return nil
	})
}

// SetPolicy implements restore.Engine.
func (e *Engine) SetPolicy(ctx context.Context, id string, p journal.Policy) error {
	call := Call{Method: "SetPolicy", On: id, Arg: p.Name}
	if p.Retries != 0 {
		call.Arg += ":" + strconv.Itoa(p.Retries)
	}
	return e.on(ctx, call, func(c *container) error {
		if c.AutoRemove && p.Name != "no" {
			return fmt.Errorf("container %s: restart policy cannot be updated because AutoRemove is enabled", c.Name)
		}
		c.Policy = p
		return nil
	})
}

// start resolves the mounts and runs the container.
func (c *container) start() error {
	switch c.State {
	case "running":
		return nil
	case "paused":
		return fmt.Errorf("cannot start a paused container, try unpause instead: %s", c.Name)
	case "removing", "dead":
		return fmt.Errorf("container %s is marked for removal and cannot be started", c.Name)
	}
	if err := c.hold(); err != nil {
		c.State, c.ExitCode = "exited", 127
		return err
	}
	c.State, c.ExitCode, c.StartedAt = "running", 0, time.Now()
	c.byHand = false
	c.looked = 0
	c.starts++
	c.Health = ""
	if c.HealthCheck {
		c.Health = "starting"
	}
	return nil
}

// hold opens every mounted tree, or none: a mount keeps its tree when the path
// comes to name another one.
func (c *container) hold() error {
	trees := map[string]*os.File{}
	for _, m := range c.Mounts {
		if m.Type != "volume" && m.Type != "bind" {
			continue
		}
		f, err := openTree(m.Source)
		if err != nil {
			for _, f := range trees {
				f.Close()
			}
			return err
		}
		trees[m.Target] = f
	}
	c.trees = trees
	return nil
}

// openTree opens what a mount source leads to, with the engine's own words
// where it leads nowhere.
func openTree(source string) (*os.File, error) {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return nil, fmt.Errorf("error evaluating symlinks from mount source %q: %w", source, err)
	}
	return os.Open(real)
}

func (c *container) letGo() {
	for _, f := range c.trees {
		f.Close()
	}
	c.trees = nil
}

func (c *container) stop(code int) {
	c.letGo()
	c.State, c.ExitCode, c.Health = "exited", code, ""
}

func (c *container) healthNow() string {
	switch {
	case !c.HealthCheck || !c.Up():
		return ""
	case c.health == nil:
		return "healthy"
	}
	return c.health(c.Container, c.looked)
}
