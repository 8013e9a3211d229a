package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/snaprestore/snaprestore/restore/event"
	"github.com/snaprestore/snaprestore/restore/fault"
)

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func clock() time.Time { return noon }

// operation is all that may happen in one.
func operation() (list []event.Event) {
	at := noon
	say := func(after time.Duration, e event.Event) {
		at = at.Add(after)
		e.Time = at
		list = append(list, e)
	}
	say(0, event.Event{Type: event.Started, Verb: "restore", Message: "restore 4f2a91c07d3e into shop"})
	say(0, event.Event{Type: event.Phase, Phase: "stage"})
	for i := range int64(21) {
		say(200*time.Millisecond, event.Event{Type: event.Progress, Volume: "shop_db",
			Bytes: i * 10_000_000, Files: i * 60, TotalBytes: 200_000_000, TotalFiles: 1200, Done: i == 20})
	}
	for i := range int64(9) {
		say(200*time.Millisecond, event.Event{Type: event.Progress, Volume: "shop_cache", Bytes: i * 32 << 20, Files: 1, Done: i == 8})
	}
	say(0, event.Event{Type: event.Warning, Message: "shop-db-1 runs another image"})
	say(0, event.Event{Type: event.Warning, Message: "shop-db-1 runs another image"})
	say(0, event.Event{Type: event.Skipped, Volume: "shop_tmp", Message: "tmpfs"})
	say(0, event.Event{Type: event.Skipped, Message: "the rest"})
	say(0, event.Event{Type: event.Phase, Phase: "stop"})
	for _, status := range []string{"stopping", "stopped"} {
		for _, name := range []string{"shop-web-1", "shop-db-1"} {
			say(time.Second, event.Event{Type: event.Container, Container: name, Status: status})
		}
	}
	say(0, event.Event{Type: event.Phase, Phase: "a phase of a newer agent"})
	say(0, event.Event{Type: event.Phase, Phase: "done"})
	say(0, event.Event{Type: event.Phase, Phase: "start"})
	say(0, event.Event{Type: event.Container, Container: "shop-db-1", Status: "starting"})
	return list
}

// Lines for logs: each tenth of a volume, each state of a container, what is
// repeated once.
func TestPlain(t *testing.T) {
	var out bytes.Buffer
	d := New(Auto, &out, false, clock)
	for _, e := range operation() {
		d.Event(e)
	}
	d.Pause()
	d.Note("%d volumes", 2)
	assert.Assert(t, !d.Close(nil, errors.New("failed")))
	golden.Assert(t, out.String(), "plain.golden")
}

// One JSON object a line, the last one the result or the error.
func TestJSON(t *testing.T) {
	for _, err := range []error{nil, fault.New(fault.Locked, "restore: held").WithHint("wait")} {
		var out bytes.Buffer
		d := New(JSON, &out, true, clock)
		for _, e := range operation() {
			d.Event(e)
		}
		d.Note("for people only")
		assert.Equal(t, d.Close("id", err), err != nil)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		assert.Equal(t, len(lines), len(operation())) // one repeated, one added
		for _, line := range lines {
			assert.Assert(t, json.Valid([]byte(line)), line)
		}
		last := lines[len(lines)-1]
		if err == nil {
			assert.Equal(t, last, `{"type":"result","time":"2026-11-26T12:00:00Z","result":"id"}`)
		} else {
			assert.Equal(t, last, `{"type":"failed","time":"2026-11-26T12:00:00Z","error":{"kind":"locked","message":"restore: held","hint":"wait"}}`)
		}
	}
}

// Quiet says nothing, and leaves the error to be said.
func TestQuiet(t *testing.T) {
	var out bytes.Buffer
	d := New(Quiet, &out, true, clock)
	for _, e := range operation() {
		d.Event(e)
	}
	d.Note("note")
	d.Pause()
	assert.Assert(t, !d.Close(nil, errors.New("failed")))
	assert.Equal(t, out.String(), "")
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// What stays on the terminal: headings, warnings and each line's last state,
// in this order; whatever was drawn while it moved.
func TestTTYLeavesTheStory(t *testing.T) {
	var out bytes.Buffer
	d := New(TTY, &out, false, clock)
	for _, e := range operation() {
		d.Event(e)
	}
	d.Pause()
	_, err := io.WriteString(&out, "Go ahead? [y/N] y\n")
	assert.NilError(t, err)
	d.Event(event.Event{Type: event.Progress, Time: noon, Volume: "late", Bytes: 5, Files: 1, TotalBytes: 10})
	assert.Assert(t, !d.Close(nil, errors.New("failed")))

	rest := escapes.ReplaceAllString(out.String(), "")
	for _, line := range []string{
		"restore 4f2a91c07d3e into shop\n",
		"Staging the new data\n",
		"shop_db", "200MB, 1200 files in 4.0s",
		"Stopping\n",
		"shop-web-1   stopping → stopped",
		"shop-db-1    stopping → stopped",
		"a phase of a newer agent\n",
		"Starting\n",
		"shop-db-1   starting",
		"Go ahead? [y/N] y\n",
		"late", "5B / 10B  1 file",
	} {
		_, after, found := strings.Cut(rest, line)
		assert.Assert(t, found, "%q is missing in %q", line, rest)
		rest = after
	}
	assert.Equal(t, strings.Count(out.String(), "warning: shop-db-1 runs another image\n"), 1)
	assert.Equal(t, strings.Count(out.String(), "skipped shop_tmp: tmpfs\n"), 1)
}

// Rates and times left come from the events' own times.
func TestTrack(t *testing.T) {
	var tr track
	at := func(s int, bytes, total int64) {
		tr.add(event.Event{Time: noon.Add(time.Duration(s) * time.Second), Bytes: bytes, TotalBytes: total, Files: 3})
	}
	at(0, 0, 100e6)
	assert.Equal(t, tr.moving(), "0B / 100MB  3 files")
	at(4, 40e6, 100e6)
	assert.Equal(t, tr.moving(), "40MB / 100MB  3 files  10MB/s  6.0s left")
	at(8, 80e6, 0) // a total once told is kept
	assert.Equal(t, tr.moving(), "80MB / 100MB  3 files  10MB/s  2.0s left")
	at(12, 130e6, 0) // more than was told
	assert.Equal(t, tr.moving(), "130MB / 100MB  3 files  10.8MB/s")
	assert.Equal(t, tr.done(), "130MB, 3 files in 12s")
}

// --progress takes the five modes and nothing else.
func TestFlag(t *testing.T) {
	for _, word := range []string{"auto", "tty", "plain", "json", "quiet"} {
		var m Mode
		cmd := &cobra.Command{Use: "x"}
		Flag(cmd, &m)
		assert.NilError(t, cmd.ParseFlags([]string{"--progress", word}))
		assert.Equal(t, m, Mode(word))
	}
	var m Mode
	cmd := &cobra.Command{Use: "x"}
	Flag(cmd, &m)
	assert.ErrorContains(t, cmd.ParseFlags([]string{"--progress", "loud"}), "must be one of auto, tty, plain, json, quiet")
	assert.Equal(t, m, Auto)
}
