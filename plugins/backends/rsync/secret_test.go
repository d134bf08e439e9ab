package rsync

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
)

// witness runs every program by a shell that notes first what it was given: its arguments, and the secret.
type witness struct {
	command.Local
	notes string
}

const note = `{ printf '%s ' "$@"; printf '= %s\n' "$RSYNC_SECRET"; } >>"$0"; exec "$@"`

func (w *witness) noting(c command.Cmd) command.Cmd {
	c.Argv = append([]string{"sh", "-c", note, w.notes}, c.Argv...)
	return c
}

func (w *witness) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	return w.Local.Run(ctx, w.noting(c))
}

func (w *witness) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	return w.Local.Stream(ctx, w.noting(c), line)
}

// TestSecrets: the environment reaches rsync, and no argument tells it.
func TestSecrets(t *testing.T) {
	root, w := t.TempDir(), &witness{notes: filepath.Join(t.TempDir(), "notes")}
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("rewind"), 0o640); err != nil {
		t.Fatal(err)
	}
	b := &Backend{run: w}
	config := backup.Config{
		Options: map[string]any{"path": t.TempDir()}, Scratch: t.TempDir(), Environment: map[string]string{"RSYNC_SECRET": "canary-7c1e"},
	}
	stored, err := b.Store(t.Context(), config, backup.Tree{Host: "db1", Set: "snap", Roots: []string{root}}, func(p backup.Progress) {
		if strings.Contains(p.Label, "canary") {
			t.Errorf("progress: %+v", p)
		}
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // what rsync starts itself, too
		for _, path := range paths {
			argv, _ := os.ReadFile(path) // it may have ended
			if strings.Contains(string(argv), "canary") {
				t.Errorf("a secret in argv: %q", argv)
			}
		}
	})
	if err != nil || stored.ID == "" {
		t.Fatalf("%+v, %v", stored, err)
	}
	notes, err := os.ReadFile(w.notes)
	if err != nil {
		t.Fatal(err)
	}
	carried := false
	for _, line := range strings.Split(strings.TrimSpace(string(notes)), "\n") {
		arguments, secret, _ := strings.Cut(line, "= ")
		if strings.Contains(arguments, "canary") {
			t.Errorf("a secret in argv: %s", line)
		}
		carried = carried || strings.Contains(arguments, root) && secret == "canary-7c1e"
	}
	if !carried {
		t.Errorf("no rsync of the tree was given the secret: this proves nothing\n%s", notes)
	}
}
