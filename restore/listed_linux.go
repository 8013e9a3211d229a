package restore

import (
	"encoding/json"
	"path/filepath"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// Listed gives what List does of the state root in a directory, without an
// engine: for who can read it. It changes nothing, and what is missing there
// stays missing and is an error.
func Listed(root, project string) ([]snapshot.Snapshot, error) {
	dir, err := durable.Open(root, nil)
	if err != nil {
		return nil, unusable(root, err)
	}
	defer dir.Close()
	data, err := dir.ReadFile(layoutName, 4096)
	if err != nil {
		return nil, unusable(root, err)
	}
	var f layoutFile
	if err := json.Unmarshal(data, &f); err != nil || f.Layout < 1 || f.Layout > Layout {
		return nil, fault.New(fault.Failed, "read %s: not a layout of this version", filepath.Join(root, layoutName)).
			WithState("nothing was changed").WithHint("docker snaprestore doctor")
	}
	sub, err := dir.OpenDir("snapshots")
	if err != nil {
		return nil, unusable(root, err)
	}
	defer sub.Close()
	store, err := snapshot.Open(sub)
	if err != nil {
		return nil, unusable(root, err)
	}
	all, err := store.List()
	return ofProject(all, project), err
}

// ofProject picks the snapshots of one project, or all for "".
func ofProject(all []snapshot.Snapshot, project string) []snapshot.Snapshot {
	out := []snapshot.Snapshot{}
	for _, s := range all {
		if project == "" || s.Project == project {
			out = append(out, s)
		}
	}
	return out
}
