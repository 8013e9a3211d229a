package restore

import (
	"fmt"
	"sort"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// selection is what a snapshot is made of.
type selection struct {
	project string
	volumes map[string]Volume
	skipped []snapshot.Skipped
	// members are the containers that the snapshot describes.
	members []Container
}

func (s *selection) names() (out []string) {
	for name := range s.volumes {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// selectVolumes finds the volumes that r asks for. What is named must be
// usable; what only belongs to the workload is skipped with its reason.
func selectVolumes(inv *inventory, r plan.Create) (*selection, error) {
	s := &selection{project: r.Project, volumes: map[string]Volume{}}
	nothing := func(kind fault.Kind, hint, format string, args ...any) error {
		return fault.New(kind, format, args...).WithState("nothing was changed").WithHint("%s", hint)
	}
	for _, name := range r.Volumes {
		v, ok := inv.volumes[name]
		if !ok && r.Project != "" {
			v, ok = inv.volumes[r.Project+"_"+name]
		}
		if !ok {
			return nil, nothing(fault.NotFound, "docker volume ls", "snapshot volume %s: no such volume", name)
		}
		if err := inv.reasons[v.Name]; err != nil {
			return nil, nothing(fault.Failed, "docker volume inspect "+name, "snapshot volume %s: %w", name, err)
		}
		s.take(inv, v.Name)
	}
	for _, name := range r.Containers {
		c, ok := inv.container(name)
		if !ok {
			return nil, nothing(fault.NotFound, "docker ps -a", "snapshot container %s: no such container", name)
		}
		s.members = append(s.members, c)
	}
	whole := len(r.Volumes) == 0 && len(r.Containers) == 0
	if whole {
		if r.Project == "" {
			return nil, nothing(fault.NotFound, "name volumes, a container or a project: docker snaprestore create -p PROJECT", "snapshot: nothing was named")
		}
		s.members = inv.project(r.Project)
		for _, v := range inv.volumes {
			if v.Labels[labelProject] == r.Project {
				s.take(inv, v.Name)
			}
		}
		if len(s.members) == 0 && len(s.volumes) == 0 && len(s.skipped) == 0 {
			return nil, nothing(fault.NotFound, "docker compose ls -a", "snapshot project %s: it has no containers and no volumes", r.Project)
		}
	}
	for _, c := range s.members {
		for _, m := range c.Mounts {
			s.takeMount(inv, c, m)
		}
	}
	if len(r.Volumes) > 0 {
		s.members = append(s.members, inv.users(inv.trees(s.names()...))...)
	}
	s.members = unique(s.members)
	if s.project == "" {
		s.project = commonProject(s.members)
	}
	sort.Slice(s.skipped, func(i, j int) bool { return s.skipped[i].What < s.skipped[j].What })
	if len(s.volumes) == 0 {
		return nil, nothing(fault.NotFound, "docker volume ls", "snapshot: there is no volume to snapshot (%d skipped)", len(s.skipped))
	}
	return s, nil
}

// take adds a volume, or says why it is skipped.
func (s *selection) take(inv *inventory, name string) {
	v, ok := inv.volumes[name]
	if _, taken := s.volumes[name]; taken {
		return
	}
	if !ok {
		s.skip("volume "+name, "the engine no longer has it")
		return
	}
	if err := inv.reasons[name]; err != nil {
		s.skip("volume "+name, err.Error())
		return
	}
	for _, other := range inv.sharing(name) {
		if _, taken := s.volumes[other]; taken {
			return // it is the same tree
		}
	}
	s.volumes[name] = v
}

func (s *selection) skip(what, reason string) {
	for _, k := range s.skipped {
		if k.What == what {
			return
		}
	}
	s.skipped = append(s.skipped, snapshot.Skipped{What: what, Reason: reason})
}

func (s *selection) takeMount(inv *inventory, c Container, m Mount) {
	switch m.Type {
	case "volume":
		if anonymous(m.Name) {
			if _, named := s.volumes[m.Name]; !named {
				s.skip(fmt.Sprintf("anonymous volume %s at %s:%s", m.Name[:12], c.Name, m.Target), "it goes away with its container; name it to include it")
			}
			return
		}
		s.take(inv, m.Name)
	case "bind":
		if err := inv.reasons[m.Source]; err != nil {
			s.skip(fmt.Sprintf("bind mount %s at %s:%s", m.Source, c.Name, m.Target), err.Error())
			return
		}
		s.take(inv, m.Source)
	case "tmpfs":
		s.skip(fmt.Sprintf("tmpfs at %s:%s", c.Name, m.Target), "it lives in memory")
	default:
		s.skip(fmt.Sprintf("%s mount at %s:%s", m.Type, c.Name, m.Target), "this kind of mount is not known")
	}
}

func (inv *inventory) container(ref string) (Container, bool) {
	for _, c := range inv.containers {
		if c.Name == ref || c.ID == ref || (len(ref) >= 4 && len(ref) < len(c.ID) && c.ID[:len(ref)] == ref) {
			return c, true
		}
	}
	return Container{}, false
}

func unique(in []Container) (out []Container) {
	seen := map[string]bool{}
	for _, c := range in {
		if !seen[c.ID] {
			seen[c.ID] = true
			out = append(out, c)
		}
	}
	return out
}

// commonProject gives the project that all containers belong to, or "".
func commonProject(containers []Container) string {
	project := ""
	for i, c := range containers {
		if p := c.Labels[labelProject]; i == 0 {
			project = p
		} else if p != project {
			return ""
		}
	}
	return project
}

// writers are the running containers that may write into the trees.
func writers(inv *inventory, t trees) (out []Container) {
	for _, c := range writable(inv, t) {
		if c.State == "running" || c.State == "restarting" {
			out = append(out, c)
		}
	}
	return out
}

// writable are the containers that may write into the trees when they run.
func writable(inv *inventory, t trees) (out []Container) {
	for _, c := range inv.containers {
		for _, m := range c.Mounts {
			if t.mounted(m) && !m.ReadOnly {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// workloadKeys are the locks on a workload and on its volumes' trees.
func workloadKeys(project string, locks []string) []journal.Key {
	var keys []journal.Key
	if project != "" {
		keys = append(keys, journal.Key{Name: "workload:" + project})
	}
	return append(keys, journal.Exclusive(locks...)...)
}

// containerKeys are the locks on containers that an operation stops or pauses.
// Two operations whose volumes differ may have one in common, and the first to
// end would let it write to what the other still reads, or start it where the
// other has a fence. Names are locked, not ids: they come again when a project is made anew.
func containerKeys(names []string) []journal.Key {
	for i := range names {
		names[i] = "container:" + names[i]
	}
	return journal.Exclusive(names...)
}

// keys are the locks of a snapshot: on the workload, the volumes' trees, and
// the containers that it pauses or stops if they run by then.
func (s *selection) keys(inv *inventory, c snapshot.Consistency) []journal.Key {
	var held []Container
	switch c {
	case snapshot.Pause:
		held = writable(inv, inv.trees(s.names()...))
	case snapshot.Stop:
		held = inv.withDependents(writable(inv, inv.trees(s.names()...)))
	}
	var names []string
	for _, one := range held {
		names = append(names, one.Name)
	}
	return append(workloadKeys(s.project, s.locks(inv)), containerKeys(names)...)
}

// locks are the locks of the selected volumes' trees.
func (s *selection) locks(inv *inventory) (out []string) {
	for _, name := range s.names() {
		out = append(out, inv.places[name].lock)
	}
	return out
}
