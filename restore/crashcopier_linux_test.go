package restore_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/snaprestore/snaprestore/journal/durable"
	"github.com/snaprestore/snaprestore/restore/copyengine"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/tree"
)

// plainEngine is a copy engine whose every file is a point of the process.
type plainEngine struct{ p *process }

func (plainEngine) Name() string { return "plain" }

func (plainEngine) Able(tree, store *os.Root) error { return nil }

func (plainEngine) Entries(context.Context, *os.Root, copyengine.Content, func(*tree.Entry, io.Reader) error) error {
	return errors.New("the tests export nothing of it")
}

func (e plainEngine) Save(ctx context.Context, tree, store *os.Root, index int, skipped func(path, reason string), p copyengine.Progress) (copyengine.Content, error) {
	c := copyengine.Content{File: fmt.Sprint(index, ".plain")}
	var all []entry
	err := fs.WalkDir(tree.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		one := entry{path: path, mode: info.Mode()}
		if d.Type().IsRegular() {
			data, err := tree.ReadFile(path)
			if err != nil {
				return err
			}
			one.data = string(data)
			c.Bytes += int64(len(data))
		}
		c.Files++
		all = append(all, one)
		return nil
	})
	if err != nil {
		return c, err
	}
	var lines []string
	for _, one := range all {
		data, err := json.Marshal([]any{one.path, one.mode, one.data})
		if err != nil {
			return c, err
		}
		lines = append(lines, string(data))
	}
	data := []byte(strings.Join(lines, "\n"))
	sum := sha256.Sum256(data)
	c.SHA256, c.Stored = hex.EncodeToString(sum[:]), int64(len(data))
	return c, e.file(store, c.File, data, 0o600)
}

func (plainEngine) read(store *os.Root, c copyengine.Content) ([]byte, error) {
	data, err := store.ReadFile(c.File)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.SHA256 {
		return nil, fault.New(fault.Corrupt, "read %s: checksum differs", c.File)
	}
	return data, nil
}

func (e plainEngine) Verify(ctx context.Context, store *os.Root, c copyengine.Content, p copyengine.Progress) error {
	_, err := e.read(store, c)
	return err
}

func (e plainEngine) Load(ctx context.Context, store *os.Root, c copyengine.Content, tree *os.Root, p copyengine.Progress) error {
	data, err := e.read(store, c)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		var path, content string
		var mode fs.FileMode
		if err := json.Unmarshal([]byte(line), &[]any{&path, &mode, &content}); err != nil {
			return err
		}
		if mode.IsDir() {
			err = e.mkdir(tree, path, mode.Perm())
		} else {
			err = e.file(tree, path, []byte(content), mode.Perm())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// at gives the path of a directory that is open as a root.
func at(root *os.Root) (string, error) {
	f, err := root.Open(".")
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// file writes one file, unsynced, as a step of the process.
func (e plainEngine) file(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	return e.unsynced(root, name, durable.Step{Op: durable.OpCreate, Data: data, Mode: mode}, func() error {
		return root.WriteFile(name, data, mode)
	})
}

func (e plainEngine) mkdir(root *os.Root, name string, mode fs.FileMode) error {
	return e.unsynced(root, name, durable.Step{Op: durable.OpMkdir, Mode: mode}, func() error {
		return root.Mkdir(name, mode)
	})
}

func (e plainEngine) unsynced(root *os.Root, name string, s durable.Step, do func() error) error {
	dir, err := at(root)
	if err != nil {
		return err
	}
	s.Dir, s.Name = filepath.Dir(filepath.Join(dir, name)), filepath.Base(name)
	if err := e.p.step(s); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	s.Done = true
	return e.p.step(s)
}
