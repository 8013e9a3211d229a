package main

import (
	docker "github.com/docker/cli/cli/command"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/cliplugin/command"
	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
)

// connect goes to the engine of the user's context.
func connect(dockerCLI docker.Cli) (command.Connection, error) {
	engine := engineapi.New(dockerCLI.Client())
	return command.Connection{Agent: agent.NewClient(engine), Engine: engine, Driver: engine}, nil
}
