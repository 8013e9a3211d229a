package volplugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore/volume"
)

// duties are what needs the driver's capabilities, each done by a process that
// opens the driver. The engine is a process with the mount paths.
var duties = []struct {
	name string
	need []string // each of these
	do   func(d *Driver, engine process) error
}{
	{"mount", []string{"CAP_SYS_ADMIN"}, func(d *Driver, _ process) error {
		_, err := d.mount(context.Background(), "db", "id", process{pid: os.Getpid()})
		return err
	}},
	{"repair", []string{"CAP_SYS_PTRACE", "CAP_SYS_CHROOT"}, func(d *Driver, engine process) error {
		return d.points.repair(engine)
	}},
	{"remove", []string{"CAP_DAC_OVERRIDE"}, func(d *Driver, _ process) error { return d.remove("private") }},
	{"remove where names are protected", []string{"CAP_FOWNER"}, func(d *Driver, _ process) error { return d.remove("sticky") }},
}

// beDuty does one of the duties: its index, the engine's process number, and
// the stage's directory are the arguments.
func beDuty(args []string) int {
	index, _ := strconv.Atoi(args[0])
	pid, _ := strconv.Atoi(args[1])
	d, err := Open(stageIn(args[2]).config)
	if err == nil {
		err = duties[index].do(d, look(pid))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// TestCapabilitiesAreEnoughAndNoneIsTooMuch: with the set that the driver
// keeps every duty is done, and without one of them one duty is not.
func TestCapabilitiesAreEnoughAndNoneIsTooMuch(t *testing.T) {
	needed := map[string]bool{}
	var all []string
	for _, c := range capabilities {
		all = append(all, c.name)
	}
	for i, duty := range duties {
		output, err := perform(t, i, all)
		assert.NilError(t, err, "%s: %s", duty.name, output)
		for _, without := range duty.need {
			var rest []string
			for _, name := range all {
				if name != without {
					rest = append(rest, name)
				}
			}
			output, err := perform(t, i, rest)
			assert.Assert(t, err != nil, "%s: done without %s", duty.name, without)
			assert.Assert(t, strings.Contains(output, "permi"), "%s without %s: %s", duty.name, without, output)
			needed[without] = true
		}
	}
	for _, name := range all {
		assert.Assert(t, needed[name], "nothing needs %s", name)
	}
}

// perform does a duty with these capabilities on a stage of its own.
func perform(t *testing.T, duty int, with []string) (string, error) {
	t.Helper()
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		t.Skip("setpriv is not here")
	}
	s := newStage(t)
	d := s.open(t)
	makeVolume(t, d, "db", "data", nil)
	private := makeVolume(t, d, "private", "data", nil)
	inner := filepath.Join(private.Dir, volume.Live, "inner")
	assert.NilError(t, os.MkdirAll(filepath.Join(inner, "below"), 0o700))
	assert.NilError(t, os.Chown(inner, 1001, 1001))
	sticky := makeVolume(t, d, "sticky", "data", nil)
	open := filepath.Join(sticky.Dir, volume.Live, "open")
	assert.NilError(t, os.Mkdir(open, 0o700))
	assert.NilError(t, os.Chmod(open, 0o777|os.ModeSticky))
	assert.NilError(t, os.WriteFile(filepath.Join(open, "file"), nil, 0o600))
	for _, path := range []string{open, filepath.Join(open, "file")} {
		assert.NilError(t, os.Chown(path, 1001, 1001))
	}
	assert.NilError(t, os.Chmod(open, 0o777|os.ModeSticky))
	assert.NilError(t, d.Close())
	e := startEngine(t, s.config.Points)
	if duties[duty].name == "repair" {
		e.lose(t, loseAll)
	}
	bounds := "-all"
	for _, name := range with {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	cmd := exec.Command(setpriv, "--bounding-set", bounds, "--inh-caps", "-all", "--no-new-privs", "/proc/self/exe")
	exe, err := os.Executable()
	assert.NilError(t, err)
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(os.Environ(), asDuty+"="+strings.Join([]string{strconv.Itoa(duty), strconv.Itoa(e.pid), filepath.Dir(s.config.Root)}, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	output, err := cmd.CombinedOutput()
	return string(output), err
}
