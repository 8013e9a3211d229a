//go:build e2e && linux

package crashes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/snaprestore/snaprestore/journal"
	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// question is one call of the engine by a process that may be killed.
type question struct {
	Method string
	On     string            `json:",omitempty"`
	Grace  *int              `json:",omitempty"`
	Policy journal.Policy    `json:",omitzero"`
	Volume plan.CreateVolume `json:",omitzero"`
	Twin   restore.Twin      `json:",omitzero"`
	Lines  int               `json:",omitempty"`
	// Steps is how many durable steps there were before the process ended.
	Steps int `json:",omitempty"`
}

// answer is what the engine says.
type answer struct {
	Host       restore.Host        `json:",omitzero"`
	Containers []restore.Container `json:",omitempty"`
	Volumes    []restore.Volume    `json:",omitempty"`
	Image      restore.Image       `json:",omitzero"`
	Text       []string            `json:",omitempty"`
	Error      string              `json:",omitempty"`
	NoSuch     bool                `json:",omitempty"`
}

// serveEngine answers a process until it ends, and gives the number of durable
// steps that it told.
func serveEngine(e restore.Engine, conn net.Conn) (steps int) {
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		var q question
		if in.Decode(&q) != nil {
			return steps
		}
		a, err := ask(e, q)
		if q.Method == "Steps" {
			steps, err = q.Steps, nil
		}
		if err != nil {
			a.Error, a.NoSuch = err.Error(), errors.Is(err, restore.ErrNoSuch)
		}
		if out.Encode(a) != nil {
			return steps
		}
	}
}

func ask(e restore.Engine, q question) (a answer, err error) {
	ctx := context.Background()
	switch q.Method {
	case "Host":
		a.Host, err = e.Host(ctx)
	case "Containers":
		a.Containers, err = e.Containers(ctx)
	case "Container":
		var c restore.Container
		c, err = e.Container(ctx, q.On)
		a.Containers = []restore.Container{c}
	case "Volumes":
		a.Volumes, err = e.Volumes(ctx)
	case "Volume":
		var v restore.Volume
		v, err = e.Volume(ctx, q.On)
		a.Volumes = []restore.Volume{v}
	case "CreateVolume":
		var v restore.Volume
		v, err = e.CreateVolume(ctx, q.Volume)
		a.Volumes = []restore.Volume{v}
	case "RemoveVolume":
		err = e.RemoveVolume(ctx, q.On)
	case "Image":
		a.Image, err = e.Image(ctx, q.On)
	case "Stop":
		err = e.Stop(ctx, q.On, q.Grace)
	case "Start":
		err = e.Start(ctx, q.On)
	case "Pause":
		err = e.Pause(ctx, q.On)
	case "Unpause":
		err = e.Unpause(ctx, q.On)
	case "SetPolicy":
		err = e.SetPolicy(ctx, q.On, q.Policy)
	case "CreateTwin":
		var id string
		id, err = e.CreateTwin(ctx, q.Twin)
		a.Text = []string{id}
	case "RemoveContainer":
		err = e.RemoveContainer(ctx, q.On)
	case "CreateNetwork":
		err = e.CreateNetwork(ctx, q.On, q.Volume.Labels)
	case "RemoveNetwork":
		err = e.RemoveNetwork(ctx, q.On)
	case "Output":
		a.Text, err = e.Output(ctx, q.On, q.Lines)
	default:
		err = fmt.Errorf("no method %q", q.Method)
	}
	return a, err
}

// remoteEngine is the engine as a process that may be killed sees it.
type remoteEngine struct {
	mu  sync.Mutex
	in  *json.Decoder
	out *json.Encoder
}

var _ restore.Engine = (*remoteEngine)(nil)

func newRemoteEngine(conn net.Conn) *remoteEngine {
	return &remoteEngine{in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
}

func (e *remoteEngine) call(q question) (a answer, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := errors.Join(e.out.Encode(q), e.in.Decode(&a)); err != nil {
		return a, err
	}
	switch {
	case a.NoSuch:
		return a, fmt.Errorf("%s: %w", a.Error, restore.ErrNoSuch)
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (e *remoteEngine) do(q question) error {
	_, err := e.call(q)
	return err
}

func (e *remoteEngine) volume(q question) (restore.Volume, error) {
	a, err := e.call(q)
	if err != nil {
		return restore.Volume{}, err
	}
	return a.Volumes[0], nil
}

func (e *remoteEngine) Host(context.Context) (restore.Host, error) {
	a, err := e.call(question{Method: "Host"})
	return a.Host, err
}

func (e *remoteEngine) Containers(context.Context) ([]restore.Container, error) {
	a, err := e.call(question{Method: "Containers"})
	return a.Containers, err
}

func (e *remoteEngine) Container(_ context.Context, id string) (restore.Container, error) {
	a, err := e.call(question{Method: "Container", On: id})
	if err != nil {
		return restore.Container{}, err
	}
	return a.Containers[0], nil
}

func (e *remoteEngine) Volumes(context.Context) ([]restore.Volume, error) {
	a, err := e.call(question{Method: "Volumes"})
	return a.Volumes, err
}

func (e *remoteEngine) Volume(_ context.Context, name string) (restore.Volume, error) {
	return e.volume(question{Method: "Volume", On: name})
}

func (e *remoteEngine) CreateVolume(_ context.Context, v plan.CreateVolume) (restore.Volume, error) {
	return e.volume(question{Method: "CreateVolume", Volume: v})
}

func (e *remoteEngine) RemoveVolume(_ context.Context, name string) error {
	return e.do(question{Method: "RemoveVolume", On: name})
}

func (e *remoteEngine) Image(_ context.Context, ref string) (restore.Image, error) {
	a, err := e.call(question{Method: "Image", On: ref})
	return a.Image, err
}

func (e *remoteEngine) Stop(_ context.Context, id string, grace *int) error {
	return e.do(question{Method: "Stop", On: id, Grace: grace})
}

func (e *remoteEngine) Start(_ context.Context, id string) error {
	return e.do(question{Method: "Start", On: id})
}

func (e *remoteEngine) Pause(_ context.Context, id string) error {
	return e.do(question{Method: "Pause", On: id})
}

func (e *remoteEngine) Unpause(_ context.Context, id string) error {
	return e.do(question{Method: "Unpause", On: id})
}

func (e *remoteEngine) SetPolicy(_ context.Context, id string, p journal.Policy) error {
	return e.do(question{Method: "SetPolicy", On: id, Policy: p})
}

func (e *remoteEngine) CreateTwin(_ context.Context, t restore.Twin) (string, error) {
	a, err := e.call(question{Method: "CreateTwin", On: t.Name, Twin: t})
	if err != nil {
		return "", err
	}
	return a.Text[0], nil
}

func (e *remoteEngine) RemoveContainer(_ context.Context, id string) error {
	return e.do(question{Method: "RemoveContainer", On: id})
}

func (e *remoteEngine) CreateNetwork(_ context.Context, name string, labels map[string]string) error {
	return e.do(question{Method: "CreateNetwork", On: name, Volume: plan.CreateVolume{Labels: labels}})
}

func (e *remoteEngine) RemoveNetwork(_ context.Context, name string) error {
	return e.do(question{Method: "RemoveNetwork", On: name})
}

func (e *remoteEngine) Output(_ context.Context, id string, lines int) ([]string, error) {
	a, err := e.call(question{Method: "Output", On: id, Lines: lines})
	return a.Text, err
}
