// Package project finds the Compose project that a directory belongs to, the
// way docker compose does, with compose's own search for files and environment.
//
// In order: COMPOSE_PROJECT_NAME from the environment or .env; the name: of
// the compose files; the name of their directory. The files are those named,
// else COMPOSE_FILE, else the first default name in the directory or one of
// its parents. Only the name is wanted, so nothing else in the files needs to
// be valid, and no variable but those in name: needs a value.
package project

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"go.yaml.in/yaml/v3"
)

// ErrNone says that there is no Compose project here.
var ErrNone = errors.New("no Compose project in this directory or its parents")

// Find gives the name of the project of the current directory, or of the
// compose files given. ErrNone where there is none; any other error where
// there is one that cannot be read.
func Find(ctx context.Context, files ...string) (string, error) {
	name, err := find(ctx, files)
	if err != nil && !errors.Is(err, ErrNone) {
		return "", fmt.Errorf("find Compose project: %w", err)
	}
	return name, err
}

func find(ctx context.Context, files []string) (string, error) {
	options, err := cli.NewProjectOptions(files,
		cli.WithOsEnv,
		cli.WithEnvFiles(),
		cli.WithDotEnv,
		cli.WithConfigFileEnv,
		cli.WithDefaultConfigPath,
		// Once more: the file may lie in a parent, with a .env beside it.
		cli.WithEnvFiles(),
		cli.WithDotEnv,
	)
	if err != nil {
		return "", err
	}
	if name := options.Environment[consts.ComposeProjectName]; name != "" {
		return valid(name)
	}
	switch {
	case len(options.ConfigPaths) == 0:
		return "", ErrNone
	case slices.Contains(options.ConfigPaths, "-"):
		return "", errors.New("a compose file from standard input is not read")
	}
	dir, err := options.GetWorkingDir()
	if err != nil {
		return "", err
	}
	details, err := options.ReadConfigFiles(ctx, dir, options)
	if err != nil {
		return "", err
	}
	name := ""
	for _, file := range details.ConfigFiles {
		own, err := named(file.Content)
		if err != nil {
			return "", fmt.Errorf("%s: %w", file.Filename, err)
		}
		if own != "" {
			name = own
		}
	}
	if name == "" {
		return valid(loader.NormalizeProjectName(filepath.Base(dir)))
	}
	name, err = template.Substitute(name, func(key string) (string, bool) {
		value, ok := options.Environment[key]
		return value, ok
	})
	if err != nil {
		return "", fmt.Errorf("name: %w", err)
	}
	return valid(loader.NormalizeProjectName(name))
}

// named gives the name: of a compose file; the last document's wins.
func named(content []byte) (name string, err error) {
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var doc struct {
			Name string `yaml:"name"`
		}
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		if doc.Name != "" {
			name = doc.Name
		}
	}
}

// valid refuses a name that compose would refuse.
func valid(name string) (string, error) {
	if name == "" || name != loader.NormalizeProjectName(name) {
		return "", fmt.Errorf("invalid name %q: lower-case letters, digits, - and _ only, beginning with a letter or digit", name)
	}
	return name, nil
}
