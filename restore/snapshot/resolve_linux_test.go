package snapshot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// shelf is a store with snapshots of two projects, oldest last.
func shelf(t testing.TB) (*Store, string) {
	path := t.TempDir()
	s := open(t, path, nil)
	kept := safety("5afe00000000", "0123456789ab")
	kept.Project, kept.Created = "shop", noon.Add(time.Hour)
	assert.NilError(t, s.Put(kept))
	for _, snap := range []Snapshot{
		made("aa1111111111", "before-upgrade", "shop", 1*time.Hour),
		made("aa2222222222", "", "blog", 2*time.Hour),
		made("ab3333333333", "aa", "shop", 3*time.Hour),
		made("ff4444444444", "", "", 4*time.Hour),
	} {
		assert.NilError(t, commit(s, snap))
	}
	return s, path
}

func TestResolve(t *testing.T) {
	s, _ := shelf(t)
	for _, test := range []struct {
		ref, project string
		id           string
		kind         fault.Kind
		says         string
	}{
		{ref: "aa1111111111", id: "aa1111111111"},
		{ref: "aa1111111111", project: "blog", id: "aa1111111111"},
		{ref: "aa2", id: "aa2222222222"},
		{ref: "f", id: "ff4444444444"},
		{ref: "before-upgrade", id: "aa1111111111"},
		{ref: "aa", id: "ab3333333333"}, // the name, not the prefix of two
		{ref: "pre-restore-0123456789ab", id: "5afe00000000"},
		{ref: "5afe", id: "5afe00000000"},
		{ref: "latest", project: "shop", id: "aa1111111111"},
		{ref: "latest~0", project: "shop", id: "aa1111111111"},
		{ref: "latest~1", project: "shop", id: "ab3333333333"},
		{ref: "latest", project: "blog", id: "aa2222222222"},

		{ref: "latest~2", project: "shop", kind: fault.NotFound, says: "there are 2 snapshots of project shop"},
		{ref: "latest~999999", project: "shop", kind: fault.NotFound, says: "there are 2 snapshots"},
		{ref: "latest", project: "none", kind: fault.NotFound, says: "there are 0 snapshots of project none"},
		{ref: "latest", kind: fault.Failed, says: "of project shop and of project blog"},
		{ref: "latest~", kind: fault.Failed, says: "how many"},
		{ref: "latest~-1", kind: fault.Failed, says: "how many"},
		{ref: "latest~1000000", kind: fault.Failed, says: "how many"},
		{ref: "latest~1x", kind: fault.Failed, says: "how many"},
		{ref: "before-upgrade~1", kind: fault.Failed, says: "no id and no name"},
		{ref: "a", kind: fault.Failed, says: "it may mean aa1111111111 (before-upgrade), aa2222222222, ab3333333333 (aa)"},
		{ref: "aa3", kind: fault.NotFound, says: "no such snapshot"},
		{ref: "bbbbbbbbbbbb", kind: fault.NotFound, says: "no such snapshot"},
		{ref: "aa11111111111", kind: fault.NotFound, says: "no such snapshot"}, // longer than an id
		{ref: "AA1111111111", kind: fault.NotFound, says: "no such snapshot"},
		{ref: "Before-Upgrade", kind: fault.NotFound, says: "no such snapshot"},
		{ref: "pre-undo-0123456789ab", kind: fault.NotFound, says: "no such snapshot"},
		{ref: "", kind: fault.Failed, says: "empty"},
		{ref: "../aa1111111111", kind: fault.Failed, says: "a path"},
		{ref: "/etc/passwd", kind: fault.Failed, says: "a path"},
		{ref: `..\x`, kind: fault.Failed, says: "a path"},
		{ref: "..", kind: fault.Failed, says: "no id and no name"},
		{ref: ".aa1111111111.partial", kind: fault.Failed, says: "no id and no name"},
		{ref: "-f", kind: fault.Failed, says: "no id and no name"},
		{ref: "a b", kind: fault.Failed, says: "no id and no name"},
		{ref: "a\x00b", kind: fault.Failed, says: "no id and no name"},
		{ref: "a\n", kind: fault.Failed, says: "no id and no name"},
		{ref: "größe", kind: fault.Failed, says: "no id and no name"},
		{ref: strings.Repeat("a", 10000), kind: fault.Failed, says: "no id and no name"},
	} {
		t.Run(test.ref[:min(len(test.ref), 30)]+" of "+test.project, func(t *testing.T) {
			snap, err := s.Resolve(test.ref, test.project)
			if test.id != "" {
				assert.NilError(t, err)
				assert.Equal(t, snap.ID, test.id)
				return
			}
			assert.Assert(t, fault.Is(err, test.kind), "%v", err)
			assert.ErrorContains(t, err, test.says)
			assert.Check(t, is.Contains(fault.From(err).Hint, "docker snaprestore"))
			assert.Check(t, !strings.ContainsAny(err.Error(), "\n\x00"))
			assert.Check(t, len(err.Error()) < 400)
		})
	}
}

func TestLatestWithoutAProjectIsTheNewestWhereAllAreOfOne(t *testing.T) {
	s := open(t, t.TempDir(), nil)
	_, err := s.Resolve("latest", "")
	assert.Assert(t, fault.Is(err, fault.NotFound), "%v", err)
	for age, id := range []string{idB, idA} {
		assert.NilError(t, commit(s, made(id, "", "", time.Duration(age)*time.Hour)))
	}
	snap, err := s.Resolve("latest", "")
	assert.NilError(t, err)
	assert.Equal(t, snap.ID, idB)
}

func TestASnapshotThatCannotBeReadIsNeverPassedOverForAnother(t *testing.T) {
	s, path := shelf(t)
	assert.NilError(t, os.Truncate(filepath.Join(path, "aa1111111111", File), 10))

	for _, ref := range []string{"latest", "latest~1", "aa1", "aa1111111111"} {
		_, err := s.Resolve(ref, "shop")
		assert.Assert(t, fault.Is(err, fault.Corrupt), "%s: %v", ref, err)
		assert.ErrorContains(t, err, "aa1111111111")
	}
	_, err := s.Resolve("a", "shop")
	assert.ErrorContains(t, err, "aa1111111111 (unreadable)")
	_, err = s.Resolve("before-upgrade", "shop")
	assert.Assert(t, fault.Is(err, fault.NotFound), "%v", err)
	assert.ErrorContains(t, err, "1 cannot")

	snap, err := s.Resolve("aa2", "shop")
	assert.NilError(t, err, "what is named beyond doubt is found")
	assert.Equal(t, snap.ID, "aa2222222222")

	id, err := s.ResolveID("aa1", "shop")
	assert.NilError(t, err, "to remove it")
	assert.Equal(t, id, "aa1111111111")
}

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "before-upgrade", "v1.2_3", "aa", "0", "deadbeef", "latest2", "Latest",
		"pre-upgrade", "aaaaaaaaaaaaa", strings.Repeat("n", nameLimit)} {
		assert.Check(t, CheckName(name), name)
	}
	for _, name := range []string{"", ".", "..", ".hidden", "-f", "_x", "a/b", "a b", "a~1", "a\n", "ä", "latest", "aaaaaaaaaaaa",
		SafetyName(journal.Restore, idA), SafetyName(journal.Undo, idA), "pre-restore-mine", strings.Repeat("n", nameLimit+1)} {
		err := CheckName(name)
		assert.Check(t, fault.Is(err, fault.Failed), name)
		assert.Check(t, err != nil && fault.From(err).Hint != "", name)
	}
}

// Whatever is asked for, what is found is named by it, and what is not is said
// with its reason and what to do.
func FuzzReference(f *testing.F) {
	s, _ := shelf(f)
	for _, ref := range []string{
		"aa1111111111", "aa", "f", "latest", "latest~1", "latest~-1", "latest~99999999999", "LATEST", "../aa1111111111", "a\x00", "",
		"pre-restore-0123456789ab", "before-upgrade ", "\xff", ".", "..", "5afe0000000O",
	} {
		f.Add(ref, "")
		f.Add(ref, "shop")
	}
	f.Fuzz(func(t *testing.T, ref, project string) {
		snap, err := s.Resolve(ref, project)
		if err != nil {
			failed := fault.From(err)
			assert.Assert(t, failed.Kind == fault.NotFound || failed.Kind == fault.Failed, "%v", err)
			assert.Assert(t, failed.Hint != "", "%v", err)
			return
		}
		_, isLatest := parseLatest(ref)
		assert.Assert(t, isLatest || ref == snap.Name || strings.HasPrefix(snap.ID, ref), "%q found %s (%s)", ref, snap.ID, snap.Name)
	})
}
