package restic

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/backup"
)

// restic rewrites a snapshot under all its tags, time and paths, and only Original tells. What lacks files must not be
// the latest, nor count as kept; what `restic tag` or `restic copy` made is still whole.
func TestSnapshotThatLacksFilesIsDamaged(t *testing.T) {
	trees := map[string]string{"first": "whole"}
	for name, c := range map[string]struct {
		is   snapshot
		want string
	}{
		"as it was stored":        {snapshot{ID: "first", Tree: "whole"}, ""},
		"tagged or copied":        {snapshot{ID: "second", Original: "first", Tree: "whole"}, ""},
		"rewritten with --forget": {snapshot{ID: "second", Original: "first", Tree: "part"}, whyOtherFiles},
		"rewritten beside the original": {
			snapshot{Original: "first", Tree: "whole", Tags: []string{"rewrite"}}, whyOtherFiles,
		},
		"repaired beside the original": {
			snapshot{Original: "first", Tree: "part", Tags: []string{"repaired"}}, whyOtherFiles,
		},
		"changed where nobody listed it":     {snapshot{ID: "third", Original: "unknown", Tree: "whole"}, whyNotKnown},
		"a tag of the user with such a name": {snapshot{ID: "first", Tree: "whole", Tags: []string{"rewrite"}}, ""},
		"tagged, then rewritten with a mark": {snapshot{ID: "third", Original: "second", Tree: "whole"}, whyNotKnown},
	} {
		got := backups([]snapshot{c.is}, nil, trees)[0]
		if got.Damaged != c.want || got.Incomplete != (c.want != "") {
			t.Errorf("%s: damaged %q, incomplete %v", name, got.Damaged, got.Incomplete)
		}
	}
}

// A backup that `restic tag` changed is complete on a server that has listed it before. Elsewhere nobody knows, and it
// can still be restored by its ID.
func TestTaggedBackupIsCompleteWhereItWasListed(t *testing.T) {
	c, tree := newRepository(t)
	tree.Roots = tree.Roots[:1]
	if _, err := New().Store(t.Context(), c, tree, func(backup.Progress) {}); err != nil {
		t.Fatal(err)
	}
	listed := func() backup.Stored {
		t.Helper()
		list, err := New().List(t.Context(), c, tree.Host)
		if err != nil || len(list) != 1 {
			t.Fatalf("listed: %+v, %v", list, err)
		}
		return list[0]
	}
	listed()
	cmd := exec.Command("restic", "--no-cache", "-r", c.Options["repository"].(string), "tag", "--add", "mine")
	cmd.Env = append(cmd.Environ(), "RESTIC_PASSWORD=canary-4f1d")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for range 2 {
		if got := listed(); got.Incomplete || got.Damaged != "" {
			t.Errorf("where it was listed: %+v", got)
		}
	}
	before := notesDir
	t.Cleanup(func() { notesDir = before })
	notesDir = filepath.Join(t.TempDir(), "of-another-server")
	got := listed()
	if !got.Incomplete || !strings.Contains(got.Damaged, "restore_id=ID") {
		t.Errorf("on another server: %+v", got)
	}
	presented := false
	err := New().Present(t.Context(), c, got.ID, func(backup.Progress) {}, func(context.Context, backup.Presented) error {
		presented = true
		return nil
	})
	if err != nil || !presented {
		t.Errorf("by its ID: %v", err)
	}
}
