package engineapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/snaprestore/snaprestore/restore"
)

// HasImage reports whether an image exists.
func (c *Client) HasImage(ctx context.Context, ref string) (bool, error) {
	_, err := c.Image(ctx, ref)
	if errors.Is(err, restore.ErrNoSuch) {
		return false, nil
	}
	return err == nil, err
}

// LoadImage loads an archive in the format of docker save, which it reads
// from archive() for each try.
func (c *Client) LoadImage(ctx context.Context, archive func() io.Reader) error {
	return c.call(ctx, "load image", func() error {
		r := archive()
		if closer, ok := r.(io.Closer); ok {
			defer closer.Close()
		}
		resp, err := c.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		// The engine answers 200 before it reads the archive; an error comes
		// as a message in the body.
		messages := json.NewDecoder(resp.Body)
		for {
			var m struct {
				Error string `json:"error"`
			}
			switch err := messages.Decode(&m); {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case m.Error != "":
				return errors.New(m.Error)
			}
		}
	})
}

// ImageTags lists the references of a repository's images.
func (c *Client) ImageTags(ctx context.Context, repository string) (refs []string, err error) {
	err = c.call(ctx, fmt.Sprintf("list images of %s", repository), func() error {
		list, err := c.api.ImageList(ctx, image.ListOptions{
			Filters: filters.NewArgs(filters.Arg("reference", repository)),
		})
		for _, s := range list {
			refs = append(refs, s.RepoTags...)
		}
		return err
	})
	return refs, err
}

// RemoveImage removes a reference, and the image with its last one. The engine
// refuses while a container uses it.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	return c.call(ctx, "remove image "+ref, func() error {
		_, err := c.api.ImageRemove(ctx, ref, image.RemoveOptions{})
		return err
	})
}
