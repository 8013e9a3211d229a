package command

import (
	"context"
	"errors"
	"strings"

	"github.com/snaprestore/snaprestore/cliplugin/project"
	"github.com/snaprestore/snaprestore/restore/fault"
)

// narrow gives the project in which references are looked up: the one named,
// or for latest the Compose project of the current directory, or "" for all.
func narrow(ctx context.Context, named string, references ...string) (string, error) {
	if named != "" {
		return named, nil
	}
	for _, r := range references {
		if r != "latest" && !strings.HasPrefix(r, "latest~") {
			continue
		}
		name, err := project.Find(ctx)
		if errors.Is(err, project.ErrNone) {
			return "", nil
		}
		if err != nil {
			return "", unreadable(err)
		}
		return name, nil
	}
	return "", nil
}

// unreadable is the fault of a Compose project that is there and does not tell
// its name.
func unreadable(err error) error {
	return fault.New(fault.Failed, "%w", err).WithState("nothing was changed").
		WithHint("docker compose config shows what is wrong; --project PROJECT names one without looking")
}
