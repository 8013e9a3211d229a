package engineapi

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"testing"

	"github.com/docker/docker/api/types"
	"gotest.tools/v3/assert"
)

// TestPluginArchive: what an engine makes a plugin of holds every directory
// that it mounts over, the program, and a configuration without a network.
func TestPluginArchive(t *testing.T) {
	spec := PluginSpec{
		Name: "p", Description: "d", Build: "b", Program: []byte("program"),
		Entrypoint: []string{"/driver", "--managed"}, Socket: "p.sock", Mounts: "/mnt/p",
		Capabilities: []string{"CAP_SYS_ADMIN"}, Binds: []string{"/var/lib/state"},
	}
	var one, two bytes.Buffer
	assert.NilError(t, spec.archive(&one))
	assert.NilError(t, spec.archive(&two))
	assert.Assert(t, bytes.Equal(one.Bytes(), two.Bytes()), "the same plugin gives other bytes")

	files := map[string]string{}
	for r := tar.NewReader(&one); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		assert.NilError(t, err)
		data, err := io.ReadAll(r)
		assert.NilError(t, err)
		if dir := path.Dir(path.Clean(h.Name)); dir != "." {
			_, ok := files[dir+"/"]
			assert.Assert(t, ok, "%s comes before its directory", h.Name)
		}
		files[h.Name] = string(data)
	}
	assert.Equal(t, files["rootfs/driver"], "program")
	for _, dir := range []string{"rootfs/mnt/p/", "rootfs/var/lib/state/", "rootfs/run/docker/plugins/"} {
		_, ok := files[dir]
		assert.Assert(t, ok, "%s is missing", dir)
	}
	var config types.PluginConfig
	assert.NilError(t, json.Unmarshal([]byte(files["config.json"]), &config))
	assert.Equal(t, config.Network.Type, "")
	assert.Assert(t, config.PidHost)
	assert.Equal(t, config.PropagatedMount, "/mnt/p")
	assert.DeepEqual(t, config.Linux.Capabilities, spec.Capabilities)
	assert.Equal(t, *config.Mounts[0].Source, "/var/lib/state")
	assert.Equal(t, config.Mounts[0].Destination, "/var/lib/state")
	assert.Equal(t, config.Interface.Socket, "p.sock")
}
