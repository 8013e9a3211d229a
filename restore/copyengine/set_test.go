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
		assert.Equal(t, why, "no first: the disk is round")
	}
	e, why, err := all[1:].Choose(Auto, nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, e.Name(), "second")
	assert.Equal(t, why, "")
}

func TestAnEngineThatIsAskedForIsTakenOrRefused(t *testing.T) {
	all := Set{named{name: "first", not: errors.New("the disk is round")}, named{name: "second"}, named{name: "third"}}
	e, why, err := all.Choose("third", nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, e.Name(), "third")
	assert.Equal(t, why, "it was asked for")
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
