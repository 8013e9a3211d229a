package conformance

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// builder makes entries of a tree for tests, below dir.
type builder struct {
	t   testing.TB
	dir string
}

func (b builder) path(name string) string { return filepath.Join(b.dir, name) }

func (b builder) ok(err error) {
	b.t.Helper()
	assert.NilError(b.t, err)
}

func (b builder) file(name string, content []byte) string {
	b.t.Helper()
	b.ok(os.WriteFile(b.path(name), content, 0o644))
	return b.path(name)
}

func (b builder) mkdir(name string) string {
	b.t.Helper()
	b.ok(os.Mkdir(b.path(name), 0o755))
	return b.path(name)
}

func (b builder) xattr(path, name, value string) {
	b.t.Helper()
	b.ok(unix.Lsetxattr(path, name, []byte(value), 0))
}

// when sets the time of an entry, which may be a symbolic link.
func (b builder) when(path string, sec, nsec int64) {
	b.t.Helper()
	t := []unix.Timespec{{Sec: 77}, {Sec: sec, Nsec: nsec}}
	b.ok(unix.UtimesNanoAt(unix.AT_FDCWD, path, t, unix.AT_SYMLINK_NOFOLLOW))
}

// random is content that no compression makes smaller; the same each time.
func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data) // never fails
	return data
}

// Nasty fills a directory, which must be empty, with everything that an engine
// has to keep, and gives the directory itself mode 0 and an odd owner. It
// needs root and a file system with attributes and ACLs.
func Nasty(t testing.TB, dir string) {
	t.Helper()
	b := builder{t, dir}
	b.owners()
	b.links()
	b.attributes()
	b.special()
	b.holes()
	b.names()
	b.deep()
	b.times()
	b.ok(unix.Chown(dir, 12345, 54321))
	b.ok(unix.Chmod(dir, 0))
	b.xattr(dir, "user.top", "of the tree")
	b.when(dir, 1_111_111_111, 111_111_111)
}

func (b builder) owners() {
	for name, mode := range map[string]uint32{
		"setuid": 0o4755, "setgid": 0o2755, "setgid without x": 0o2644, "sticky": 0o1644, "all bits": 0o7777, "none": 0,
	} {
		p := b.file(name, []byte(name))
		b.ok(unix.Chown(p, 1000, 1<<31))
		b.ok(unix.Chmod(p, mode))
		d := b.mkdir("dir " + name)
		builder{b.t, d}.file("in it", nil)
		b.ok(unix.Chown(d, 1<<22, 70))
		b.ok(unix.Chmod(d, mode))
	}
	b.file("empty", nil)
	b.file("large", append(random(5<<20+1), bytes.Repeat([]byte("text "), 1<<20)...))
	// Zeros that are written are data, not a hole.
	b.file("zeros", make([]byte, 1<<20))
}

func (b builder) links() {
	b.mkdir("links")
	b.file("links/target", []byte("x"))
	for name, target := range map[string]string{
		"relative": "target", "dangling": "nowhere", "absolute": "/etc/passwd", "up": "../../../..", "itself": "itself",
		"dir": ".", "long": strings.Repeat("l/", 500), "binary": "\xff\n\t*",
	} {
		p := b.path("links/" + name)
		b.ok(os.Symlink(target, p))
		b.ok(unix.Lchown(p, 3, 4))
		b.when(p, -1_000_000, 123_456_789)
	}
	p := b.path("links/attribute")
	b.ok(os.Symlink("target", p))
	b.xattr(p, "trusted.on.link", "yes")
	b.ok(os.Link(b.path("links/target"), b.path("a hard link ahead")))
	b.ok(os.Link(b.path("links/target"), b.path("links/zz hard link behind")))
	b.ok(os.Link(b.path("links/dangling"), b.path("links/second name of a symbolic link")))
	b.ok(os.Chmod(b.path("links/target"), 0o4711))
}

func (b builder) attributes() {
	p := b.file("attributes", []byte("x"))
	for i := range 24 {
		b.xattr(p, "user.number "+strings.Repeat("n", i), strings.Repeat("v", i))
	}
	b.xattr(p, "user.with=equals%3D", "a\n=\x00b")
	b.xattr(p, "user.empty", "")
	b.xattr(p, "trusted.secret", "\xff\xfe")
	p = b.file("capable", []byte("x"))
	b.ok(unix.Chown(p, 10, 20))
	b.xattr(p, "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")

	p = b.file("acl", []byte("x"))
	b.xattr(p, "system.posix_acl_access", acl(6, 4, 5))
	d := b.mkdir("acl dir")
	b.xattr(d, "system.posix_acl_default", acl(7, 5, 0))
	sub := builder{b.t, d}
	inherits := sub.file("inherits", nil)
	b.ok(unix.Chmod(sub.mkdir("inherits too"), 0o2770))
	sub.ok(unix.Removexattr(sub.file("does not inherit", nil), "system.posix_acl_access"))
	b.ok(unix.Chown(inherits, 9, 9))
	b.xattr(d, "system.posix_acl_access", acl(7, 0, 1))
	b.xattr(d, "user.on.dir", "yes")
}

// acl is the kernel's form of an ACL with a named user and a named group.
func acl(owner, group, other uint16) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{1, owner, 1<<32 - 1}, {2, 7, 1234}, {2, 1, 70000}, {4, group, 1<<32 - 1}, {8, 6, 4321}, {16, 5, 1<<32 - 1}, {32, other, 1<<32 - 1},
	} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return string(b)
}

func (b builder) special() {
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "char": unix.S_IFCHR, "block": unix.S_IFBLK} {
		dev := 0
		if mode != unix.S_IFIFO {
			dev = int(unix.Mkdev(250, 70_000))
		}
		p := b.path(name)
		b.ok(unix.Mknod(p, mode|0o600, dev))
		b.ok(unix.Chown(p, 5, 6))
		b.ok(unix.Chmod(p, 0o1642))
		b.xattr(p, "trusted.special", name)
		b.when(p, 1, 999_999_999)
		b.ok(os.Link(p, p+" again"))
	}
	b.ok(unix.Mknod(b.path("whiteout"), unix.S_IFCHR, 0))
}

func (b builder) holes() {
	b.mkdir("holes")
	for name, parts := range map[string][]int64{
		"1 GiB": {0, 512 << 20, 1<<30 - 1}, "hole first": {1 << 20}, "hole last": {0}, "no data": {},
	} {
		f, err := os.Create(b.path("holes/" + name))
		b.ok(err)
		for _, at := range parts {
			_, err := f.WriteAt([]byte("x"), at)
			b.ok(err)
		}
		if name != "hole first" {
			b.ok(f.Truncate(1 << 30))
		}
		b.ok(f.Close())
	}
	f, err := os.Create(b.path("holes/many"))
	b.ok(err)
	for i := range int64(300) {
		_, err := f.WriteAt([]byte{byte(i)}, i*128<<10+i)
		b.ok(err)
	}
	b.ok(f.Close())
}

func (b builder) names() {
	b.mkdir("names")
	for _, name := range []string{
		strings.Repeat("n", 255), "\xff\xfe not utf-8", "new\nline", "tab\there", " ", "-rf", "*", "ünïcödé", "\x01\x7f", "...", "a\\b",
		".wh.hidden", "GNUSparseFile.0", "PaxHeaders",
	} {
		b.file("names/"+name, []byte(name))
	}
	d := b.mkdir("names/" + strings.Repeat("d", 255))
	builder{b.t, d}.file(strings.Repeat("f", 255), []byte("x"))
}

// deep makes 300 directories in each other, so that the path is longer than
// the kernel takes at once.
func (b builder) deep() {
	fd, err := unix.Open(b.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	b.ok(err)
	name := "deep " + strings.Repeat("d", 20)
	for range 300 {
		b.ok(unix.Mkdirat(fd, name, 0o751))
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		b.ok(err)
		unix.Close(fd)
		fd = next
	}
	defer unix.Close(fd)
	file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
	b.ok(err)
	b.ok(unix.Close(file))
}

func (b builder) times() {
	d := b.mkdir("times")
	sub := builder{b.t, d}
	for name, at := range map[string]time.Time{
		"nanoseconds": time.Unix(1, 1), "epoch": time.Unix(0, 0), "before 1970": time.Unix(-86_400*365*20, 5),
		"just before": time.Unix(-1, 999_999_999), "far": time.Unix(1<<33, 123_456_789),
	} {
		sub.when(sub.file(name, nil), at.Unix(), int64(at.Nanosecond()))
		sub.when(sub.mkdir("dir "+name), at.Unix(), int64(at.Nanosecond()))
	}
	sub.when(d, -500, 1)
}
