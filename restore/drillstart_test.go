//go:build linux

package restore_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/enginetest"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// The workload is started on the copies as a restore would start it: what
// others depend on first, with its own mounts, in a network of its own.
func TestADrillStartsTheWorkloadOnTheCopies(t *testing.T) {
	k := newDrilled(t)
	k.e.AddContainer(t, restore.Container{
		ID: "c3", Name: "shop-app-1", State: "running", HealthCheck: true, Image: "app", ImageID: "sha256:3",
		Labels: map[string]string{
			"com.docker.compose.project": "shop", "com.docker.compose.service": "app", "com.docker.compose.depends_on": "web:service_started:false",
		},
		Mounts: []restore.Mount{{Name: "shop_files", Target: "/files"}, {Type: "bind", Source: k.e.DataRoot(), Target: "/etc/app"}, {Type: "tmpfs", Target: "/tmp"}},
	}, func(c restore.Container, n int) string {
		return []string{"starting", "starting", "healthy"}[min(n, 3)-1]
	})
	k.create()
	var started []string
	seen := map[string]string{}
	k.hook = func(c enginetest.Call) error {
		if c.Method != "Start" || !c.Done {
			return nil
		}
		twin, _ := k.e.Get(c.On)
		started = append(started, twin.ID)
		for _, m := range twin.Mounts {
			what := m.Type
			if m.Type == "volume" {
				what = read(t, m.Source)
				if tree := k.trees[m.Name]; tree != "" {
					t.Errorf("%s mounts the workload's own volume %s", twin.Name, m.Name)
				}
			}
			seen[fmt.Sprintf("%s %s", twin.ID, m.Target)] = fmt.Sprintf("%s %t", what, m.ReadOnly)
		}
		if twin.Policy.Name != "no" || twin.Labels["com.docker.compose.project"] != "" || !strings.HasPrefix(twin.Network, trial) {
			t.Errorf("%+v", twin)
		}
		return nil
	}
	out, err := k.drill(t.Context(), plan.DrillRequest{Start: true})
	assert.NilError(t, err)
	assert.DeepEqual(t, started, []string{"twin-of-c1", "twin-of-c2", "twin-of-c3"})
	assert.DeepEqual(t, seen, map[string]string{
		"twin-of-c1 /data": "old false", "twin-of-c2 /ro": "old true", "twin-of-c2 /files": "old false",
		"twin-of-c3 /files": "old false", "twin-of-c3 /etc/app": "bind true",
	})
	var got []string
	for _, c := range out.Containers {
		got = append(got, c.Container+" "+c.Status)
	}
	assert.DeepEqual(t, got, []string{"shop-db-1 running", "shop-web-1 running", "shop-app-1 healthy"})
	assert.Check(t, is.Len(k.said, 1), "that a bind is read-only: %q", k.said)
	k.gone()

	started = nil
	_, err = k.drill(t.Context(), plan.DrillRequest{Start: true, Services: []string{"web"}})
	assert.NilError(t, err)
	assert.DeepEqual(t, started, []string{"twin-of-c1", "twin-of-c2"})
	k.gone()
}

// Data on which the workload does not get healthy is whole all the same: that
// is what the exit status says. What is kept on request is stopped.
func TestADrillWhoseWorkloadDoesNotGetHealthy(t *testing.T) {
	for name, c := range map[string]struct {
		health enginetest.Health
		ends   bool
		says   string
	}{
		"unhealthy":    {health: func(restore.Container, int) string { return "unhealthy" }, says: "is unhealthy"},
		"never ready":  {health: func(restore.Container, int) string { return "starting" }, says: "is not healthy after"},
		"ends at once": {ends: true, says: "ended with status 3"},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep %t", name, keep), func(t *testing.T) {
				k := newDrilled(t)
				k.e.AddContainer(t, restore.Container{
					ID: "c3", Name: "shop-app-1", State: "running", HealthCheck: c.health != nil,
					Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "app"},
				}, c.health)
				k.create()
				k.hook = func(call enginetest.Call) error {
					if c.ends && call.Method == "Start" && call.Done && strings.HasSuffix(call.On, "app-1") {
						k.e.Change(t, call.On, func(c *restore.Container) { c.State, c.ExitCode = "exited", 3 })
					}
					return nil
				}
				_, err := k.drill(t.Context(), plan.DrillRequest{Start: true, Keep: keep, Timeout: time.Millisecond})
				assert.Assert(t, fault.Is(err, fault.NotStarted), "%v", err)
				assert.ErrorContains(t, err, "shop-app-1 "+c.says)
				assert.Assert(t, slices.ContainsFunc(k.said, func(s string) bool { return strings.Contains(s, "shop-app-1 wrote: this is") }), "%q", k.said)
				if !keep {
					k.gone()
					return
				}
				k.kept(2, 3)
			})
		}
	}
}

// kept checks that a drill left its volumes, its containers, which do not run,
// and its network.
func (k *drilled) kept(volumes, containers int) {
	k.t.Helper()
	left := (&world{t: k.t, e: k.e}).trials()
	network := min(containers, 1)
	assert.Equal(k.t, len(left), volumes+containers+network, "%q", left)
	for _, one := range left {
		assert.Assert(k.t, !strings.HasSuffix(one, " running"), one)
	}
	out, err := k.d.Recover(k.t.Context(), "")
	assert.NilError(k.t, err)
	assert.Equal(k.t, len(out.Operations), 0)
	assert.Equal(k.t, len((&world{t: k.t, e: k.e}).trials()), len(left))
}

func TestADrillKeepsWhatItIsToldTo(t *testing.T) {
	k := newDrilled(t)
	k.create()
	out, err := k.drill(t.Context(), plan.DrillRequest{Keep: true})
	assert.NilError(t, err)
	assert.Assert(t, out.Kept)
	for _, v := range out.Volumes {
		assert.Equal(t, read(t, filepath.Join(k.e.DataRoot(), "volumes", v.Trial, "_data")), "old")
	}
	k.kept(2, 0)
	again, err := k.d.Drilled(out.Operation)
	assert.NilError(t, err)
	assert.Equal(t, again.Kept, true)
	for i := range out.Volumes {
		assert.Equal(t, again.Volumes[i].Trial, out.Volumes[i].Trial)
		assert.Equal(t, again.Volumes[i].Bytes, out.Volumes[i].Bytes)
	}
}

// What could do more than its data allows, or is not there, is refused before
// anything is made.
func TestADrillThatCannotStartTheWorkloadMakesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*drilled)
		request plan.DrillRequest
		kind    fault.Kind
		says    string
	}{
		"privileges": {change: func(k *drilled) {
			k.e.Change(k.t, "c1", func(c *restore.Container) { c.Reach = []string{"all privileges", "the host's network"} })
		}, kind: fault.Failed, says: "shop-db-1 has all privileges, the host's network"},
		"the engine's socket": {change: func(k *drilled) {
			k.e.Change(k.t, "c1", func(c *restore.Container) {
				c.Mounts = append(c.Mounts, restore.Mount{Type: "bind", Source: "/var/run/docker.sock", Target: "/s"})
			})
		}, kind: fault.Failed, says: "/var/run/docker.sock"},
		"a socket elsewhere": {change: func(k *drilled) {
			k.e.Change(k.t, "c1", func(c *restore.Container) {
				c.Mounts = append(c.Mounts, restore.Mount{Type: "bind", Source: "/srv/engine.sock", Target: "/s"})
			})
		}, kind: fault.Failed, says: "/srv/engine.sock"},
		"another container's network": {change: func(k *drilled) {
			k.e.Change(k.t, "c1", func(c *restore.Container) { c.Network = "container:other" })
		}, kind: fault.Failed, says: "network of another container"},
		"a container that is gone": {change: func(k *drilled) { k.e.Drop("c1") }, kind: fault.NotFound, says: "no container shop-db-1"},
		"an unknown service":       {request: plan.DrillRequest{Services: []string{"nope"}}, kind: fault.NotFound, says: "no service nope"},
		"a volume that was not named": {request: plan.DrillRequest{Volumes: []string{"db"}}, kind: fault.Failed,
			says: "shop-web-1 needs volume shop_files"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newDrilled(t)
			k.create()
			if c.change != nil {
				c.change(k)
			}
			c.request.Start = true
			_, err := k.drill(t.Context(), c.request)
			assert.Assert(t, fault.Is(err, c.kind), "%v", err)
			assert.ErrorContains(t, err, c.says)
			assert.Equal(t, fault.From(err).State, "nothing was changed")
			assert.Check(t, is.Len(k.calls, 0))
			k.gone()
		})
	}
}
