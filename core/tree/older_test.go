package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk that loses a block of an earlier backup must not keep every later backup from being made.
func TestFileIsStoredAnewIfOlderCopyCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	path := func(tree string) string { return filepath.Join(dir, tree) }
	for _, tree := range []string{"from", "older", "to"} {
		if err := os.Mkdir(path(tree), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path("from/f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Sync(t.Context(), path("from"), path("older"), Options{}); err != nil {
		t.Fatal(err)
	}
	defer func() { readOld = readBlocks }()
	readOld = func(*os.File, []byte, int64) (int, error) { return 0, unix.EIO }
	done, err := Sync(t.Context(), path("from"), path("to"), Options{Link: path("older")})
	if err != nil || done.Linked != 0 || done.Created != 1 {
		t.Fatalf("%+v, %v", done, err)
	}
	if stored, err := os.ReadFile(path("to/f")); string(stored) != "content" {
		t.Errorf("stored %q, %v", stored, err)
	}
	if said := strings.Join(done.Warnings, "\n"); !strings.Contains(said, "from/f: its copy in the earlier backup cannot "+
		"be read (input/output error)") {
		t.Errorf("warnings: %q", said)
	}
}
