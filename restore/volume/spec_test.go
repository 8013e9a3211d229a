package volume

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/fault"
)

func TestScopeDecidesTheDirectory(t *testing.T) {
	for _, c := range []struct {
		name string
		opts map[string]string
		key  string
	}{
		{"db", nil, "db"},
		{"db", map[string]string{"scope": "named"}, "db"},
		{"db", map[string]string{"scope": "project", "project": "shop"}, "project@shop"},
		{"other", map[string]string{"scope": "project", "project": "shop"}, "project@shop"},
		{"db", map[string]string{"scope": "stage", "project": "shop", "stage": "test"}, "stage@shop@test"},
	} {
		s, err := Parse(c.name, c.opts)
		assert.NilError(t, err)
		assert.Equal(t, s.Key(), c.key)
		assert.Equal(t, s.LockKey(), "volume:"+c.key)
	}
}

func TestBadRequestsAreRefusedWithAHint(t *testing.T) {
	for _, c := range []struct {
		name string
		opts map[string]string
		says string
	}{
		{"", nil, "characters"},
		{"../x", nil, "characters"},
		{"a/b", nil, "characters"},
		{".x", nil, "characters"},
		{"a@b", nil, "characters"},
		{"a\nb", nil, "characters"},
		{strings.Repeat("a", 111), nil, "111 bytes"},
		{"db", map[string]string{"size": "1g"}, `unknown option "size"`},
		{"db", map[string]string{"scope": "global"}, `unknown scope "global"`},
		{"db", map[string]string{"scope": ""}, `unknown scope ""`},
		{"db", map[string]string{"scope": "project"}, "needs the option project"},
		{"db", map[string]string{"scope": "stage", "project": "p"}, "needs the option stage"},
		{"db", map[string]string{"scope": "project", "project": "p", "stage": "s"}, "stage means nothing"},
		{"db", map[string]string{"project": "p"}, "project means nothing"},
		{"db", map[string]string{"scope": "project", "project": "../p"}, "characters"},
		{"db", map[string]string{"scope": "stage", "project": "p", "stage": "a@b"}, "characters"},
	} {
		_, err := Parse(c.name, c.opts)
		assert.ErrorContains(t, err, c.says)
		assert.ErrorContains(t, err, "nothing was changed")
		assert.Assert(t, fault.From(err).Hint != "", "%v has no hint", err)
	}
}

func TestDriverIsKnownByTheNamesThatEnginesGive(t *testing.T) {
	for name, want := range map[string]bool{
		"snaprestore": true, "snaprestore:latest": true, "example.org/team/snaprestore:2": true,
		"local": false, "": false, "snaprestored": false, "my-snaprestore": false,
	} {
		assert.Equal(t, Served(name), want, name)
	}
}
