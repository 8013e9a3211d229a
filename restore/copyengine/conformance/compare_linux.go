package conformance

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Differences compares two trees in everything that an engine keeps, the tops
// included, and names each difference. It shares no code with the engines:
// lstat, the attribute calls and SEEK_HOLE on every entry.
func Differences(want, got string) ([]string, error) {
	a, err := Describe(want)
	if err != nil {
		return nil, err
	}
	b, err := Describe(got)
	if err != nil {
		return nil, err
	}
	var out []string
	for path, line := range a {
		switch other, ok := b[path]; {
		case !ok:
			out = append(out, fmt.Sprintf("%q is missing", path))
		case other != line:
			out = append(out, fmt.Sprintf("%q:\n  want %s\n  got  %s", path, line, other))
		}
	}
	for path := range b {
		if _, ok := a[path]; !ok {
			out = append(out, fmt.Sprintf("%q is too much", path))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Describe maps each path of a tree to a line that says everything about it.
func Describe(top string) (map[string]string, error) {
	d := &describer{lines: map[string]string{}, names: map[[2]uint64]string{}}
	f, err := os.Open(top)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return d.lines, d.directory(f, ".")
}

type describer struct {
	lines map[string]string
	names map[[2]uint64]string // first name of each file with several
}

func (d *describer) directory(f *os.File, path string) error {
	if err := d.entry(procPath(f), path, true); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %q: %w", path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		// Through the open directory, for paths longer than the kernel takes.
		full := procPath(f) + "/" + name
		var st syscall.Stat_t
		if err := syscall.Lstat(full, &st); err != nil {
			return fmt.Errorf("stat %q: %w", path+"/"+name, err)
		}
		if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			if err := d.entry(full, path+"/"+name, false); err != nil {
				return err
			}
			continue
		}
		sub, err := os.Open(full)
		if err != nil {
			return err
		}
		err = d.directory(sub, path+"/"+name)
		sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func (d *describer) entry(full, path string, opened bool) error {
	var st syscall.Stat_t
	stat, listx, getx := syscall.Lstat, unix.Llistxattr, unix.Lgetxattr
	if opened { // full is a link of /proc to the directory
		stat, listx, getx = syscall.Stat, unix.Listxattr, unix.Getxattr
	}
	if err := stat(full, &st); err != nil {
		return fmt.Errorf("stat %q: %w", path, err)
	}
	line := fmt.Sprintf("%07o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	isDirectory := false
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		isDirectory = true
	case syscall.S_IFLNK:
		target, err := os.Readlink(full)
		if err != nil {
			return err
		}
		line += fmt.Sprintf(" -> %q", target)
	case syscall.S_IFCHR, syscall.S_IFBLK:
		line += fmt.Sprintf(" device %x", st.Rdev)
	case syscall.S_IFREG:
		content, err := content(full, st.Size)
		if err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		line += content
	}
	if !isDirectory {
		line += fmt.Sprintf(" links %d", st.Nlink)
		if st.Nlink > 1 {
			id := [2]uint64{st.Dev, st.Ino}
			if d.names[id] == "" {
				d.names[id] = path
			}
			line += fmt.Sprintf(" same as %q", d.names[id])
		}
	}
	attributes, err := attributes(full, listx, getx)
	if err != nil {
		return fmt.Errorf("attributes of %q: %w", path, err)
	}
	d.lines[path] = line + attributes
	return nil
}

// attributes describes the extended attributes of an entry.
func attributes(full string, list func(string, []byte) (int, error), get func(string, string, []byte) (int, error)) (string, error) {
	buf := make([]byte, 1<<16)
	n, err := list(full, buf)
	if err == unix.EOPNOTSUPP || n == 0 && err == nil {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.SortFunc(names, cmp.Compare)
	var out strings.Builder
	for _, name := range names {
		n, err := get(full, name, buf)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(&out, " %q=%x", name, buf[:n])
	}
	return out.String(), nil
}

// content describes size, data and holes of a file.
func content(full string, size int64) (string, error) {
	f, err := os.Open(full)
	if err != nil {
		return "", err
	}
	defer f.Close()
	out := fmt.Sprintf(" size %d data", size)
	sum := sha256.New()
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			break
		}
		if err != nil {
			return "", err
		}
		to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return "", err
		}
		out += fmt.Sprintf(" %d-%d", from, to)
		if _, err := io.Copy(sum, io.NewSectionReader(f, from, to-from)); err != nil {
			return "", err
		}
		at = to
	}
	return fmt.Sprintf("%s sha256 %x", out, sum.Sum(nil)), nil
}
