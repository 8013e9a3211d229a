package snapshot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// Resolve finds the snapshot that a reference means. In this order a reference
// is a whole id; a name, also a safety snapshot's; latest or latest~N, the
// newest of the project or the one N before it, safety snapshots not counted;
// a prefix of one id, of any length. That order is docker's for containers, so
// a name that looks like a prefix is the name.
//
// Latest without a project is the newest of all where all snapshots are of
// one project, and ambiguous otherwise. Errors are of kind fault.NotFound;
// fault.Failed where the reference is ambiguous, naming candidates, or none at
// all; those of Load.
func (s *Store) Resolve(ref, project string) (Snapshot, error) {
	id, err := s.ResolveID(ref, project)
	if err != nil {
		return Snapshot{}, err
	}
	return s.Load(id)
}

// ResolveID is Resolve for who wants no more than the id, to remove a snapshot
// that cannot be read.
func (s *Store) ResolveID(ref, project string) (string, error) {
	if err := checkReference(ref); err != nil {
		return "", err
	}
	snaps, bad, err := s.scan()
	if err != nil {
		return "", err
	}
	if journal.ValidID(ref) {
		return exact(ref, snaps, bad)
	}
	for _, snap := range snaps {
		if snap.Name == ref {
			return snap.ID, nil
		}
	}
	if back, ok := parseLatest(ref); ok {
		return latest(ref, back, project, snaps, bad)
	}
	return prefix(ref, snaps, bad)
}

var latestShape = regexp.MustCompile(`^` + Latest + `(?:~([0-9]{1,6}))?$`)

// parseLatest gives N of latest~N.
func parseLatest(ref string) (back int, ok bool) {
	match := latestShape.FindStringSubmatch(ref)
	if match == nil {
		return 0, false
	}
	back, _ = strconv.Atoi(match[1]) // the shape lets only numbers through, or none
	return back, true
}

// checkReference refuses what cannot be a reference.
func checkReference(ref string) error {
	const hint = "name an id, a prefix of one, a name or latest: docker snaprestore ls shows them"
	switch {
	case ref == "":
		return fault.New(fault.Failed, "find snapshot: the reference is empty").
			WithState("nothing was changed").WithHint(hint)
	case strings.ContainsAny(ref, `/\`):
		return fault.New(fault.Failed, "find snapshot %.200q: it is a path, not a snapshot", ref).
			WithState("nothing was changed").
			WithHint("%s; docker snaprestore import FILE makes a snapshot of an archive", hint)
	case strings.HasPrefix(ref, Latest+"~") && !latestShape.MatchString(ref):
		return fault.New(fault.Failed, "find snapshot %.200q: after %s~ comes how many to go back", ref, Latest).
			WithState("nothing was changed").WithHint("docker snaprestore inspect latest~1 shows the one before the newest")
	case !nameShape.MatchString(ref) && !latestShape.MatchString(ref), len(ref) > nameLimit:
		return fault.New(fault.Failed, "find snapshot %.200q: it is no id and no name", ref).
			WithState("nothing was changed").WithHint(hint)
	}
	return nil
}

func exact(id string, snaps []Snapshot, bad []unread) (string, error) {
	for _, snap := range snaps {
		if snap.ID == id {
			return id, nil
		}
	}
	for _, b := range bad {
		if b.id == id {
			return id, nil
		}
	}
	return "", notFound(id)
}

// latest finds the snapshot that lies back snapshots before the newest. One
// that cannot be read may be the one that is meant, so it stops the search.
func latest(ref string, back int, project string, snaps []Snapshot, bad []unread) (string, error) {
	if len(bad) > 0 {
		return "", fmt.Errorf("find snapshot %s: one that cannot be read may be meant: %w", ref, bad[0].err)
	}
	var mine []Snapshot
	for _, snap := range snaps {
		if snap.Kind == Safety || project != "" && snap.Project != project {
			continue
		}
		mine = append(mine, snap)
	}
	for _, snap := range mine {
		if snap.Project != mine[0].Project {
			return "", fault.New(fault.Failed, "find snapshot %s: there are snapshots of %s and of %s", ref, owner(mine[0]), owner(snap)).
				WithState("nothing was changed").
				WithHint("name the project with -p, or a snapshot of docker snaprestore ls")
		}
	}
	if back >= len(mine) {
		of := ""
		if project != "" {
			of = " of project " + project
		}
		return "", fault.New(fault.NotFound, "find snapshot %s: there are %d snapshots%s", ref, len(mine), of).
			WithHint("docker snaprestore ls shows the snapshots; docker snaprestore create makes one")
	}
	return mine[back].ID, nil
}

func owner(snap Snapshot) string {
	if snap.Project == "" {
		return "no project"
	}
	return "project " + snap.Project
}

// candidates is how many snapshots an ambiguous reference's error names.
const candidates = 5

func prefix(ref string, snaps []Snapshot, bad []unread) (string, error) {
	var ids, texts []string
	add := func(id, name string) {
		if !strings.HasPrefix(id, ref) {
			return
		}
		ids = append(ids, id)
		if name != "" {
			id += " (" + name + ")"
		}
		texts = append(texts, id)
	}
	for _, snap := range snaps {
		add(snap.ID, snap.Name)
	}
	for _, b := range bad {
		add(b.id, "unreadable")
	}
	switch {
	case len(ids) == 1:
		return ids[0], nil
	case len(ids) > 1:
		if len(texts) > candidates {
			texts = append(texts[:candidates], fmt.Sprintf("and %d more", len(ids)-candidates))
		}
		return "", fault.New(fault.Failed, "find snapshot %s: it may mean %s", ref, strings.Join(texts, ", ")).
			WithState("nothing was changed").
			WithHint("give more digits of the id: docker snaprestore ls shows them")
	case len(bad) > 0:
		return "", fault.New(fault.NotFound, "find snapshot %s: no such snapshot among those that can be read; %d cannot", ref, len(bad)).
			WithHint("docker snaprestore ls shows the snapshots")
	}
	return "", notFound(ref)
}
