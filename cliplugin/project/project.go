// Package project finds the Compose project that a directory belongs to, the
// way docker compose does, with compose's own loader.
//
// In order: COMPOSE_PROJECT_NAME from the environment or .env; the name: of
// the compose files; the name of their directory. The files are those named,
// else COMPOSE_FILE, else the first default name in the directory or one of
// its parents. Only the name is wanted, so nothing else in the files needs to
// be valid, and no variable but those in name: needs a value.
package project

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/loader"
)

// ErrNone says that there is no Compose project here.
var ErrNone = errors.New("no Compose project in this directory or its parents")

// Find gives the name of the project of the current directory, or of the
// compose files given. ErrNone where there is none; any other error where
// there is one that cannot be read.
func Find(ctx context.Context, files ...string) (string, error) {
	options, err := cli.NewProjectOptions(files,
		cli.WithOsEnv,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		// Once more: the file may lie in a parent, with a .env beside it.
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithLoadOptions(func(o *loader.Options) {
			o.SkipValidation = true
			o.SkipInterpolation = true
			o.SkipNormalization = true
			o.SkipConsistencyCheck = true
			o.SkipExtends = true
			o.SkipInclude = true
			o.SkipResolveEnvironment = true
			o.SkipDefaultValues = true
		}),
	)
	if err != nil {
		return "", fmt.Errorf("find Compose project: %w", err)
	}
	if len(options.ConfigPaths) == 0 {
		if name := options.Environment[consts.ComposeProjectName]; name != "" {
			return valid(name)
		}
		return "", ErrNone
	}
	if name := options.Environment[consts.ComposeProjectName]; name != "" {
		return valid(name)
	}
	for _, path := range options.ConfigPaths {
		if path == "-" {
			return "", fmt.Errorf("find Compose project: a compose file from standard input is not read")
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("find Compose project: %w", err)
		}
	}
	model, err := options.LoadModel(ctx)
	if err != nil {
		return "", fmt.Errorf("find Compose project: %w", err)
	}
	name, _ := model["name"].(string)
	return valid(name)
}

// valid refuses a name that compose would refuse.
func valid(name string) (string, error) {
	if name == "" || name != loader.NormalizeProjectName(name) {
		return "", fmt.Errorf("find Compose project: invalid name %q: lower-case letters, digits, - and _ only, beginning with a letter or digit", name)
	}
	return name, nil
}
