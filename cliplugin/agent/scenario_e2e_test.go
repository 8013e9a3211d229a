//go:build e2e && linux

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore/copyengine/conformance"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// see runs an agent that says what it can do.
func (e *engineProcess) see(c *Client) (able map[string]bool, detail map[string]string) {
	e.t.Helper()
	assert.NilError(e.t, os.RemoveAll(e.state("")))
	assert.NilError(e.t, os.Mkdir(e.state(""), 0o700))
	other := exec.Command("sleep", "600")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4711}}
	assert.NilError(e.t, other.Start())
	defer func() { _, _ = other.Process.Kill(), other.Wait() }()
	for _, p := range probes {
		file := e.state(p.capability)
		assert.NilError(e.t, os.WriteFile(file, []byte(strconv.Itoa(other.Process.Pid)), 0))
		assert.NilError(e.t, os.Chmod(file, 0))
		assert.NilError(e.t, os.Lchown(file, 4711, 4711))
	}
	raw, err := c.Do(context.Background(), Request{Verb: Doctor}, Handlers{})
	assert.NilError(e.t, err)
	var checks []plan.Check
	assert.NilError(e.t, json.Unmarshal(raw, &checks))
	able, detail = map[string]bool{}, map[string]string{}
	for _, check := range checks {
		able[check.Name], detail[check.Name] = check.Status == "ok", check.Detail
	}
	return able, detail
}

func TestAgentHasWhatItNeedsAndNoMore(t *testing.T) {
	e := startEngine(t)
	able, detail := e.see(e.client())
	for _, what := range append([]string{"self", "rename", "write outside"}, capabilities...) {
		assert.Check(t, able[what], "%s: %s", what, detail[what])
	}
	// Bits of include/uapi/linux/capability.h, in the order of the list.
	assert.Check(t, is.Equal(detail["capabilities"], "000000008828003b"))
	assert.Check(t, is.Equal(detail["privileges"], "1"), "NoNewPrivs")
	assert.Check(t, is.Equal(detail["interface"], "lo"), "the last one")
	e.until("nothing is left of the agents", func() bool { return len(e.agents()) == 0 })

	for i, without := range capabilities {
		c := e.client()
		c.capabilities = slices.Delete(slices.Clone(capabilities), i, i+1)
		able, _ := e.see(c)
		assert.Check(t, !able[without], "%s is not needed", without)
	}
}

// The whole way: the real domain in a real agent keeps whatever a volume holds.
func TestNastyTreeGoesThroughTheAgent(t *testing.T) {
	e := startEngine(t)
	assert.NilError(t, os.Mkdir(e.state(""), 0o700))
	assert.NilError(t, os.WriteFile(e.state(real), nil, 0o600))
	v, err := e.api().CreateVolume(t.Context(), plan.CreateVolume{Name: "data"})
	assert.NilError(t, err)
	conformance.Nasty(t, v.Mountpoint)
	want, err := conformance.Describe(v.Mountpoint)
	assert.NilError(t, err)
	_, err = e.client().Do(t.Context(), Request{Verb: Create, Create: &plan.Create{Name: "nasty", Volumes: []string{"data"}}}, Handlers{})
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(v.Mountpoint, "later"), nil, 0o600))
	_, err = e.client().Do(t.Context(), Request{Verb: Restore, Restore: &plan.RestoreRequest{Snapshot: "nasty"}}, Handlers{})
	assert.NilError(t, err)
	got, err := conformance.Describe(v.Mountpoint)
	assert.NilError(t, err)
	assert.DeepEqual(t, got, want)
	assert.Check(t, len(want) > 10)
}

func TestArchivesGoThroughTheEngine(t *testing.T) {
	e := startEngine(t)
	archive := bytes.Repeat([]byte("archive "), 1<<20)
	_, err := e.client().Do(t.Context(), Request{Verb: Import}, Handlers{In: bytes.NewReader(archive)})
	assert.NilError(t, err)
	var out bytes.Buffer
	_, err = e.client().Do(t.Context(), Request{Verb: Export, References: []string{"s"}}, Handlers{Out: &out})
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(out.Bytes(), archive))
}

func TestFailingSourceOfAnImportIsNoEnd(t *testing.T) {
	e := startEngine(t)
	broken := errors.New("disk on fire")
	_, err := e.client().Do(t.Context(), Request{Verb: Import}, Handlers{In: failingReader{broken}})
	assert.Check(t, errors.Is(err, broken) || strings.Contains(err.Error(), broken.Error()), "%v", err)
	assert.Check(t, !e.has("imported"))
}

func TestOldImagesAndAgentsAreSwept(t *testing.T) {
	e := startEngine(t)
	api := e.api()
	p, err := own()
	assert.NilError(t, err)
	data, err := p.read()
	assert.NilError(t, err)
	old := newImage("amd64", executableOf(append(data, 0)))
	assert.NilError(t, old.load(t.Context(), api))
	_, err = e.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	tags, err := api.ImageTags(t.Context(), repository)
	assert.NilError(t, err)
	assert.Equal(t, len(tags), 1)
	assert.Check(t, tags[0] != old.Reference)

	id := journal.NewID()
	client := e.startClient(id)
	assert.NilError(t, client.Process.Kill())
	_ = client.Wait()
	e.goOn()
	e.until("the agent ended", func() bool {
		ended, err := api.Ended(t.Context(), LabelAgent, 0)
		return err == nil && len(ended) == 1
	})
	c := e.client()
	c.leftoverAge = 0
	_, err = c.Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	e.until("nothing is left of the agents", func() bool { return len(e.agents()) == 0 })
}

func TestOperationOutlivesItsClient(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	client := e.startClient(id)
	assert.NilError(t, client.Process.Kill())
	_ = client.Wait()
	assert.Check(t, e.has(id+".open"))
	e.goOn()
	e.until("the operation is closed", func() bool { return e.has(id + ".closed") })
}

func TestOperationOutlivesItsAgent(t *testing.T) {
	e := startEngine(t)
	k := e.do(Request{Verb: Create, Create: &plan.Create{}})
	k.phase("first")
	assert.NilError(t, syscall.Kill(e.agentProcess(), syscall.SIGKILL))
	k.phase("second")
	e.goOn()
	result, err := k.wait()
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(result), "name-"))
	e.until("nothing is left of the agents", func() bool { return len(e.agents()) == 0 })
}

func TestOperationOutlivesItsEngine(t *testing.T) {
	for name, s := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			e := startEngine(t)
			k := e.do(Request{Verb: Create, Create: &plan.Create{}})
			k.phase("first")
			e.restart(s)
			k.phase("second")
			e.goOn()
			result, err := k.wait()
			assert.NilError(t, err)
			assert.Check(t, is.Contains(string(result), "name-"))
		})
	}
}

func TestResultDuringAnOutageIsNotLost(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	k := e.do(Request{Verb: Create, Operation: id, Create: &plan.Create{}})
	k.phase("first")
	dockerd := e.cmd.Path
	e.end(syscall.SIGKILL)
	e.goOn()
	e.until("the operation is closed", func() bool { return e.has(id + ".closed") })
	e.start(dockerd)
	result, err := k.wait()
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(result), id))
}

func TestCancelBeforeTheAnswerChangesNothing(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	k := e.do(Request{Verb: Restore, Operation: id, Ask: true, Restore: &plan.RestoreRequest{Snapshot: "s"}})
	p := <-k.plans
	assert.Equal(t, p.Operation, id)
	k.cancel()
	_, err := k.wait()
	assert.Check(t, fault.Is(err, fault.Declined), "%v", err)
	assert.Check(t, is.Contains(err.Error(), "interrupted; nothing was changed"))
	assert.Equal(t, len(e.agents()), 0)
	assert.Check(t, !e.has(id+".open"))
}

func TestCancelAfterTheAnswerLeavesTheAgentAtWork(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	k := e.do(Request{Verb: Restore, Operation: id, Ask: true, Restore: &plan.RestoreRequest{Snapshot: "s"}})
	<-k.plans
	k.answer <- true
	k.phase("first")
	k.cancel()
	_, err := k.wait()
	assert.Check(t, fault.Is(err, fault.Interrupted), "%v", err)
	assert.Check(t, is.Contains(fault.From(err).Hint, id))
	e.goOn()
	e.until("the operation is closed", func() bool { return e.has(id + ".closed") })
}

func TestAgentKilledBeforeTheAnswerChangesNothing(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	k := e.do(Request{Verb: Restore, Operation: id, Ask: true, Restore: &plan.RestoreRequest{Snapshot: "s"}})
	<-k.plans
	assert.NilError(t, syscall.Kill(e.agentProcess(), syscall.SIGKILL))
	_, err := k.wait()
	assert.Check(t, fault.Is(err, fault.Declined), "%v", err)
	assert.Check(t, !e.has(id+".open"))
}

func TestReadingAgentEndsWithItsClient(t *testing.T) {
	e := startEngine(t)
	k := e.do(Request{Verb: Verify, References: []string{"s"}})
	k.phase("first")
	k.cancel()
	_, err := k.wait()
	assert.Check(t, fault.Is(err, fault.Declined), "%v", err)
	e.until("nothing is left of the agents", func() bool { return len(e.agents()) == 0 })
}

// A client that sees nothing of the engine host's files, only the socket.
func TestClientNeedsTheSocketOnly(t *testing.T) {
	e := startEngine(t)
	id := journal.NewID()
	client := e.startClient(id, "unshare", "--mount", "--propagation", "private", "sh", "-c",
		"mount -t tmpfs none "+e.root+" && test ! -e "+e.root+"/volumes && exec \"$@\"", "sh")
	e.goOn()
	assert.NilError(t, client.Wait())
	assert.Check(t, e.has(id+".closed"))
}

func TestWrongSocketIsRefused(t *testing.T) {
	e, other := startEngine(t), startEngine(t)
	for _, socket := range []string{e.dir + "/s/none.sock", e.dir + "/none/docker.sock", other.socket(), "relative.sock"} {
		c := e.client()
		c.socket = socket
		_, err := c.Do(t.Context(), Request{Verb: Create, Create: &plan.Create{}}, Handlers{})
		f := fault.From(err)
		assert.Check(t, f != nil && is.Contains(f.Hint, EnvSocket)().Success(), "%s: %v", socket, err)
		assert.Check(t, f != nil && is.Contains(f.Error(), "nothing was changed")().Success(), "%s: %v", socket, err)
	}
	assert.Equal(t, len(e.agents()), 0)
}

func TestEngineThatIsDownIsSaid(t *testing.T) {
	e := startEngine(t)
	e.end(syscall.SIGKILL)
	_, err := e.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	f := fault.From(err)
	assert.Check(t, f != nil && f.Hint != "" && strings.Contains(f.Error(), "nothing was changed"), "%v", err)
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }
