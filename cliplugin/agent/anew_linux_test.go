package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/restore"
	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/plan"
)

// An agent that was started anew is told to end by the next boot of its engine
// while it still waits for this one, and does not know whether its operation is
// open.
func TestAnAgentThatDoesNotKnowItsOperationYetIsStartedAgain(t *testing.T) {
	create := Request{Verb: Create, Operation: "o", Create: &plan.Create{}}
	for _, tt := range []struct {
		name    string
		request Request
		client  bool // speaks
		looked  bool // into the journal, and there is no operation
		want    int
	}{
		{name: "it was started anew", request: create, want: exitContinue},
		{name: "a recovery was started anew", request: Request{Verb: Recover}, want: exitContinue},
		{name: "nothing was begun", request: create, looked: true, want: exitSettled},
		{name: "its client has just started it", request: create, client: true, want: exitSettled},
		{name: "it only reads", request: Request{Verb: List}, want: exitSettled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, term := context.WithCancel(t.Context())
			waits, over := make(chan struct{}), make(chan struct{})
			defer close(over)
			g := talk(ctx, t, &domain{}, tt.request, func(s *server) {
				if tt.looked {
					s.in = bufio.NewReader(silence{begin: func() { close(waits) }, over: over})
					return
				}
				s.connect = func(_ context.Context, _ func(string) string, g *greeting) (*connection, error) {
					if tt.client {
						g.wait()
					}
					close(waits)
					<-over
					return nil, errors.New("too late")
				}
			})
			if tt.client {
				g.say(Answer{Wait: true})
			}
			<-waits
			if tt.looked {
				for !g.s.unbegun.Load() {
					runtime.Gosched()
				}
			}
			term()
			assert.Equal(t, g.exit(), tt.want)
		})
	}
}

// silence is the standard input of an agent that nobody speaks to.
type silence struct {
	begin func()
	over  chan struct{}
}

func (s silence) Read([]byte) (int, error) {
	s.begin()
	<-s.over
	return 0, io.EOF
}

// An engine that goes away while an agent that it has started anew looks for it
// comes back, and starts it again.
func TestAnAgentThatLosesItsEngineIsStartedAgain(t *testing.T) {
	away := fmt.Errorf("find own container: %w", restore.ErrUnreachable)
	other := errors.New("that of another engine")
	connect := func(err error) func(*server) {
		return func(s *server) {
			s.connect = func(context.Context, func(string) string, *greeting) (*connection, error) { return nil, err }
		}
	}
	opens := func(err error) func(*server) {
		return func(s *server) {
			s.open = func(context.Context, restore.Config) (Domain, error) { return nil, err }
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*server)
		client bool
		want   int
	}{
		{"when it connects", connect(away), false, exitContinue},
		{"when it has connected", opens(away), false, exitContinue},
		{"and is another one", connect(other), false, exitSettled},
		{"but the client is there", opens(away), true, exitSettled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := talk(t.Context(), t, &domain{}, Request{Verb: Create, Operation: "o", Create: &plan.Create{}}, func(s *server) {
				tt.change(s)
				if tt.client {
					change := s.open
					s.open = func(ctx context.Context, c restore.Config) (Domain, error) {
						s.greeting.wait()
						return change(ctx, c)
					}
				}
			})
			if tt.client {
				g.say(Answer{Wait: true})
			}
			assert.Equal(t, g.next().Type, event.Failed)
			assert.Equal(t, g.exit(), tt.want)
		})
	}
}
