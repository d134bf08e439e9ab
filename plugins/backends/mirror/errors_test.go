package mirror

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
	"go.pcc.com/rewind/core/fault"
)

// The kernel reports a write error to syncfs(2) only on descriptors that were open when the error occurred. So the
// host's directory must be open from the first write on.
func TestHostDirectoryIsOpenDuringStore(t *testing.T) {
	fx := newFixture(t)
	fx.write("file", "content")
	dir, begun, opened := filepath.Join(fx.path, "web"), false, true
	report := func(p backup.Progress) {
		if p.Label == fx.root {
			begun, opened = true, opened && backuptest.Opened(dir)
		}
	}
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Now(), Roots: []string{fx.root}}
	_, err := New().Store(t.Context(), fx.config, tree, report)
	if err != nil || !begun || !opened {
		t.Errorf("while it stored (%v) %s was open: %v, %v", begun, dir, opened, err)
	}
	if backuptest.Opened(dir) {
		t.Error("it is still open")
	}
}

// A Store that fails reports also while it removes what it has made: with millions of files that takes longer than its
// host waits for a silent backend.
func TestRemovalAfterFailedStoreIsReported(t *testing.T) {
	fx := newFixture(t)
	if err := unix.Mount("tmpfs", fx.path, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(fx.path, 0) })
	fx.write("file", strings.Repeat("content", 1<<20))
	reported := false
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Now(), Roots: []string{fx.root}}
	_, err := New().Store(t.Context(), fx.config, tree, func(p backup.Progress) {
		reported = reported || strings.HasPrefix(p.Label, "removing ")
	})
	if !errors.Is(err, fault.RepositoryFull) || !reported {
		t.Errorf("%v; its removal was reported: %v", err, reported)
	}
}
