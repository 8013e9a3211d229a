package command

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/snaprestore/snaprestore/cliplugin/agent"
	"github.com/snaprestore/snaprestore/restore/plan"
	"github.com/snaprestore/snaprestore/restore/snapshot"
)

// completionTime is how long a shell's completion may ask the engine. Then
// nothing is offered, and nothing is said.
const completionTime = 3 * time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// complete sets the completion of a flag's value.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag does not exist: a mistake in this package
	}
}

// offer makes a completion of what list gives, the arguments already there
// left out.
func offer(c *client, list func(context.Context, Connection) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		conn, err := c.connect()
		if err != nil {
			return nil, noFiles
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		words, err := list(ctx, conn)
		if err != nil {
			return nil, noFiles
		}
		return slices.DeleteFunc(words, func(w string) bool { return slices.Contains(args, w) }), noFiles
	}
}

// listed gets a list from the agent.
func listed[T any](ctx context.Context, c *client, verb agent.Verb) ([]T, error) {
	return do[[]T](ctx, c, agent.Request{Verb: verb}, agent.Handlers{})
}

// completeSnapshots offers names, or ids where there is no name, and latest;
// at most limit arguments, 0 for any number.
func completeSnapshots(c *client, limit int) cobra.CompletionFunc {
	all := offer(c, func(ctx context.Context, _ Connection) ([]string, error) {
		list, err := listed[snapshot.Snapshot](ctx, c, agent.List)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		words := []string{"latest"}
		for _, s := range list {
			if s.Name != "" {
				words = append(words, s.Name)
			} else {
				words = append(words, s.ID)
			}
		}
		return words, nil
	})
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, noFiles
		}
		return all(cmd, args, word)
	}
}

// completeSnapshotIDs offers ids only.
func completeSnapshotIDs(c *client) cobra.CompletionFunc {
	return offer(c, func(ctx context.Context, _ Connection) ([]string, error) {
		list, err := listed[snapshot.Snapshot](ctx, c, agent.List)
		var words []string
		for _, s := range list {
			words = append(words, s.ID)
		}
		return words, err
	})
}

// completeRestore offers a snapshot, then volumes.
func completeRestore(c *client) cobra.CompletionFunc {
	snapshots, volumes := completeSnapshots(c, 1), completeVolumes(c)
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return snapshots(cmd, args, word)
		}
		return volumes(cmd, args[1:], word)
	}
}

// completeOperations offers one operation.
func completeOperations(c *client) cobra.CompletionFunc {
	all := offer(c, func(ctx context.Context, _ Connection) ([]string, error) {
		list, err := listed[plan.Status](ctx, c, agent.Status)
		var words []string
		for _, s := range list {
			words = append(words, s.ID)
		}
		return words, err
	})
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, noFiles
		}
		return all(cmd, args, word)
	}
}

func completeVolumes(c *client) cobra.CompletionFunc {
	return offer(c, func(ctx context.Context, conn Connection) (words []string, err error) {
		list, err := conn.Engine.Volumes(ctx)
		for _, v := range list {
			words = append(words, v.Name)
		}
		return words, err
	})
}

func completeContainers(c *client) cobra.CompletionFunc {
	return offer(c, func(ctx context.Context, conn Connection) (words []string, err error) {
		list, err := conn.Engine.Containers(ctx)
		for _, ctr := range list {
			words = append(words, ctr.Name)
		}
		return words, err
	})
}

// Labels in which Compose writes what a container is.
const (
	projectLabel = "com.docker.compose.project"
	serviceLabel = "com.docker.compose.service"
)

func completeProjects(c *client) cobra.CompletionFunc { return completeLabel(c, projectLabel) }

func completeServices(c *client) cobra.CompletionFunc { return completeLabel(c, serviceLabel) }

// completeLabel offers the values that a label of containers has.
func completeLabel(c *client, label string) cobra.CompletionFunc {
	return offer(c, func(ctx context.Context, conn Connection) (words []string, err error) {
		list, err := conn.Engine.Containers(ctx)
		for _, ctr := range list {
			if name := ctr.Labels[label]; name != "" && !slices.Contains(words, name) {
				words = append(words, name)
			}
		}
		return words, err
	})
}
