package engineapi_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"gotest.tools/v3/assert"

	"github.com/snaprestore/snaprestore/cliplugin/engineapi"
	"github.com/snaprestore/snaprestore/restore"
)

// original is a container with something of all that a twin has, or has not.
const original = `{
	"Id": "0123456789abcdef", "Name": "/shop-db-1", "Image": "sha256:1",
	"State": {"Status": "running"},
	"Config": {
		"Hostname": "0123456789ab", "User": "postgres", "Env": ["PGPASSWORD=secret"], "Cmd": ["postgres"], "Entrypoint": ["/entry"],
		"WorkingDir": "/w", "Labels": {"com.docker.compose.project": "shop"}, "ExposedPorts": {"5432/tcp": {}},
		"Healthcheck": {"Test": ["CMD", "pg_isready"], "Retries": 3}, "StopSignal": "SIGINT"
	},
	"HostConfig": {
		"NetworkMode": "shop_default", "PortBindings": {"5432/tcp": [{"HostPort": "5432"}]}, "RestartPolicy": {"Name": "always"},
		"AutoRemove": true, "Binds": ["shop_db:/data"], "Memory": 1048576, "CapDrop": ["ALL"], "CapAdd": ["CHOWN"],
		"ReadonlyRootfs": true, "Devices": [{"PathOnHost": "/dev/sda"}], "CgroupParent": "/shop", "Tmpfs": {"/tmp": ""},
		"ExtraHosts": ["mail:10.0.0.1"], "Dns": ["10.0.0.2"], "LogConfig": {"Type": "syslog"},
		"Mounts": [{"Type": "volume", "Source": "shop_files", "Target": "/files", "VolumeOptions": {"Subpath": "a"}}, {"Type": "tmpfs", "Target": "/run"}]
	}
}`

// created is the body of a request to make a container.
type created struct {
	container.Config
	HostConfig       container.HostConfig
	NetworkingConfig network.NetworkingConfig
}

// A twin runs what its original runs, with its limits, and has nothing by which
// it could be taken for it or reach what it reaches.
func TestATwinRunsTheSameAndReachesNothing(t *testing.T) {
	var got created
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.45")
		w.Header().Set("Content-Type", "application/json")
		switch path := strings.TrimPrefix(r.URL.Path, "/v1.45"); path {
		case "/containers/c1/json":
			_, _ = io.WriteString(w, original)
		case "/images/sha256:1/json":
			_, _ = io.WriteString(w, `{"Id": "sha256:1", "Config": {"Labels": {"com.docker.compose.project": "shop", "maintainer": "x"}}}`)
		case "/containers/create":
			assert.Check(t, json.NewDecoder(r.Body).Decode(&got))
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"Id": "twin"}`)
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	c, err := engineapi.Dial(socket)
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })

	id, err := c.CreateTwin(t.Context(), restore.Twin{
		Of: "c1", Name: "twin-1", Labels: map[string]string{"ours": "1"}, Network: "apart", Aliases: []string{"db"},
		Mounts: []restore.Mount{
			{Type: "volume", Name: "trial", Target: "/data"}, {Type: "volume", Name: "other", Target: "/files"},
			{Type: "volume", Target: "/cache"}, {Type: "bind", Source: "/etc/app", Target: "/etc/app", ReadOnly: true},
		},
	})
	assert.NilError(t, err)
	assert.Equal(t, id, "twin")

	// What it runs.
	assert.Equal(t, got.Image, "sha256:1")
	assert.DeepEqual(t, []string(got.Cmd), []string{"postgres"})
	assert.DeepEqual(t, []string(got.Entrypoint), []string{"/entry"})
	assert.DeepEqual(t, got.Env, []string{"PGPASSWORD=secret"})
	assert.Equal(t, got.User, "postgres")
	assert.Equal(t, got.Healthcheck.Retries, 3)
	assert.Equal(t, got.HostConfig.Memory, int64(1<<20))
	assert.Equal(t, got.HostConfig.ReadonlyRootfs, true)
	assert.DeepEqual(t, []string(got.HostConfig.CapDrop), []string{"ALL"})
	// What it is not.
	assert.Equal(t, got.Hostname, "", "it was made of the original's id")
	assert.DeepEqual(t, got.Labels, map[string]string{"ours": "1", "com.docker.compose.project": ""})
	assert.Equal(t, len(got.ExposedPorts)+len(got.HostConfig.PortBindings), 0)
	assert.Equal(t, string(got.HostConfig.RestartPolicy.Name), "no")
	assert.Equal(t, got.HostConfig.AutoRemove, false)
	assert.Equal(t, len(got.HostConfig.Devices)+len(got.HostConfig.ExtraHosts)+len(got.HostConfig.DNS)+len(got.HostConfig.Binds), 0)
	assert.Equal(t, got.HostConfig.CgroupParent, "")
	assert.Equal(t, got.HostConfig.LogConfig.Type, "json-file")
	assert.Equal(t, string(got.HostConfig.NetworkMode), "apart")
	assert.DeepEqual(t, got.NetworkingConfig.EndpointsConfig["apart"].Aliases, []string{"db"})
	// Where its data is.
	assert.DeepEqual(t, got.HostConfig.Tmpfs, map[string]string{"/tmp": ""})
	assert.DeepEqual(t, got.HostConfig.Mounts, []mount.Mount{
		{Type: "tmpfs", Target: "/run"},
		{Type: "volume", Source: "trial", Target: "/data", VolumeOptions: &mount.VolumeOptions{NoCopy: true}},
		{Type: "volume", Source: "other", Target: "/files", VolumeOptions: &mount.VolumeOptions{NoCopy: true, Subpath: "a"}},
		{Type: "volume", Target: "/cache"},
		{Type: "bind", Source: "/etc/app", Target: "/etc/app", ReadOnly: true, BindOptions: &mount.BindOptions{NonRecursive: true}},
	})
}

// What a container has of the host is named.
func TestWhatAContainerHasOfTheHostIsTold(t *testing.T) {
	for text, want := range map[string]string{
		`{"NetworkMode": "bridge", "CapAdd": ["NET_BIND_SERVICE"]}`: "",
		`{"Privileged": true}`:                                                  "all privileges",
		`{"NetworkMode": "host"}`:                                               "the host's network",
		`{"PidMode": "host", "IpcMode": "host"}`:                                "the host's processes, the host's IPC",
		`{"UTSMode": "host", "UsernsMode": "host"}`:                             "the host's name, the host's users",
		`{"IpcMode": "container:x"}`:                                            "the namespaces of another container",
		`{"CapAdd": ["CAP_SYS_ADMIN"]}`:                                         "capabilities over the host",
		`{"Devices": [{"PathOnHost": "/dev/sda"}]}`:                             "devices of the host",
		`{"DeviceRequests": [{"Driver": "nvidia", "Capabilities": [["gpu"]]}]}`: "devices of the host",
	} {
		var host map[string]any
		assert.NilError(t, json.Unmarshal([]byte(text), &host))
		c := engine(t, "1.45", map[string]answer{"GET /containers/x/json": {200, map[string]any{"Id": "x", "HostConfig": host}}})
		got, err := c.Container(t.Context(), "x")
		assert.NilError(t, err)
		assert.Equal(t, strings.Join(got.Reach, ", "), want, text)
	}
}
