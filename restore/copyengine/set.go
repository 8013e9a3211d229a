package copyengine

import (
	"errors"
	"os"
	"slices"
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

// Lack is an error of Able where the file system has not what the engine needs
// of it.
type Lack struct {
	What string // "subvolumes"
	Err  error
}

func (l *Lack) Error() string { return l.Err.Error() }
func (l *Lack) Unwrap() error { return l.Err }

// Why tells why it is one engine and none before it.
type Why struct {
	Full string // "" where there is none before it
	not  []error
}

// Brief is the same in a clause, for a tree on a file system of that kind: what
// the file system lacks, or, where it was not only that, what it was else.
func (w Why) Brief(kind string) string {
	var lacks, others []string
	for _, err := range w.not {
		var lack *Lack
		switch {
		case errors.As(err, &lack):
			lacks = append(lacks, lack.What)
		case !slices.Contains(others, err.Error()):
			others = append(others, err.Error())
		}
	}
	system := "the file system (" + kind + ") has "
	switch {
	case len(others) > 0:
		return strings.Join(others, "; ")
	case len(lacks) > 1:
		return system + "neither " + strings.Join(lacks, " nor ")
	case len(lacks) == 1:
		return system + "no " + lacks[0]
	}
	return w.Full
}

// Choose gives the engine that stores the tree of a volume in store, and why
// it is that one and none before it. Want is the name of the one that it must
// be, or Auto, or "" for the same: then an engine that is not able is an error.
func (s Set) Choose(want string, tree, store *os.Root) (Engine, Why, error) {
	if err := s.Check(want); err != nil {
		return nil, Why{}, err
	}
	var not []error
	var full []string
	for _, e := range s {
		if want != "" && want != Auto && e.Name() != want {
			continue
		}
		err := e.Able(tree, store)
		switch {
		case err == nil && e.Name() == want:
			return e, Why{Full: "it was asked for"}, nil
		case err == nil:
			return e, Why{Full: strings.Join(full, "; "), not: not}, nil
		}
		not = append(not, err)
		full = append(full, "no "+e.Name()+": "+err.Error())
	}
	return nil, Why{}, fault.New(fault.Failed, "choose copy engine: %s", strings.Join(full, "; ")).
		WithState("nothing was changed").WithHint("--engine %s takes the best that can", Auto)
}
