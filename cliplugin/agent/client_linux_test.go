package agent

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// host is an Engine in memory. Its only container runs the real server on the
// test's domain.
type host struct {
	t      *testing.T
	domain *domain

	mu       sync.Mutex
	images   []string
	loads    int
	lost     int    // how many more loaded images vanish at once
	dataRoot string // "" for one that is nowhere
	noDirs   int    // how many more sockets' directories do not exist
	spec     engineapi.ContainerSpec
	state    string // of the container, "" for none
	log      bytes.Buffer
	down     int // how many more calls of State fail
	ended    []string
	removed  []string

	in      *io.PipeReader
	inW     *io.PipeWriter
	stdout  *io.PipeReader
	stdoutW *io.PipeWriter
	stderr  *io.PipeReader
	stderrW *io.PipeWriter
	mute    bool // the agent dies without a word of its own
	thanks  time.Duration
}

func newHost(t *testing.T, d *domain) *host {
	h := &host{t: t, domain: d, thanks: limit}
	h.in, h.inW = io.Pipe()
	h.stdout, h.stdoutW = io.Pipe()
	h.stderr, h.stderrW = io.Pipe()
	return h
}

func (h *host) client() *Client {
	c := NewClient(h)
	c.socket = ""
	c.binary = func(restore.Host) (executable, error) { return executableOf(staticELF(h.t)), nil }
	c.settling = 0
	return c
}

func (h *host) locked() func() { h.mu.Lock(); return h.mu.Unlock }

func (h *host) CheckVersion(context.Context) error { return nil }
func (h *host) Host(context.Context) (restore.Host, error) {
	return restore.Host{ID: "E", OS: "linux", Arch: "amd64", DataRoot: cmp.Or(h.dataRoot, "/d")}, nil
}
func (h *host) Socket(context.Context) (string, error) { return "/s/engine.sock", nil }

func (h *host) HasImage(_ context.Context, ref string) (bool, error) {
	defer h.locked()()
	for _, have := range h.images {
		if have == ref {
			return true, nil
		}
	}
	return false, nil
}

func (h *host) LoadImage(_ context.Context, archive func() io.Reader) error {
	if _, err := io.Copy(io.Discard, archive()); err != nil {
		return err
	}
	img := newImage("amd64", executableOf(staticELF(h.t)))
	defer h.locked()()
	h.loads++
	h.images = append(h.images, img.Reference)
	return nil
}

func (h *host) ImageTags(context.Context, string) ([]string, error) {
	defer h.locked()()
	return append([]string{}, h.images...), nil
}

func (h *host) RemoveImage(_ context.Context, ref string) error {
	defer h.locked()()
	h.removed = append(h.removed, ref)
	return nil
}

func (h *host) CreateContainer(_ context.Context, spec engineapi.ContainerSpec) (string, error) {
	defer h.locked()()
	if h.lost > 0 {
		h.lost--
		h.images = nil
		return "", fmt.Errorf("create: %w", restore.ErrNoSuch)
	}
	if h.noDirs > 0 {
		h.noDirs--
		return "", fmt.Errorf("create: %w", engineapi.ErrNoSource)
	}
	if !slices.Contains(h.images, spec.Image) {
		return "", fmt.Errorf("create: %w", restore.ErrNoSuch)
	}
	h.spec, h.state = spec, "created"
	return "c", nil
}

func (h *host) Attach(context.Context, string) (engineapi.Stream, error) { return &stream{h}, nil }

func (h *host) Start(context.Context, string) error {
	env := func(name string) string {
		for _, e := range h.spec.Env {
			if rest, ok := strings.CutPrefix(e, name+"="); ok {
				return rest
			}
		}
		return ""
	}
	s := &server{
		env: env, in: bufio.NewReader(h.in), out: h.stdoutW, events: newEvents(h.stderrW),
		connect: func(context.Context, func(string) string, *greeting) (*connection, error) {
			return &connection{
				reachable: func(context.Context) bool { return true },
				leave:     func(ctx context.Context) { _ = h.RemoveContainer(ctx, "c") },
				close:     func() {},
			}, nil
		},
		open:         func(context.Context, restore.Config) (Domain, error) { return h.domain, nil },
		greetTimeout: limit, answerTimeout: limit, thanksTimeout: h.thanks,
	}
	h.setState("running")
	go func() {
		if h.mute {
			_, _ = h.stderrW.Write([]byte("panic: out of luck\n\ngoroutine 1\n"))
		} else {
			s.serve(context.Background())
		}
		h.setState("exited")
		h.stdoutW.Close()
		h.stderrW.Close()
	}()
	return nil
}

func (h *host) setState(s string) { defer h.locked()(); h.state = s }

func (h *host) State(context.Context, string) (string, error) {
	defer h.locked()()
	if h.down > 0 {
		h.down--
		return "", fmt.Errorf("find container: %w", restore.ErrUnreachable)
	}
	if h.state == "" {
		return "", restore.ErrNoSuch
	}
	return h.state, nil
}

func (h *host) Logs(_ context.Context, _ string, w io.Writer) error {
	defer h.locked()()
	_, err := w.Write(h.log.Bytes())
	return err
}

func (h *host) RemoveContainer(_ context.Context, id string) error {
	defer h.locked()()
	h.removed = append(h.removed, id)
	if id != "c" {
		return nil
	}
	h.in.CloseWithError(io.ErrClosedPipe)
	h.stdoutW.Close()
	h.stderrW.Close()
	h.state = ""
	return nil
}

func (h *host) Ended(context.Context, string, time.Duration) ([]string, error) {
	defer h.locked()()
	return h.ended, nil
}

// stream is the attached end of the host's container.
type stream struct{ h *host }

func (s *stream) Write(p []byte) (int, error) { return s.h.inW.Write(p) }
func (s *stream) CloseWrite() error           { return s.h.inW.Close() }
func (s *stream) Close()                      {}

func (s *stream) Copy(stdout, stderr io.Writer) error {
	done := make(chan error, 1)
	go func() { _, err := io.Copy(stdout, s.h.stdout); done <- err }()
	_, err := io.Copy(stderr, s.h.stderr)
	return errors.Join(err, <-done)
}

func (h *host) wasRemoved(what string) bool {
	defer h.locked()()
	for _, r := range h.removed {
		if r == what {
			return true
		}
	}
	return false
}

func TestClientLoadsTheImageOnceAndSweepsWhatOthersLeft(t *testing.T) {
	h := newHost(t, &domain{})
	raw, err := h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(raw), `"id":"a"`))
	assert.Check(t, !h.spec.Durable) // which the engine removes

	again := newHost(t, &domain{})
	again.images = append(h.images, repository+":0123456789ab", "someone-else:1")
	again.ended = []string{"dead"}
	_, err = again.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	assert.Equal(t, again.loads, 0)
	assert.Check(t, again.wasRemoved("dead") && again.wasRemoved(repository+":0123456789ab"))
	assert.Check(t, !again.wasRemoved("someone-else:1") && !again.wasRemoved(h.images[0]))
}

func TestWhoCanReadTheEnginesOwnStateRootListsItWithoutAnAgent(t *testing.T) {
	h := newHost(t, &domain{})
	h.dataRoot = t.TempDir()
	d, err := restore.Open(t.Context(), restore.Config{Root: StateRoot(restore.Host{DataRoot: h.dataRoot})})
	assert.NilError(t, err)
	assert.NilError(t, d.Close())
	id := filepath.Join(h.dataRoot, "engine-id")
	ask := func() string {
		t.Helper()
		raw, err := h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
		assert.NilError(t, err)
		return string(raw)
	}
	assert.NilError(t, os.WriteFile(id, []byte("E\n"), 0o600))
	assert.Equal(t, ask(), "[]")
	assert.Equal(t, h.loads, 0, "an agent was made")

	// The same path on another machine.
	assert.NilError(t, os.WriteFile(id, []byte("another\n"), 0o600))
	assert.Check(t, is.Contains(ask(), `"id":"a"`))
	assert.Equal(t, h.loads, 1)
}

func TestImageThatVanishesIsLoadedAgain(t *testing.T) {
	h := newHost(t, &domain{})
	h.lost = createAttempts - 1
	_, err := h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	assert.Equal(t, h.loads, createAttempts-1)

	h = newHost(t, &domain{})
	h.lost = createAttempts
	_, err = h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.Check(t, errors.Is(err, restore.ErrNoSuch), "%v", err)
}

func TestSocketIsLookedForWhereItMayBe(t *testing.T) {
	bound := func(h *host) string { return h.spec.Binds[1].Source }
	h := newHost(t, &domain{})
	_, err := h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	assert.Equal(t, bound(h), "/s")

	h = newHost(t, &domain{})
	h.noDirs = 1
	_, err = h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.NilError(t, err)
	assert.Equal(t, bound(h), "/var/run")

	h = newHost(t, &domain{})
	h.noDirs = 2
	_, err = h.client().Do(t.Context(), Request{Verb: List}, Handlers{})
	assert.Check(t, is.Contains(fault.From(err).Hint, EnvSocket))
}

func TestChangesRunInADurableContainerThatGoes(t *testing.T) {
	for name, thanks := range map[string]time.Duration{
		"by itself when its client has the result": limit,
		"by its client where it did not hear that": -1,
	} {
		t.Run(name, func(t *testing.T) {
			d := &domain{}
			h := newHost(t, d)
			h.thanks = thanks
			raw, err := h.client().Do(t.Context(), Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, Handlers{})
			assert.NilError(t, err)
			assert.Check(t, is.Contains(string(raw), `"id":"made"`))
			assert.Check(t, h.spec.Durable)
			poll.WaitOn(t, func(poll.LogT) poll.Result {
				if !h.wasRemoved("c") {
					return poll.Continue("the container is there")
				}
				return poll.Success()
			}, poll.WithTimeout(limit))
			assert.Equal(t, h.spec.Labels[LabelOperation], "o")
			assert.DeepEqual(t, d.called(), []string{"Create o"})
		})
	}
}

func TestPersonDecides(t *testing.T) {
	refuse := errors.New("the terminal is gone")
	for _, tt := range []struct {
		name string
		yes  bool
		err  error
	}{{"yes", true, nil}, {"no", false, nil}, {"error", true, refuse}} {
		t.Run(tt.name, func(t *testing.T) {
			d := &domain{}
			h := newHost(t, d)
			asked := 0
			_, err := h.client().Do(t.Context(), Request{Verb: Restore, Operation: "o", Ask: true, Restore: &plan.RestoreRequest{Snapshot: "s"}},
				Handlers{Confirm: func(p plan.Plan) (bool, error) {
					asked++
					assert.Check(t, is.Equal(p.Snapshot.ID, "resolved"))
					return tt.yes, tt.err
				}})
			assert.Equal(t, asked, 1)
			calls := strings.Join(d.called(), ", ")
			if tt.yes && tt.err == nil {
				assert.NilError(t, err)
				assert.Equal(t, calls, "PlanRestore s, Execute o")
				return
			}
			assert.Equal(t, calls, "PlanRestore s")
			assert.Check(t, is.Contains(err.Error(), "nothing was changed"))
			if tt.err != nil {
				assert.Check(t, is.Contains(err.Error(), tt.err.Error()))
			} else {
				assert.Check(t, fault.Is(err, fault.Declined), "%v", err)
			}
		})
	}
}

func TestFaultArrivesAsTheAgentSaidIt(t *testing.T) {
	want := fault.New(fault.InDoubt, "decide: input/output error").WithState("undecided").WithHint("docker snaprestore recover o")
	h := newHost(t, &domain{work: func(context.Context) error { return want }})
	_, err := h.client().Do(t.Context(), Request{Verb: Create, Create: &plan.Create{}}, Handlers{})
	got := fault.From(err)
	assert.Equal(t, got.Kind, want.Kind)
	assert.Equal(t, got.Message, want.Message)
	assert.Equal(t, got.State, want.State)
	assert.Equal(t, got.Hint, want.Hint)
}

func TestAgentThatDiesIsQuoted(t *testing.T) {
	for _, tt := range []struct {
		req  Request
		kind fault.Kind
	}{
		{Request{Verb: List}, fault.Failed},
		{Request{Verb: Create, Operation: "0123456789ab", Create: &plan.Create{}}, fault.Interrupted},
	} {
		h := newHost(t, &domain{})
		h.mute = true
		h.log.WriteString("panic: out of luck\n")
		go io.Copy(io.Discard, h.in) // what the client says goes nowhere
		_, err := h.client().Do(t.Context(), tt.req, Handlers{})
		assert.Check(t, fault.Is(err, tt.kind), "%v", err)
		assert.Check(t, is.Contains(err.Error(), "out of luck"))
		assert.Check(t, is.Contains(fault.From(err).Hint, tt.req.Operation))
	}
}

// The connection breaks with the engine; the log has the rest of the story.
func TestClientFollowsThroughTheLog(t *testing.T) {
	at := func(sec int) string { return time.Unix(int64(sec), 0).UTC().Format(time.RFC3339) }
	line := func(sec int, rest string) string { return fmt.Sprintf(`{"time":"%s",%s}`+"\n", at(sec), rest) }
	h := newHost(t, &domain{})
	c := h.client()
	var phases []string
	r := newRun(c, Request{Verb: Create, Operation: "o"}, Handlers{Event: func(e event.Event) { phases = append(phases, e.Phase) }})
	r.id = "c"
	seen := line(1, `"type":"phase","phase":"a"`) + line(2, `"type":"phase","phase":"b"`)
	_, err := r.lines.Write([]byte(seen))
	assert.NilError(t, err)

	h.down = 2
	h.state = "running"
	h.log.WriteString(seen + line(3, `"type":"phase","phase":"c"`) + line(4, `"type":"result","result":{"id":"x"}`))
	assert.NilError(t, r.follow(t.Context()))
	assert.Equal(t, string(r.result), `{"id":"x"}`)
	assert.DeepEqual(t, phases, []string{"a", "b", "c"})
}

func TestEngineThatStaysAwayIsNotWaitedForForEver(t *testing.T) {
	h := newHost(t, &domain{})
	h.down = 1 << 30
	r := newRun(&Client{engine: h, patience: 0}, Request{Verb: Restore, Operation: "0123456789ab"}, Handlers{})
	err := r.follow(t.Context())
	assert.Check(t, fault.Is(err, fault.Interrupted), "%v", err)
	assert.Check(t, is.Contains(err.Error(), "goes on"))
	assert.Check(t, is.Contains(fault.From(err).Hint, "status 0123456789ab"))
}

func TestRequestThatNoContainerTakesIsRefused(t *testing.T) {
	h := newHost(t, &domain{})
	_, err := h.client().Do(t.Context(), Request{Verb: Inspect, References: []string{strings.Repeat("a", requestLimit)}}, Handlers{})
	assert.Check(t, is.Contains(err.Error(), "bytes long"))
	assert.Check(t, is.Contains(err.Error(), "nothing was changed"))
	assert.Equal(t, h.state, "")
}
