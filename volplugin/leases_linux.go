package volplugin

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// process is one process of the host: its number, and its start in clock
// ticks, since numbers come again.
type process struct {
	pid   int
	start string
}

// look finds the process that has this number now. A number of 0, or one that
// cannot be seen, gives the zero process.
func look(pid int) process {
	start, ok := started(pid)
	if pid <= 0 || !ok {
		return process{}
	}
	return process{pid: pid, start: start}
}

// started reads field 22 of /proc/PID/stat; the second field, in brackets, may
// hold anything.
func started(pid int) (string, bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	rest := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(rest) < 20 || string(rest[0]) == "Z" {
		return "", false
	}
	return string(rest[19]), true
}

// gone reports whether the process has ended. One that was never seen has not.
func (p process) gone() bool {
	if p.pid == 0 {
		return false
	}
	start, ok := started(p.pid)
	return !ok || start != p.start
}

func (p process) String() string {
	if p.pid == 0 {
		return "an unknown process"
	}
	return "process " + strconv.Itoa(p.pid)
}

// lease is one Mount that has no Unmount yet. It keeps a path bound for a
// container that is on its way, and decides nothing else: engines use one id
// twice (docker cp), and lose all of them when they are killed.
type lease struct {
	id    string
	asked process // the engine
	since time.Time
}

// leases are the open mounts of each volume.
type leases map[string][]lease

func (l leases) add(name string, one lease) { l[name] = append(l[name], one) }

// drop forgets one Mount of this id. An unknown id is no error.
func (l leases) drop(name, id string) {
	for i, one := range l[name] {
		if one.id == id {
			l[name] = append(l[name][:i:i], l[name][i+1:]...)
			break
		}
	}
	if len(l[name]) == 0 {
		delete(l, name)
	}
}

// expire forgets the mounts for which done is true.
func (l leases) expire(done func(name string, one lease) bool) {
	for name, all := range l {
		var kept []lease
		for _, one := range all {
			if !done(name, one) {
				kept = append(kept, one)
			}
		}
		if len(kept) == 0 {
			delete(l, name)
		} else {
			l[name] = kept
		}
	}
}
