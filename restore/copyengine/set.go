package copyengine

import (
	"os"
	"strings"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// Auto asks for the best engine that is able.
const Auto = "auto"

// Set is the engines that a program has, the best first.
type Set []Engine

// Named gives the engine with a name, to read what it stored.
func (s Set) Named(name string) (Engine, error) {
	for _, e := range s {
		if e.Name() == name {
			return e, nil
		}
	}
	return nil, fault.New(fault.Failed, "it is stored by engine %q, which this version does not have", name).
		WithHint("docker snaprestore version tells which this is: use the one that made the snapshot")
}

// Check refuses the name of an engine that there is not. "" is Auto.
func (s Set) Check(want string) error {
	if want == "" || want == Auto {
		return nil
	}
	names := []string{Auto}
	for _, e := range s {
		if e.Name() == want {
			return nil
		}
		names = append(names, e.Name())
	}
	return fault.New(fault.Failed, "choose copy engine: there is no %q", want).
		WithState("nothing was changed").WithHint("use --engine %s", strings.Join(names, ", "))
}

// Choose gives the engine that stores the tree of a volume in store, and why
// it is that one and none before it. Want is the name of the one that it must
// be, or Auto, or "" for the same: then an engine that is not able is an error.
func (s Set) Choose(want string, tree, store *os.Root) (Engine, string, error) {
	if err := s.Check(want); err != nil {
		return nil, "", err
	}
	var not []string
	for _, e := range s {
		if want != "" && want != Auto && e.Name() != want {
			continue
		}
		err := e.Able(tree, store)
		switch {
		case err == nil && e.Name() == want:
			return e, "it was asked for", nil
		case err == nil:
			return e, strings.Join(not, "; "), nil
		}
		not = append(not, "no "+e.Name()+": "+err.Error())
	}
	return nil, "", fault.New(fault.Failed, "choose copy engine: %s", strings.Join(not, "; ")).
		WithState("nothing was changed").WithHint("--engine %s takes the best that can", Auto)
}
