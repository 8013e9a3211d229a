//go:build !linux

package agent

import (
	"context"
	"encoding/json"
)

// direct leaves everything to an agent: the engine is on another machine.
func (c *Client) direct(context.Context, Request) (json.RawMessage, bool) { return nil, false }
