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

// noteRunner runs every program by a shell that first writes the program's arguments and the secret to the file notes.
type noteRunner struct {
	command.Local
	notes string
}

const noteScript = `{ printf '%s ' "$@"; printf '= %s\n' "$RSYNC_SECRET"; } >>"$0"; exec "$@"`

func (w *noteRunner) withNote(c command.Cmd) command.Cmd {
	c.Argv = append([]string{"sh", "-c", noteScript, w.notes}, c.Argv...)
	return c
}

func (w *noteRunner) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	return w.Local.Run(ctx, w.withNote(c))
}

func (w *noteRunner) Stream(ctx context.Context, c command.Cmd, line func(string)) (command.Output, error) {
	return w.Local.Stream(ctx, w.withNote(c), line)
}

// Secrets reach rsync in its environment, and no argument of any process contains one.
func TestSecretIsInEnvironmentOnly(t *testing.T) {
	root, w := t.TempDir(), &noteRunner{notes: filepath.Join(t.TempDir(), "notes")}
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("rewind"), 0o640); err != nil {
		t.Fatal(err)
	}
	b := &Backend{run: w}
	config := backup.Config{
		Options: map[string]any{"path": t.TempDir()}, Scratch: t.TempDir(),
		Environment: map[string]string{"RSYNC_SECRET": "canary-7c1e"},
	}
	stored, err := b.Store(t.Context(), config, backup.Tree{Host: "db1", Set: "snap", Roots: []string{root}},
		func(p backup.Progress) {
			if strings.Contains(p.Label, "canary") {
				t.Errorf("progress: %+v", p)
			}
			paths, _ := filepath.Glob("/proc/[0-9]*/cmdline") // includes what rsync itself starts
			for _, path := range paths {
				argv, _ := os.ReadFile(path) // the process may have ended
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
