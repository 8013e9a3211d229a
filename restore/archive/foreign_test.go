//go:build linux

package archive

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// unpack makes the tree of an archive of elsewhere.
func unpack(t testing.TB, r io.Reader, root *os.Root) {
	t.Helper()
	in, err := NewReader(r, Limits{})
	assert.NilError(t, err)
	defer in.Close()
	m, err := tree.NewMaker(root)
	assert.NilError(t, err)
	defer m.Close()
	for {
		e, err := in.Next()
		if err == io.EOF {
			break
		}
		assert.NilError(t, err)
		assert.NilError(t, m.Make(e, in, func(int64) error { return nil }))
	}
	assert.NilError(t, m.Finish())
}

// Archives of GNU tar in every format it has are read, each with all that the
// format keeps.
func TestEveryFormatOfGNUTarIsRead(t *testing.T) {
	needsRoot(t)
	gnu, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("there is no tar")
	}
	long := strings.Repeat("n", 150)
	for _, c := range []struct {
		name  string
		flags []string
	}{
		{"v7", []string{"--format=v7"}},
		{"old GNU", []string{"--format=oldgnu", "-S"}},
		{"GNU", []string{"--format=gnu", "-S"}},
		{"ustar", []string{"--format=ustar"}},
		{"posix", []string{"--format=posix"}},
		{"sparse 0.0", []string{"--format=posix", "-S", "--sparse-version=0.0"}},
		{"sparse 0.1", []string{"--format=posix", "-S", "--sparse-version=0.1"}},
		{"sparse 1.0", []string{"--format=posix", "-S", "--sparse-version=1.0"}},
		{"attributes", []string{"--format=posix", "-S", "--xattrs", "--xattrs-include=*"}},
		{"ACLs", []string{"--format=posix", "-S", "--acls"}},
		{"gzip", []string{"--format=gnu", "-S", "-z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			source, _ := newDir(t, dir, "source")
			loaded, into := newDir(t, dir, "loaded")
			write := func(name, content string) string {
				path := filepath.Join(source, name)
				assert.NilError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				assert.NilError(t, os.WriteFile(path, []byte(content), 0o4755))
				return path
			}
			write("file", "content")
			assert.NilError(t, os.Symlink("/absolute", filepath.Join(source, "link")))
			assert.NilError(t, os.Link(filepath.Join(source, "file"), filepath.Join(source, "hard")))
			assert.NilError(t, os.Chown(write("owned", "x"), 1000, 2000))
			if c.name != "v7" {
				assert.NilError(t, unix.Mkfifo(filepath.Join(source, "fifo"), 0o640))
				write("d/"+strings.Repeat("e/", 30)+strings.Repeat("f", 90), "deep")
			}
			if c.name != "v7" && c.name != "ustar" {
				write(long+"/"+long, "long")
				assert.NilError(t, os.Symlink(strings.Repeat("l/", 500), filepath.Join(source, "long link")))
				assert.NilError(t, os.Chown(write("far owner", "x"), 3_000_000_000, 4_000_000_000))
			}
			for _, flag := range c.flags {
				switch flag {
				case "-S":
					f, err := os.Create(filepath.Join(source, "sparse"))
					assert.NilError(t, err)
					for i := range int64(60) {
						_, err = f.WriteAt([]byte("x"), i<<20)
						assert.NilError(t, err)
					}
					assert.NilError(t, f.Truncate(1<<30))
					assert.NilError(t, f.Close())
				case "--xattrs":
					p := write("attributes", "x")
					assert.NilError(t, unix.Setxattr(p, "user.a=b%", []byte("1\n\x002"), 0))
					assert.NilError(t, unix.Setxattr(p, "trusted.x", []byte("y"), 0))
				case "--acls":
					p := write("acl", "x")
					assert.NilError(t, unix.Setxattr(p, "system.posix_acl_access", []byte("\x02\x00\x00\x00"+
						"\x01\x00\x07\x00\xff\xff\xff\xff"+"\x02\x00\x05\x00\xd2\x04\x00\x00"+"\x04\x00\x05\x00\xff\xff\xff\xff"+
						"\x10\x00\x07\x00\xff\xff\xff\xff"+"\x20\x00\x01\x00\xff\xff\xff\xff"), 0))
				}
			}
			posix := c.flags[0] == "--format=posix"
			if !posix { // whole seconds only
				cut(t, source)
			}
			stream, err := exec.Command(gnu, append(c.flags, "--numeric-owner", "-cf", "-", "-C", source, ".")...).Output()
			assert.NilError(t, err)
			unpack(t, bytes.NewReader(stream), into)
			differences, err := conformance.Differences(source, loaded)
			assert.NilError(t, err)
			assert.Equal(t, len(differences), 0, "%s", strings.Join(differences, "\n"))
		})
	}
}

// cut takes the fractions off the times of a tree.
func cut(t testing.TB, dir string) {
	var paths []string
	assert.NilError(t, filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		paths = append(paths, path)
		return err
	}))
	for _, path := range paths {
		at := []unix.Timespec{{Sec: 1_000_000_000}, {Sec: 1_000_000_000}}
		assert.NilError(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, at, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// A stored file is an ordinary archive: zstd and GNU tar restore it without
// this program, attributes and holes and all.
func TestStoredFileIsReadByOrdinaryPrograms(t *testing.T) {
	needsRoot(t)
	for _, program := range []string{"tar", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("there is no " + program)
		}
	}
	dir := t.TempDir()
	source, from := newDir(t, dir, "source")
	stored, to := newDir(t, dir, "stored")
	loaded, _ := newDir(t, dir, "loaded")
	conformance.Nasty(t, source)
	// GNU tar refuses an empty attribute and paths longer than the kernel's.
	assert.NilError(t, unix.Removexattr(filepath.Join(source, "attributes"), "user.empty"))
	assert.NilError(t, os.RemoveAll(filepath.Join(source, "deep "+strings.Repeat("d", 20))))
	c, err := New().Save(context.Background(), from, to, 0, func(string, string) {}, func(int64, int64) {})
	assert.NilError(t, err)
	cmd := exec.Command("tar", "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", filepath.Join(stored, c.File), "-C", loaded)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	differences, err := conformance.Differences(source, loaded)
	assert.NilError(t, err)
	assert.Equal(t, len(differences), 0, "%s", strings.Join(differences, "\n"))
}
