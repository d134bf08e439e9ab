package backup_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

type options struct {
	Path string `mapstructure:"path"`
	Keep int    `mapstructure:"keep"`
}

// A number may be an int, a float64, a json.Number or a string, depending on the decoder that read it.
func TestDecodeReadsNumbersOfAnyType(t *testing.T) {
	for _, keep := range []any{7, 7.0, json.Number("7"), "7"} {
		o := options{Path: "default", Keep: 1}
		c := backup.Config{Options: map[string]any{"keep": keep, "path": nil}}
		if err := c.Decode(&o); err != nil || o != (options{"default", 7}) {
			t.Errorf("%T: %+v, %v", keep, o, err)
		}
	}
	o := options{Keep: 1}
	if err := (backup.Config{}).Decode(&o); err != nil || o.Keep != 1 {
		t.Errorf("no options: %+v, %v", o, err)
	}
}

func TestDecodeNamesEveryWrongOption(t *testing.T) {
	c := backup.Config{Options: map[string]any{"keep": "many", "paht": "/x", "path": true}}
	f := fault.Of(c.Decode(new(options)))
	if f == nil || f.Code != fault.BadArguments {
		t.Fatalf("got %v", f)
	}
	want := []ansible.Wrong{
		{Name: "path", Problem: "must be text, not yes or no: quote it in YAML"},
		{Name: "keep", Problem: "must be a whole number"},
		{Name: "paht", Problem: "there is no such argument, did you mean path?"},
	}
	if diff := cmp.Diff(want, f.Facts["arguments"]); diff != "" {
		t.Error(diff)
	}
}

func TestEnvironmentIsSortedAndHidden(t *testing.T) {
	c := backup.Config{Environment: map[string]string{"B": "canary", "A": "x=y"}}
	if diff := cmp.Diff([]string{"A=x=y", "B=canary"}, c.Environ()); diff != "" {
		t.Error(diff)
	}
	if got := c.Hide("the canary sings"); strings.Contains(got, "canary") {
		t.Errorf("%q", got)
	}
}

func TestSettleRoomsKeepsLiveRooms(t *testing.T) {
	dir := t.TempDir()
	alive, err := backup.NewRoom(dir)
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, filepath.Base(alive.Path)+"0")
	for _, path := range []string{filepath.Join(dead, "tree"), filepath.Join(dir, "other")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := backup.SettleRooms(dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"other", filepath.Base(alive.Path)}, names(t, dir)); diff != "" {
		t.Errorf("left is not just the room of the living owner: %s", diff)
	}
	if err := os.WriteFile(filepath.Join(alive.Path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := alive.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"other"}, names(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := backup.SettleRooms(filepath.Join(dir, "absent")); err != nil {
		t.Error(err)
	}
	if _, err := backup.NewRoom(filepath.Join(dir, "absent")); !errors.Is(err, fault.NotFound) {
		t.Errorf("room in no directory: %v", err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}
