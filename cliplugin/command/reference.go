package command

import (
	"context"
	"errors"
	"strings"

	"github.com/snaprestore/snaprestore/cliplugin/project"
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
		return name, err
	}
	return "", nil
}
