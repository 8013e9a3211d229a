package volume

import (
	"path"
	"regexp"
	"sort"
	"strings"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Driver is the name of the volume driver.
const Driver = "snaprestore"

// Entries of the state root and of a volume's directory.
const (
	// Folder holds the directories of all plugin volumes.
	Folder = "volumes"
	// Live is the entry of the live tree.
	Live = "_data"
)

// Served reports whether a driver, as the engine names it, is this tool's.
// The engine gives a managed plugin's name with its tag.
func Served(driver string) bool {
	name, _, _ := strings.Cut(path.Base(driver), ":")
	return name == Driver
}

// Scope says who shares the tree of a volume.
type Scope string

// The scopes.
const (
	Named   Scope = "named"   // the volume alone
	Project Scope = "project" // all volumes of the project
	Stage   Scope = "stage"   // all volumes of one stage of the project
)

// options is which options a scope takes, all of them needed.
var options = map[Scope][]string{
	Named:   nil,
	Project: {"project"},
	Stage:   {"project", "stage"},
}

// Spec is what a volume was asked for.
type Spec struct {
	Name    string            `json:"name"`
	Scope   Scope             `json:"scope"`
	Project string            `json:"project,omitempty"`
	Stage   string            `json:"stage,omitempty"`
	Options map[string]string `json:"options,omitempty"` // as they were given
}

// nameLimit is the longest name in bytes: a lock file's name holds two of them
// and may have 255 bytes.
const nameLimit = 110

var nameShape = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Parse reads a volume's name and driver options, and refuses what it does
// not know.
func Parse(name string, opts map[string]string) (Spec, error) {
	s := Spec{Name: name, Scope: Named}
	if len(opts) > 0 {
		s.Options = opts
	}
	if err := checkName("volume name", name); err != nil {
		return s, err
	}
	given := map[string]string{}
	for key, value := range opts {
		given[key] = value
	}
	if scope, ok := given["scope"]; ok {
		s.Scope = Scope(scope)
		delete(given, "scope")
	}
	needed, ok := options[s.Scope]
	if !ok {
		return s, refuse("create volume %s: unknown scope %q", name, s.Scope).
			WithHint("scope is one of named, project, stage")
	}
	for _, key := range needed {
		value, ok := given[key]
		if !ok {
			return s, refuse("create volume %s: scope %s needs the option %s", name, s.Scope, key).
				WithHint("docker volume create -d %s -o scope=%s%s %s", Driver, s.Scope, example(needed), name)
		}
		if err := checkName(key, value); err != nil {
			return s, err
		}
		delete(given, key)
	}
	if len(given) > 0 {
		var keys []string
		for key := range given {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		if _, known := map[string]bool{"project": true, "stage": true}[keys[0]]; known {
			return s, refuse("create volume %s: the option %s means nothing with scope %s", name, keys[0], s.Scope).
				WithHint("add -o scope=%s, or leave it out", keys[0])
		}
		return s, refuse("create volume %s: unknown option %q", name, keys[0]).
			WithHint("the options are scope, project and stage")
	}
	s.Project, s.Stage = opts["project"], opts["stage"]
	return s, nil
}

func example(keys []string) (out string) {
	for _, key := range keys {
		out += " -o " + key + "=" + strings.ToUpper(key)
	}
	return out
}

func checkName(what, name string) error {
	if len(name) > nameLimit {
		return refuse("%s %.20s… has %d bytes", what, name, len(name)).WithHint("at most %d", nameLimit)
	}
	if !nameShape.MatchString(name) {
		return refuse("%s %q has characters that are not allowed", what, name).
			WithHint("use letters, digits, '_', '.' and '-', and begin with a letter or digit")
	}
	return nil
}

func refuse(format string, args ...any) *fault.Error {
	return fault.New(fault.Failed, format, args...).WithState("nothing was changed")
}

// Key is the name of the volume's directory below Folder. The separator is a
// character that no name has.
func (s Spec) Key() string {
	switch s.Scope {
	case Project:
		return "project@" + s.Project
	case Stage:
		return "stage@" + s.Project + "@" + s.Stage
	}
	return s.Name
}

// LockKey is the journal's lock on the volume's tree.
func (s Spec) LockKey() string { return "volume:" + s.Key() }

// same reports whether two specs mean the same volume.
func (s Spec) same(o Spec) bool { return s.Name == o.Name && s.Key() == o.Key() }
