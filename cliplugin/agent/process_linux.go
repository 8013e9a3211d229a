package agent

import (
	"bufio"
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/snaprestore/snaprestore/restore"
)

// process is an agent's process on the domain that open opens; it gives the
// exit status. SIGTERM comes from an engine that stops or has just started,
// and ends the process at once, whatever is going on: an operation that is
// open is continued by the next agent, which the engine starts because of the
// status.
func process(open func(context.Context, restore.Config) (Domain, error)) int {
	// A client that is gone must not end an operation.
	signal.Ignore(unix.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	s := &server{
		env: os.Getenv, in: bufio.NewReader(os.Stdin), out: os.Stdout, events: newEvents(os.Stderr),
		connect: connectEngine, open: open,
		greetTimeout: greetTimeout, answerTimeout: answerTimeout, thanksTimeout: thanksTimeout,
	}
	return s.serve(ctx)
}
