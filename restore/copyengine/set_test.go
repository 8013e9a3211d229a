package copyengine

import (
	"errors"
	"os"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// named is an engine that is able unless it says why not.
type named struct {
	Engine
	name string
	not  error
}

func (n named) Name() string                    { return n.name }
func (n named) Able(tree, store *os.Root) error { return n.not }

func TestTheBestAbleEngineIsChosenAndWhyIsSaid(t *testing.T) {
	all := Set{named{name: "first", not: errors.New("the disk is round")}, named{name: "second"}, named{name: "third"}}
	for _, want := range []string{"", Auto} {
		e, why, err := all.Choose(want, nil, nil)
		assert.NilError(t, err)
		assert.Equal(t, e.Name(), "second")
		assert.Equal(t, why.Full, "no first: the disk is round")
	}
	e, why, err := all[1:].Choose(Auto, nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, e.Name(), "second")
	assert.Equal(t, why.Full, "")
}

// The short form of it names the file system for what that lacks, and leaves
// that out where there is more to say.
func TestWhyItIsAnEngineIsSaidInAClause(t *testing.T) {
	lack := func(what string) error { return &Lack{What: what, Err: errors.New("it has none of those: ENOTTY")} }
	apart, divided := errors.New("they are apart"), errors.New("it is divided")
	for _, c := range []struct {
		first, second error
		want          string
	}{
		{lack("subvolumes"), lack("reflinks"), "the file system (ext4) has neither subvolumes nor reflinks"},
		{lack("subvolumes"), apart, "they are apart"},
		{apart, apart, "they are apart"},
		{divided, apart, "it is divided; they are apart"},
		{lack("subvolumes"), nil, "the file system (ext4) has no subvolumes"},
		{divided, nil, "it is divided"},
		{nil, nil, ""},
	} {
		all := Set{named{name: "first", not: c.first}, named{name: "second", not: c.second}, named{name: "third"}}
		_, why, err := all.Choose(Auto, nil, nil)
		assert.NilError(t, err)
		assert.Equal(t, why.Brief("ext4"), c.want)
	}
	_, why, err := Set{named{name: "only"}}.Choose("only", nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, why.Brief("ext4"), "it was asked for")
}

func TestAnEngineThatIsAskedForIsTakenOrRefused(t *testing.T) {
	all := Set{named{name: "first", not: errors.New("the disk is round")}, named{name: "second"}, named{name: "third"}}
	e, why, err := all.Choose("third", nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, e.Name(), "third")
	assert.Equal(t, why.Full, "it was asked for")
	_, _, err = all.Choose("first", nil, nil)
	assert.ErrorContains(t, err, "no first: the disk is round")
	assert.Equal(t, fault.From(err).State, "nothing was changed")
	_, _, err = all.Choose("fourth", nil, nil)
	assert.ErrorContains(t, err, `there is no "fourth"`)
	assert.ErrorContains(t, all.Check("fourth"), `there is no "fourth"`)
	assert.Equal(t, fault.From(all.Check("fourth")).Hint, "use --engine auto, first, second, third")
}

func TestWhatIsStoredIsReadByTheEngineOfItsName(t *testing.T) {
	all := Set{named{name: "first", not: errors.New("not any more")}, named{name: "second"}}
	e, err := all.Named("first")
	assert.NilError(t, err)
	assert.Equal(t, e.Name(), "first")
	_, err = all.Named("fourth")
	assert.ErrorContains(t, err, `engine "fourth"`)
}
