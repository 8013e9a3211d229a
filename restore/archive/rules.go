package archive

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// cleanPath gives a path as Entry.Path has it. Absolute paths, "..", NUL and
// names that no file system takes are refused.
func cleanPath(p string, depth int) (string, error) {
	switch {
	case p == "":
		return "", fmt.Errorf("empty path")
	case p[0] == '/':
		return "", fmt.Errorf("absolute path")
	case strings.IndexByte(p, 0) >= 0:
		return "", fmt.Errorf("NUL in the path")
	}
	if isClean(p) {
		return p, checkDepth(p, depth)
	}
	var parts []string
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return "", fmt.Errorf(`".." in the path`)
		case len(part) > maxName:
			return "", fmt.Errorf("name longer than %d bytes", maxName)
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ".", nil
	}
	p = strings.Join(parts, "/")
	return p, checkDepth(p, depth)
}

// isClean tells whether no element is empty, ".", ".." or too long.
func isClean(p string) bool {
	start := 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		n := i - start
		if n == 0 || n > maxName || p[start] == '.' && (n == 1 || n == 2 && p[start+1] == '.') {
			return false
		}
		start = i + 1
	}
	return true
}

func checkDepth(p string, depth int) error {
	if strings.Count(p, "/") >= depth {
		return fmt.Errorf("more than %d directories deep", depth)
	}
	return nil
}

// parentOf is the path of the directory that holds p; "." holds itself.
func parentOf(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return "."
}

// kind is what an index knows of a path.
type kind byte

const (
	absent    kind = iota
	implied        // a directory that a deeper path needs, not yet described
	directory      // a directory with an entry of its own
	leaf           // anything else
)

// index knows every path that an archive has named, in 16 bytes and a kind
// each: two hashes under seeds of this process, which an archive cannot be
// made to collide in. A false match has odds below 2^-80 in a billion paths.
type index struct {
	seeds [2]maphash.Seed
	kinds map[[2]uint64]kind
	// parent is the last directory found good, so that the files of one
	// directory are checked against it once.
	parent string
}

func newIndex() *index {
	x := &index{kinds: map[[2]uint64]kind{}, parent: "."}
	x.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	x.kinds[x.key(".")] = implied
	return x
}

func (x *index) key(p string) [2]uint64 {
	return [2]uint64{maphash.String(x.seeds[0], p), maphash.String(x.seeds[1], p)}
}

// add checks an entry against all before it and notes it.
func (x *index) add(e *Entry) error {
	if err := x.enter(parentOf(e.Path)); err != nil {
		return err
	}
	key := x.key(e.Path)
	was := x.kinds[key]
	is := leaf
	if e.Type == Directory {
		is = directory
	}
	if was != absent && !(was == implied && is == directory) {
		return fmt.Errorf("the path is there twice")
	}
	if e.Type == HardLink {
		switch x.kinds[x.key(e.Link)] {
		case leaf:
		case absent:
			return fmt.Errorf("hard link to %q, which is not in the archive before it", e.Link)
		default:
			return fmt.Errorf("hard link to the directory %q", e.Link)
		}
	}
	x.kinds[key] = is
	return nil
}

// enter makes sure that a directory and all above it are directories.
func (x *index) enter(dir string) error {
	if dir == x.parent {
		return nil
	}
	for p := dir; p != "."; p = parentOf(p) {
		key := x.key(p)
		switch x.kinds[key] {
		case leaf:
			return fmt.Errorf("%q above it is not a directory", p)
		case absent:
			x.kinds[key] = implied
			continue
		}
		break // its own parents were checked when it was noted
	}
	x.parent = strings.Clone(dir)
	return nil
}
