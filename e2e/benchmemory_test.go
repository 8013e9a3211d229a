//go:build e2e && bench && linux

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// How much memory is left when the rest is held, and how much is read between
// two looks at what is free, in bytes.
const (
	benchMemory = 8 << 30
	benchStep   = 256 << 20
)

// settle has everything written out and fills memory, as it is filled on a host
// that has run for a while: with the pages of a file that nobody needs. A page
// that is free is otherwise taken by whoever writes next, and in a virtual
// machine that gives free memory back to its host (page_reporting) each page
// costs a fault there: 600 MB of zeros took 1.1 to 8.7 s to write to the cache,
// and 0.1 to 0.5 s where its pages had not been given back.
func (b *bench) settle() {
	b.t.Helper()
	unix.Sync()
	path := filepath.Join(b.side, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	must(b.t, err)
	defer f.Close()
	must(b.t, f.Truncate(1<<40)) // nothing of it is on the disk
	most := int64(float64(b.meminfo("MemTotal")) * b.scale)
	for read := int64(0); read < most; read += benchStep {
		free := b.meminfo("MemFree")
		var wg sync.WaitGroup
		for part := range int64(2) {
			wg.Go(func() {
				_, err := io.Copy(io.Discard, io.NewSectionReader(f, b.filled+part*benchStep/2, benchStep/2))
				if err != nil {
					b.t.Errorf("read %s: %v", path, err)
				}
			})
		}
		wg.Wait()
		b.filled = (b.filled + benchStep) % (1 << 39)
		if now := b.meminfo("MemFree"); now > free-benchStep/8 {
			return // others' pages go now, not free ones
		}
	}
}

// hold takes all memory but a part that is settled in seconds.
func (b *bench) hold() {
	b.t.Helper()
	size := int64(float64(b.meminfo("MemAvailable")-benchMemory) * b.scale)
	if size <= 0 {
		return
	}
	held := filepath.Join(b.Data, "held")
	must(b.t, os.Mkdir(held, 0o700))
	must(b.t, unix.Mount("held", held, "tmpfs", 0, fmt.Sprint("size=", size)))
	b.t.Cleanup(func() {
		if err := unix.Unmount(held, 0); err != nil {
			b.t.Errorf("unmount %s: %v", held, err)
		}
	})
	b.took(fmt.Sprintf("for i in 0 1; do head -c %d /dev/zero >%s/$i & done; wait", size/2, held))
}

// meminfo is a field of /proc/meminfo, in bytes.
func (b *bench) meminfo(field string) int64 {
	b.t.Helper()
	f, err := os.Open("/proc/meminfo")
	must(b.t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			must(b.t, err)
			return n << 10
		}
	}
	b.t.Fatalf("/proc/meminfo has no %s: %v", field, lines.Err())
	return 0
}
