package durable

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/journal/durable/subvolume"
)

// onBtrfs mounts a new btrfs where only this test's thread sees it. What the
// test does there it does itself, not in other goroutines.
func onBtrfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts, which only root may")
	}
	mkfs, err := exec.LookPath("mkfs.btrfs")
	if err != nil {
		t.Skip("there is no mkfs.btrfs")
	}
	dir := tempDir(t)
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	write(t, image, "")
	assert.NilError(t, os.Truncate(image, 256<<20))
	assert.NilError(t, os.Mkdir(at, 0o700))
	out, err := exec.Command(mkfs, "-q", image).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and its mounts with it
	assert.NilError(t, unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS))
	assert.NilError(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("cannot mount btrfs: %s", out)
	}
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(at, unix.MNT_DETACH)) })
	return at
}

// fd opens a directory for an ioctl.
func fd(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	assert.NilError(t, err)
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func TestATreeIsASubvolumeWhereThereAreSuch(t *testing.T) {
	for name, at := range map[string]string{"btrfs": onBtrfs(t), "elsewhere": tempDir(t)} {
		var ops []Op
		d := open(t, at, func(s Step) error {
			if s.Done {
				ops = append(ops, s.Op)
			}
			return nil
		})
		assert.NilError(t, d.MakeTree("tree", 0o751))
		assert.ErrorIs(t, d.MakeTree("tree", 0o751), fs.ErrExist)
		assert.NilError(t, d.Mkdir("ordinary", 0o700))
		info, err := os.Stat(filepath.Join(at, "tree"))
		assert.NilError(t, err)
		if name == "btrfs" {
			assert.Equal(t, info.Mode().Perm(), fs.FileMode(0o751))
			assert.DeepEqual(t, ops, []Op{OpSubvolume, OpChmod, OpMkdir})
		} else {
			assert.DeepEqual(t, ops, []Op{OpMkdir, OpMkdir})
		}
		for entry, want := range map[string]bool{"tree": name == "btrfs", "ordinary": false, "missing": false} {
			is, err := d.IsSubvolume(entry)
			assert.NilError(t, err)
			assert.Equal(t, is, want, "%s on %s", entry, name)
		}
	}
}

// Subvolumes change places like other directories, which is what a restore
// does with them.
func TestSubvolumesAreExchangedAndRenamed(t *testing.T) {
	at := onBtrfs(t)
	d := open(t, at, nil)
	for _, name := range []string{"live", "stage"} {
		assert.NilError(t, d.MakeTree(name, 0o700))
		write(t, filepath.Join(at, name, "word"), name)
	}
	assert.NilError(t, d.Symlink("fence", "nowhere"))
	assert.NilError(t, d.Exchange("live", "fence"))
	assert.NilError(t, d.Exchange("live", "stage"))
	assert.NilError(t, d.Rename("fence", "old"))
	assert.NilError(t, d.Unlink("stage"))
	assert.NilError(t, d.Sync())
	assert.DeepEqual(t, tree(t, at), []string{"live/", "old/"})
	assert.DeepEqual(t, tree(t, filepath.Join(at, "live")), []string{"word=stage"})
	assert.DeepEqual(t, tree(t, filepath.Join(at, "old")), []string{"word=live"})
}

// Whatever lies where among subvolumes, all of it is removed, and nothing else.
func TestSubvolumesAreRemovedWithEverythingInThem(t *testing.T) {
	at := onBtrfs(t)
	d := open(t, at, nil)
	assert.NilError(t, d.MakeTree("source", 0o700))
	write(t, filepath.Join(at, "source", "file"), "x")
	snapshot := func(dir, name string) {
		t.Helper()
		assert.NilError(t, subvolume.Snapshot(fd(t, filepath.Join(at, "source")), fd(t, filepath.Join(at, dir)), name, true))
	}
	for _, shape := range []struct {
		name string
		make func(top string)
	}{
		{"a subvolume", func(top string) { assert.NilError(t, d.MakeTree(top, 0o700)) }},
		{"a read-only one", func(top string) { snapshot("", top) }},
		{"read-only ones in a directory", func(top string) {
			assert.NilError(t, d.Mkdir(top, 0o700))
			write(t, filepath.Join(at, top, "file"), "x")
			for i := range 3 {
				snapshot(top, fmt.Sprint(i))
			}
		}},
		{"a read-only one deep in a subvolume", func(top string) {
			assert.NilError(t, d.MakeTree(top, 0o700))
			assert.NilError(t, os.MkdirAll(filepath.Join(at, top, "deep/deeper"), 0o700))
			snapshot(top+"/deep/deeper", "inner")
		}},
		{"a read-only one deep in a directory", func(top string) {
			assert.NilError(t, os.MkdirAll(filepath.Join(at, top, "deep/deeper"), 0o700))
			snapshot(top+"/deep/deeper", "inner")
		}},
		{"a subvolume behind a link", func(top string) {
			assert.NilError(t, d.Mkdir(top, 0o700))
			assert.NilError(t, os.Symlink("../source", filepath.Join(at, top, "link")))
			write(t, filepath.Join(at, top, "file"), "x")
		}},
	} {
		shape.make("top")
		assert.NilError(t, d.RemoveAll("top"), shape.name)
		assert.DeepEqual(t, tree(t, at), []string{"source/"})
		assert.DeepEqual(t, tree(t, filepath.Join(at, "source")), []string{"file=x"})
		inner, err := subvolume.Inner(fd(t, at))
		assert.NilError(t, err)
		assert.Equal(t, inner, 1, shape.name)
	}
}

// A process without the capability to delete a subvolume as a whole deletes
// what is in it.
func TestSubvolumesAreRemovedWithoutTheCapabilityToo(t *testing.T) {
	at := onBtrfs(t)
	d := open(t, at, nil)
	assert.NilError(t, d.MakeTree("source", 0o700))
	write(t, filepath.Join(at, "source", "file"), "x")
	assert.NilError(t, d.Mkdir("top", 0o700))
	assert.NilError(t, subvolume.Snapshot(fd(t, filepath.Join(at, "source")), fd(t, filepath.Join(at, "top")), "0", true))
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	assert.NilError(t, unix.Capget(&header, &had[0]))
	less := had
	less[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
	assert.NilError(t, unix.Capset(&header, &less[0])) // of this thread
	for _, name := range []string{"top", "source"} {
		assert.Check(t, d.RemoveAll(name) == nil, name)
	}
	assert.NilError(t, unix.Capset(&header, &had[0]))
	assert.DeepEqual(t, tree(t, at), []string(nil))
}

func TestWhatIsNoSubvolumeIsNotDescribedAsOne(t *testing.T) {
	at := onBtrfs(t)
	d := open(t, at, nil)
	assert.NilError(t, d.Mkdir("ordinary", 0o700))
	assert.NilError(t, d.MakeTree("tree", 0o700))
	for _, path := range []string{filepath.Join(at, "ordinary"), tempDir(t), "/proc"} {
		_, err := subvolume.Describe(fd(t, path))
		assert.ErrorIs(t, err, subvolume.ErrNone, path)
	}
	source := fd(t, filepath.Join(at, "tree"))
	made, err := subvolume.Describe(source)
	assert.NilError(t, err)
	assert.Assert(t, !made.ReadOnly && made.UUID != [16]byte{})
	assert.NilError(t, subvolume.Snapshot(source, fd(t, at), "snapshot", true))
	taken, err := subvolume.Describe(fd(t, filepath.Join(at, "snapshot")))
	assert.NilError(t, err)
	assert.Assert(t, taken.ReadOnly && taken.UUID != made.UUID && taken.Made >= made.Made, "%+v after %+v", taken, made)
	for _, bad := range []string{"", string(make([]byte, 256))} {
		assert.ErrorIs(t, subvolume.Create(fd(t, at), bad), unix.ENAMETOOLONG)
	}
}
