package project

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
)

// The name is found where docker compose finds it, the first source that has
// one winning.
func TestFind(t *testing.T) {
	const plain = "services: {web: {image: nginx}}\n"
	for _, c := range []struct {
		name  string
		files map[string]string // below the directory
		dir   string            // current directory, below it
		env   map[string]string
		given []string
		want  string
		none  bool
		fails string
	}{
		{name: "nothing", dir: "shop", none: true},
		{name: "directory", dir: "Shop 1", files: map[string]string{"Shop 1/compose.yaml": plain}, want: "shop1"},
		{name: "name", dir: "shop", files: map[string]string{"shop/compose.yml": "name: store\n" + plain}, want: "store"},
		{name: "name with variable", dir: "shop", env: map[string]string{"STAGE": "test"},
			files: map[string]string{"shop/compose.yml": "name: store-${STAGE}\n" + plain}, want: "store-test"},
		{name: "override names it", dir: "shop", want: "other", files: map[string]string{
			"shop/docker-compose.yml": "name: store\n" + plain, "shop/docker-compose.override.yml": "name: other\n"}},
		{name: "parent", dir: "shop/src/deep", files: map[string]string{"shop/compose.yaml": plain, "shop/src/deep/x": ""}, want: "shop"},
		{name: ".env of the parent", dir: "shop/src", want: "fromenv", files: map[string]string{
			"shop/compose.yaml": plain, "shop/.env": "COMPOSE_PROJECT_NAME=fromenv\n", "shop/src/x": ""}},
		{name: ".env", dir: "shop", want: "fromenv", files: map[string]string{
			"shop/compose.yaml": "name: store\n" + plain, "shop/.env": "COMPOSE_PROJECT_NAME=fromenv\n"}},
		{name: "environment before .env", dir: "shop", env: map[string]string{"COMPOSE_PROJECT_NAME": "mine"}, want: "mine", files: map[string]string{
			"shop/compose.yaml": plain, "shop/.env": "COMPOSE_PROJECT_NAME=fromenv\n"}},
		{name: "environment without files", dir: "shop", env: map[string]string{"COMPOSE_PROJECT_NAME": "mine"}, want: "mine"},
		{name: "COMPOSE_FILE", dir: "shop", env: map[string]string{"COMPOSE_FILE": "../other/stack.yaml"}, want: "other", files: map[string]string{
			"shop/compose.yaml": plain, "other/stack.yaml": plain}},
		{name: "file given", dir: "shop", given: []string{"../other/stack.yaml"}, want: "other", files: map[string]string{
			"shop/compose.yaml": plain, "other/stack.yaml": plain}},
		{name: "unset variable elsewhere", dir: "shop", want: "shop", files: map[string]string{
			"shop/compose.yaml": "services: {web: {image: \"nginx:${TAG:?needed}\", env_file: missing.env, extends: {file: missing.yaml, service: web}}}\n"}},
		{name: "included file missing", dir: "shop", want: "shop", files: map[string]string{"shop/compose.yaml": "include: [missing.yaml]\n" + plain}},
		{name: "not YAML", dir: "shop", files: map[string]string{"shop/compose.yaml": "a: [\n"}, fails: "find Compose project"},
		{name: "invalid name", dir: "shop", env: map[string]string{"COMPOSE_PROJECT_NAME": "../etc"}, fails: `invalid name "../etc"`},
		{name: "file missing", dir: "shop", given: []string{"nope.yaml"}, fails: "nope.yaml"},
		{name: "standard input", dir: "shop", given: []string{"-"}, fails: "standard input"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for _, path := range append(keys(c.files), filepath.Join(c.dir, "x")) {
				full := filepath.Join(root, path)
				assert.NilError(t, os.MkdirAll(filepath.Dir(full), 0o755))
				assert.NilError(t, os.WriteFile(full, []byte(c.files[path]), 0o600))
			}
			for _, k := range []string{"COMPOSE_PROJECT_NAME", "COMPOSE_FILE"} {
				t.Setenv(k, "")
				assert.NilError(t, os.Unsetenv(k)) // put back by Setenv's cleanup
			}
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			t.Chdir(filepath.Join(root, c.dir))
			got, err := Find(context.Background(), c.given...)
			switch {
			case c.none:
				assert.Assert(t, errors.Is(err, ErrNone), "%v", err)
			case c.fails != "":
				assert.ErrorContains(t, err, c.fails)
			default:
				assert.NilError(t, err)
				assert.Equal(t, got, c.want)
			}
		})
	}
}

func keys(m map[string]string) (list []string) {
	for k := range m {
		list = append(list, k)
	}
	return list
}
