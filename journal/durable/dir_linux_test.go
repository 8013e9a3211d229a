package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// tempDir is a directory without links in its path.
func tempDir(t *testing.T) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(t.TempDir())
	assert.NilError(t, err)
	return path
}

func open(t *testing.T, path string, fail Failpoint) *Dir {
	t.Helper()
	d, err := Open(path, fail)
	assert.NilError(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func write(t *testing.T, path, content string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(path, []byte(content), 0o600))
}

// tree lists a directory as "name" or "name -> target" or "name=content".
func tree(t *testing.T, path string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	assert.NilError(t, err)
	for _, e := range entries {
		at := filepath.Join(path, e.Name())
		switch e.Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(at)
			assert.NilError(t, err)
			all = append(all, e.Name()+" -> "+target)
		case fs.ModeDir:
			all = append(all, e.Name()+"/")
		default:
			data, err := os.ReadFile(at)
			assert.NilError(t, err)
			all = append(all, e.Name()+"="+string(data))
		}
	}
	return all
}

// steps is every method that changes something, from the same start.
var steps = []struct {
	name string
	do   func(d *Dir) error
	want []string // the tree afterwards
}{
	{"mkdir", func(d *Dir) error { return d.Mkdir("new", 0o700) }, []string{"a/", "f=one", "g=two", "l -> gone", "new/"}},
	{"symlink", func(d *Dir) error { return d.Symlink("new", "to") }, []string{"a/", "f=one", "g=two", "l -> gone", "new -> to"}},
	{"unlink", func(d *Dir) error { return d.Unlink("l") }, []string{"a/", "f=one", "g=two"}},
	{"rename", func(d *Dir) error { return d.Rename("a", "new") }, []string{"f=one", "g=two", "l -> gone", "new/"}},
	{"replace", func(d *Dir) error { return d.Replace("f", "g") }, []string{"a/", "g=one", "l -> gone"}},
	{"exchange", func(d *Dir) error { return d.Exchange("a", "l") }, []string{"a -> gone", "f=one", "g=two", "l/"}},
	{"removeall", func(d *Dir) error { return d.RemoveAll("a") }, []string{"f=one", "g=two", "l -> gone"}},
	{"removeall of a link", func(d *Dir) error { return d.RemoveAll("l") }, []string{"a/", "f=one", "g=two"}},
	{"create", func(d *Dir) error { return d.CreateFile("new", []byte("x"), 0o600) }, []string{"a/", "f=one", "g=two", "l -> gone", "new=x"}},
	{"write", func(d *Dir) error { return d.WriteFile("f", []byte("x"), 0o600) }, []string{"a/", "f=x", "g=two", "l -> gone"}},
}

func start(t *testing.T) string {
	t.Helper()
	path := tempDir(t)
	assert.NilError(t, os.Mkdir(filepath.Join(path, "a"), 0o700))
	write(t, filepath.Join(path, "a", "inner"), "deep")
	write(t, filepath.Join(path, "f"), "one")
	write(t, filepath.Join(path, "g"), "two")
	assert.NilError(t, os.Symlink("gone", filepath.Join(path, "l")))
	return path
}

func TestAStepIsDoneOrNotWhereverItIsInterrupted(t *testing.T) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			before := tree(t, start(t))
			var points []Step
			path := start(t)
			assert.NilError(t, s.do(open(t, path, func(at Step) error {
				points = append(points, at)
				return nil
			})))
			assert.DeepEqual(t, tree(t, path), s.want)
			assert.Assert(t, len(points) > 0 && len(points)%2 == 0, "steps have two failpoints each")

			for k := range points {
				dead := errors.New("dead")
				path := start(t)
				n := 0
				err := s.do(open(t, path, func(Step) error {
					if n++; n > k {
						return dead
					}
					return nil
				}))
				assert.ErrorIs(t, err, dead)
				assert.Equal(t, n, k+1, "went on after a failure at point %d, %+v", k, points[k])
				got := tree(t, path)
				var visible []string
				for _, name := range got {
					if !strings.HasPrefix(name, temporary) {
						visible = append(visible, name)
					}
				}
				if fmt.Sprint(visible) != fmt.Sprint(before) {
					assert.DeepEqual(t, visible, s.want)
				}
				if !points[0].Done && k == 0 {
					assert.DeepEqual(t, got, before)
				}
			}
		})
	}
}

func TestAStepTellsWhatItDoes(t *testing.T) {
	path := start(t)
	var told []Step
	d := open(t, path, func(s Step) error {
		if s.Done {
			told = append(told, s)
		}
		return nil
	})
	other, err := d.MakeDir("b", 0o750)
	assert.NilError(t, err)
	defer other.Close()
	assert.NilError(t, d.RenameTo("a", other, "moved"))
	assert.NilError(t, d.WriteFile("f", []byte("x"), 0o600))
	assert.NilError(t, d.SyncFS())
	assert.NilError(t, d.Chmod("f", 0o640))
	assert.DeepEqual(t, told, []Step{
		{Op: OpMkdir, Dir: path, Name: "b", Mode: 0o750, Done: true},
		{Op: OpSyncDir, Dir: path, Done: true},
		{Op: OpRename, Dir: path, Name: "a", ToIn: path + "/b", To: "moved", Done: true},
		{Op: OpCreate, Dir: path, Name: ".tmp-f", Mode: 0o600, Data: []byte("x"), Done: true},
		{Op: OpFsync, Dir: path, Name: ".tmp-f", Done: true},
		{Op: OpRename, Dir: path, Name: ".tmp-f", To: "f", Done: true},
		{Op: OpSyncDir, Dir: path, Done: true},
		{Op: OpSyncFS, Dir: path, Done: true},
		{Op: OpChmod, Dir: path, Name: "f", Mode: 0o640, Done: true},
	})
}

func TestMakeDirSyncsWhatAnotherMadeAndDidNotSync(t *testing.T) {
	path := tempDir(t)
	var ops []Op
	d := open(t, path, func(s Step) error {
		if s.Done {
			ops = append(ops, s.Op)
		}
		return nil
	})
	assert.NilError(t, os.Mkdir(filepath.Join(path, "there"), 0o700))
	sub, err := d.MakeDir("there", 0o700)
	assert.NilError(t, err)
	defer sub.Close()
	assert.DeepEqual(t, ops, []Op{OpSyncDir})
}

func TestRenameReplacesNothing(t *testing.T) {
	path := start(t)
	d := open(t, path, nil)
	assert.ErrorIs(t, d.Rename("f", "g"), fs.ErrExist)
	assert.ErrorIs(t, d.RenameTo("f", d, "g"), fs.ErrExist)
	assert.DeepEqual(t, tree(t, path), []string{"a/", "f=one", "g=two", "l -> gone"})
}

func TestRemovalOfWhatIsGoneIsNoError(t *testing.T) {
	d := open(t, tempDir(t), nil)
	assert.NilError(t, d.Unlink("none"))
	assert.NilError(t, d.RemoveAll("none"))
}

func TestNothingBehindALinkIsTouched(t *testing.T) {
	outside := tempDir(t)
	write(t, filepath.Join(outside, "kept"), "kept")
	path := tempDir(t)
	for name, target := range map[string]string{"dir": outside, "file": filepath.Join(outside, "kept")} {
		assert.NilError(t, os.Symlink(target, filepath.Join(path, name)))
	}
	assert.NilError(t, os.Mkdir(filepath.Join(path, "real"), 0o700))
	assert.NilError(t, os.Symlink(outside, filepath.Join(path, "real", "dir")))
	d := open(t, path, nil)

	for _, name := range []string{path + "/dir", path + "/dir/", path + "/real/dir", path + "/dir/.."} {
		_, err := Open(name, nil)
		assert.Check(t, errors.Is(err, unix.ELOOP), "%s: %v", name, err)
	}
	for _, name := range []string{"dir", "real/dir", "real/../dir"} {
		_, err := d.OpenDir(name)
		assert.Check(t, errors.Is(err, unix.ELOOP), "%s: %v", name, err)
	}
	for _, name := range []string{"..", "/", "real/../.."} {
		_, err := d.OpenDir(name)
		assert.Check(t, errors.Is(err, unix.EXDEV), "%s: %v", name, err)
	}
	_, err := d.ReadFile("file", 100)
	assert.ErrorIs(t, err, unix.ELOOP)
	assert.ErrorIs(t, d.CreateFile("file", nil, 0o600), unix.ELOOP)
	assert.ErrorIs(t, d.Chmod("file", 0o777), unix.ELOOP)
	assert.NilError(t, d.WriteFile("file", []byte("mine"), 0o600)) // replaces the link itself
	assert.NilError(t, d.RemoveAll("real"))
	assert.NilError(t, d.RemoveAll("dir"))
	assert.DeepEqual(t, tree(t, outside), []string{"kept=kept"})
	info, err := os.Stat(filepath.Join(outside, "kept"))
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), fs.FileMode(0o600))
	_, err = Open("relative", nil)
	assert.ErrorContains(t, err, "not an absolute path")
}

// While a directory is swapped for a link and back all the time, what is read
// below it is never the link's.
func TestADirectorySwappedForALinkIsNeverFollowed(t *testing.T) {
	outside, path := tempDir(t), tempDir(t)
	for dir, content := range map[string]string{outside: "outside", filepath.Join(path, "dir"): "inside"} {
		assert.NilError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
		write(t, filepath.Join(dir, "sub", "f"), content)
	}
	assert.NilError(t, os.Symlink(outside, filepath.Join(path, "link")))
	d, swapper := open(t, path, nil), open(t, path, nil)

	stop := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := swapper.Exchange("dir", "link"); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	defer swapping.Wait()
	defer close(stop)
	for i := range 5000 {
		var sub *Dir
		var err error
		if i%2 == 0 {
			sub, err = d.OpenDir("dir/sub")
		} else {
			sub, err = Open(path+"/dir/sub", nil)
		}
		if err != nil {
			assert.Assert(t, errors.Is(err, unix.ELOOP), "%v", err)
			continue
		}
		data, err := sub.ReadFile("f", 100)
		sub.Close()
		assert.NilError(t, err)
		assert.Equal(t, string(data), "inside")
	}
}

func TestOnlyPlainNamesAreTaken(t *testing.T) {
	path := start(t)
	d := open(t, filepath.Join(path, "a"), nil)
	for _, bad := range []string{"", ".", "..", "../f", "/etc", "x/y", "nul\x00"} {
		for name, err := range map[string]error{
			"mkdir": d.Mkdir(bad, 0o700), "symlink": d.Symlink(bad, "x"), "unlink": d.Unlink(bad),
			"rename": d.Rename(bad, "x"), "rename to": d.Rename("inner", bad), "replace": d.Replace("inner", bad),
			"exchange": d.Exchange("inner", bad), "removeall": d.RemoveAll(bad), "chmod": d.Chmod(bad, 0o700),
			"create": d.CreateFile(bad, nil, 0o600), "write": d.WriteFile(bad, nil, 0o600),
		} {
			assert.Check(t, cmp.ErrorContains(err, "is not the name of a directory entry"), "%s %q", name, bad)
		}
		_, err := d.Shape(bad)
		assert.Check(t, cmp.ErrorContains(err, "is not the name of a directory entry"), "shape %q", bad)
	}
	assert.DeepEqual(t, tree(t, path), []string{"a/", "f=one", "g=two", "l -> gone"})
	assert.DeepEqual(t, tree(t, filepath.Join(path, "a")), []string{"inner=deep"})
}

func TestWhatOthersMayWriteIsNotBelieved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := tempDir(t)
	file := filepath.Join(path, "f")
	write(t, file, "content")
	d := open(t, path, nil)
	data, err := d.ReadFile("f", 7)
	assert.NilError(t, err)
	assert.Equal(t, string(data), "content")
	for _, mode := range []fs.FileMode{0o620, 0o602, 0o666} {
		assert.NilError(t, os.Chmod(file, mode))
		_, err = d.ReadFile("f", 100)
		assert.ErrorIs(t, err, ErrForeign, "%s", mode)
	}
	assert.NilError(t, os.Chmod(file, 0o600))
	assert.NilError(t, os.Chown(file, 1000, 0))
	_, err = d.ReadFile("f", 100)
	assert.ErrorIs(t, err, ErrForeign)

	assert.NilError(t, d.Private())
	assert.NilError(t, os.Chmod(path, 0o770))
	assert.ErrorIs(t, d.Private(), ErrForeign)
	assert.NilError(t, os.Chmod(path, 0o700))
	assert.NilError(t, os.Chown(path, 1000, 0))
	assert.ErrorIs(t, d.Private(), ErrForeign)
}

func TestOnlyFilesOfTheExpectedSizeAreRead(t *testing.T) {
	path := tempDir(t)
	write(t, filepath.Join(path, "large"), "123456")
	assert.NilError(t, os.Mkdir(filepath.Join(path, "dir"), 0o700))
	assert.NilError(t, unix.Mkfifo(filepath.Join(path, "fifo"), 0o600))
	d := open(t, path, nil)
	for name, want := range map[string]error{
		"large": ErrTooLarge, "dir": ErrNotFile, "fifo": ErrNotFile, "none": fs.ErrNotExist,
	} {
		_, err := d.ReadFile(name, 5)
		assert.Check(t, errors.Is(err, want), "%s: %v", name, err)
	}
}

func TestShapesAreToldWithoutFollowing(t *testing.T) {
	d := open(t, start(t), nil)
	for name, want := range map[string]Shape{"a": Directory, "l": Link, "f": Other, "none": Missing} {
		got, err := d.Shape(name)
		assert.NilError(t, err)
		assert.Check(t, got == want, "%s: %c, want %c", name, got, want)
	}
}

func TestSweepRemovesWhatACrashLeftAndNothingElse(t *testing.T) {
	path := start(t)
	dead := errors.New("dead")
	d := open(t, path, func(s Step) error {
		if s.Op == OpFsync {
			return dead
		}
		return nil
	})
	assert.ErrorIs(t, d.WriteFile("f", []byte("x"), 0o600), dead)
	assert.DeepEqual(t, tree(t, path), []string{".tmp-f=x", "a/", "f=one", "g=two", "l -> gone"})
	assert.NilError(t, d.Sweep())
	assert.DeepEqual(t, tree(t, path), []string{"a/", "f=one", "g=two", "l -> gone"})
}

func TestAnOpenDirectoryStaysTheSameWhateverIsRenamed(t *testing.T) {
	path := start(t)
	d := open(t, filepath.Join(path, "a"), nil)
	assert.NilError(t, os.Rename(filepath.Join(path, "a"), filepath.Join(path, "b")))
	assert.NilError(t, os.Mkdir(filepath.Join(path, "a"), 0o700))
	names, err := d.Names()
	assert.NilError(t, err)
	assert.DeepEqual(t, names, []string{"inner"})
	root, err := d.Root()
	assert.NilError(t, err)
	defer root.Close()
	data, err := root.ReadFile("inner")
	assert.NilError(t, err)
	assert.Equal(t, string(data), "deep")
}

func TestFreeSpaceAndDeviceAreThoseOfTheFileSystem(t *testing.T) {
	d := open(t, tempDir(t), nil)
	bytes, _, err := d.Free()
	assert.NilError(t, err)
	var st unix.Statfs_t
	assert.NilError(t, unix.Statfs(d.Path(), &st))
	assert.Check(t, bytes > 0 && bytes <= int64(st.Blocks)*st.Bsize)
	device, err := d.Device()
	assert.NilError(t, err)
	proc, err := open(t, "/proc", nil).Device()
	assert.NilError(t, err)
	assert.Check(t, device != proc)
}
