package agent

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/snaprestore/snaprestore/restore/fault"
)

// errNotEmbedded says that a build has no agent for an architecture.
var errNotEmbedded = errors.New("no embedded agent")

// executable is a program for Linux. It is read as a whole only where
// an engine does not have it yet: that took 0.15 s of the 0.7 s of a list
// (measured, 22 MB).
type executable struct {
	id   [sha256.Size]byte // another one for another program
	read func() ([]byte, error)
}

// executableOf is the program with this content.
func executableOf(data []byte) executable {
	return executable{sha256.Sum256(data), func() ([]byte, error) { return data, nil }}
}

// carried is the program in the file name.gz, whose SHA-256 is in name.sum: it
// names the program without reading it.
func carried(files fs.FS, name string) (executable, error) {
	sum, err := fs.ReadFile(files, name+".sum")
	if errors.Is(err, fs.ErrNotExist) {
		return executable{}, errNotEmbedded
	}
	if err != nil {
		return executable{}, fmt.Errorf("open embedded agent: %w", err)
	}
	p := executable{read: func() ([]byte, error) {
		packed, err := fs.ReadFile(files, name+".gz")
		if err != nil {
			return nil, fmt.Errorf("open embedded agent: %w", err)
		}
		if got := sha256.Sum256(packed); hex.EncodeToString(got[:]) != string(bytes.TrimSpace(sum)) {
			return nil, fault.New(fault.Failed, "unpack embedded agent: it is not the one that this build was made with").
				WithState("nothing was changed").WithHint("use a released build, or make one with scripts/build")
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, fmt.Errorf("unpack embedded agent: %w", err)
		}
		data, err := io.ReadAll(z)
		if err != nil {
			return nil, fmt.Errorf("unpack embedded agent: %w", err)
		}
		return data, nil
	}}
	if n, err := hex.Decode(p.id[:], bytes.TrimSpace(sum)); err != nil || n != len(p.id) {
		return executable{}, fault.New(fault.Failed, "open embedded agent: it has no sum").
			WithState("nothing was changed").WithHint("use a released build, or make one with scripts/build")
	}
	return p, nil
}

// static refuses what cannot run in an empty container.
func static(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("read agent binary: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fault.New(fault.Failed, "this build is not static, so it cannot run as agent").
				WithState("nothing was changed").
				WithHint("build with CGO_ENABLED=0, as scripts/build does")
		}
	}
	return nil
}

// openOwn opens this process's program. The kernel's link works for a file that
// was replaced meanwhile, the name does where there is no /proc.
func openOwn() (*os.File, error) {
	f, err := os.Open("/proc/self/exe")
	if err == nil {
		return f, nil
	}
	name, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	if f, err = os.Open(name); err != nil {
		return nil, fmt.Errorf("read own program: %w", err)
	}
	return f, nil
}

// own is this process's program.
func own() (executable, error) { return executableIn(openOwn) }

// executableIn is the program in a file. Its id is that of its build, which
// depends on all that went into it (go help buildid); a program without one is
// summed.
func executableIn(open func() (*os.File, error)) (executable, error) {
	f, err := open()
	if err != nil {
		return executable{}, err
	}
	defer f.Close()
	read := func() ([]byte, error) {
		f, err := open()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			return nil, fmt.Errorf("read own program: %w", err)
		}
		return data, nil
	}
	if note, ok := buildNote(f); ok {
		return executable{sha256.Sum256(note), read}, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return executable{}, fmt.Errorf("read own program: %w", err)
	}
	return executable{[sha256.Size]byte(sum.Sum(nil)), read}, nil
}

// buildNote reads the note with the build's id, which is longer than its head
// of 16 bytes where there is one.
func buildNote(r io.ReaderAt) ([]byte, bool) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, false
	}
	s := f.Section(".note.go.buildid")
	if s == nil {
		return nil, false
	}
	note, err := s.Data()
	return note, err == nil && len(note) > 16
}
