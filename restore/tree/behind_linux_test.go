package tree

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

func maker(t *testing.T) (*Maker, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("restores owners, which only root may")
	}
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	assert.NilError(t, err)
	t.Cleanup(func() { root.Close() })
	m, err := NewMaker(root)
	assert.NilError(t, err)
	t.Cleanup(m.Close)
	return m, dir
}

func TestAnErrorOfWritingOutFailsTheTree(t *testing.T) {
	m, _ := maker(t)
	unix.Close(m.behind.fd)
	m.behind.fd = -1 // so that a sync fails
	content := make([]byte, writeBehind)
	e := &Entry{Path: "large", Type: File, Mode: 0o600, Size: int64(len(content))}
	assert.NilError(t, m.Make(e, bytes.NewReader(content), func(int64) error { return nil }))
	err := m.Finish()
	assert.Assert(t, errors.Is(err, unix.EBADF), "%v", err)
}

func TestATreeIsWrittenOutWhileItIsMade(t *testing.T) {
	m, _ := maker(t)
	h, err := m.Hand()
	assert.NilError(t, err)
	defer h.Close()
	for range writeBehind / perFile {
		m.behind.wrote(perFile)
	}
	m.behind.wrote(writeBehind) // while the first may be under way
	assert.NilError(t, h.File(&Entry{Path: "f", Type: File, Mode: 0o600, Size: 1}, []byte("x")))
	assert.NilError(t, m.Finish())
	assert.Assert(t, m.behind.bytes.Load() <= perFile+1, "the count goes on from there")
}

// Files have their modes and owners by what is asked of the kernel, also where
// it gives them by itself, and whatever the umask takes off.
func TestFilesHaveTheirModesAndOwnersUnderAnyUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		m, dir := maker(t)
		was := unix.Umask(umask)
		type made struct {
			name     string
			mode     uint32
			uid, gid uint32
		}
		var all []made
		h, err := m.Hand()
		if err == nil {
			for i, mode := range []uint32{0o644, 0o600, 0, 0o777, 0o4755, 0o2070, 0o1666, 0o400} {
				for j, owner := range [][2]uint32{{0, 0}, {0, 7}, {7, 0}} {
					f := made{string([]byte{'a' + byte(i), '0' + byte(j)}), mode, owner[0], owner[1]}
					all = append(all, f)
					for _, by := range []string{"hand", "maker", "large"} {
						e := &Entry{Path: by + f.name, Type: File, Mode: mode, UID: f.uid, GID: f.gid, Size: 3}
						switch {
						case err != nil:
						case by == "hand":
							err = h.File(e, []byte("abc"))
						case by == "maker":
							err = m.Make(e, bytes.NewReader([]byte("abc")), func(int64) error { return nil })
						default:
							var g *Growing
							if g, err = m.Begin(e); err == nil {
								err = errors.Join(g.Write([]Extent{{0, 3}}, []byte("abc")), g.Release(true))
							}
						}
					}
				}
			}
			h.Close()
			err = errors.Join(err, m.Finish())
		}
		unix.Umask(was)
		assert.NilError(t, err)
		for _, f := range all {
			for _, by := range []string{"hand", "maker", "large"} {
				var st unix.Stat_t
				assert.NilError(t, unix.Stat(dir+"/"+by+f.name, &st))
				assert.Equal(t, made{f.name, st.Mode & 0o7777, st.Uid, st.Gid}, f, "%s, umask %o", by, umask)
			}
		}
	}
}
