//go:build linux

package conformance

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// The comparison is worth nothing unless it sees each thing that a copy can
// get wrong.
func TestComparisonSeesEveryDifference(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes owners, which only root may")
	}
	// Each change is made to one of two equal trees; times are put back, so
	// that the change itself must be seen.
	for name, change := range map[string]func(b builder){
		"mode":             func(b builder) { b.ok(unix.Chmod(b.path("file"), 0o600)) },
		"setuid":           func(b builder) { b.ok(unix.Chmod(b.path("file"), 0o4644)) },
		"owner":            func(b builder) { b.ok(unix.Chown(b.path("file"), 1, 0)) },
		"group of a link":  func(b builder) { b.ok(unix.Lchown(b.path("link"), 0, 1)) },
		"mode of the top":  func(b builder) { b.ok(unix.Chmod(b.dir, 0o711)) },
		"owner of the top": func(b builder) { b.ok(unix.Chown(b.dir, 1, 1)) },
		"content":          func(b builder) { b.file("file", []byte("CONTENT")) },
		"size":             func(b builder) { b.ok(os.Truncate(b.path("file"), 3)) },
		"a hole filled": func(b builder) {
			f, err := os.OpenFile(b.path("holes"), os.O_WRONLY, 0)
			b.ok(err)
			_, err = f.WriteAt(make([]byte, 64<<10), 128<<10)
			b.ok(err)
			b.ok(f.Close())
		},
		"attribute":           func(b builder) { b.xattr(b.path("file"), "user.a", "2") },
		"attribute more":      func(b builder) { b.xattr(b.path("file"), "user.b", "") },
		"attribute less":      func(b builder) { b.ok(unix.Removexattr(b.path("file"), "user.a")) },
		"attribute of a link": func(b builder) { b.xattr(b.path("link"), "trusted.b", "") },
		"attribute of top":    func(b builder) { b.xattr(b.dir, "user.top", "") },
		"ACL":                 func(b builder) { b.xattr(b.path("file"), "system.posix_acl_access", acl(6, 4, 4)) },
		"default ACL":         func(b builder) { b.xattr(b.path("dir"), "system.posix_acl_default", acl(7, 5, 5)) },
		"file missing":        func(b builder) { b.ok(os.Remove(b.path("dir/below"))) },
		"file more":           func(b builder) { b.file("dir/more", nil) },
		"link target": func(b builder) {
			b.ok(os.Remove(b.path("link")))
			b.ok(os.Symlink("File", b.path("link")))
		},
		"hard link broken": func(b builder) {
			b.ok(os.Remove(b.path("same")))
			b.file("same", []byte("content"))
		},
		"hard link to another": func(b builder) {
			b.ok(os.Remove(b.path("same")))
			b.ok(os.Link(b.path("twin"), b.path("same")))
		},
		"device number": func(b builder) {
			b.ok(os.Remove(b.path("device")))
			b.ok(unix.Mknod(b.path("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		},
		"device for a fifo": func(b builder) {
			b.ok(os.Remove(b.path("fifo")))
			b.ok(unix.Mknod(b.path("fifo"), unix.S_IFCHR|0o644, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := builder{t, t.TempDir()}, builder{t, t.TempDir()}
			a.plain()
			b.plain()
			same, err := Differences(a.dir, b.dir)
			assert.NilError(t, err)
			assert.Equal(t, len(same), 0, "%v", same)
			change(b)
			b.still()
			found, err := Differences(a.dir, b.dir)
			assert.NilError(t, err)
			assert.Assert(t, len(found) > 0)
		})
	}
	for _, name := range []string{".", "file", "link", "dir", "fifo"} {
		t.Run("time of "+name, func(t *testing.T) {
			a, b := builder{t, t.TempDir()}, builder{t, t.TempDir()}
			a.plain()
			b.plain()
			b.when(b.path(name), 5, 6)
			found, err := Differences(a.dir, b.dir)
			assert.NilError(t, err)
			assert.Assert(t, len(found) > 0)
		})
	}
}

// plain makes a small tree with one of each.
func (b builder) plain() {
	b.ok(os.Chmod(b.dir, 0o755))
	b.file("file", []byte("content"))
	b.xattr(b.path("file"), "user.a", "1")
	b.ok(os.Link(b.path("file"), b.path("same")))
	b.file("twin", []byte("content"))
	b.xattr(b.path("twin"), "user.a", "1")
	b.ok(os.Link(b.path("twin"), b.path("twin too")))
	b.ok(os.Symlink("file", b.path("link")))
	b.mkdir("dir")
	b.file("dir/below", nil)
	b.file("holes", nil)
	b.ok(os.Truncate(b.path("holes"), 1<<20))
	b.ok(unix.Mkfifo(b.path("fifo"), 0o644))
	b.ok(unix.Mknod(b.path("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	b.still()
}

// still gives every entry the same time.
func (b builder) still() {
	for _, name := range []string{"file", "same", "twin", "link", "dir/below", "dir/more", "dir", "holes", "fifo", "device", "."} {
		if _, err := os.Lstat(b.path(name)); err == nil {
			b.when(b.path(name), 1, 2)
		}
	}
}
