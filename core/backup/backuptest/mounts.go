package backuptest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// inPrivateNamespace runs a case with the backend in a process and a mount namespace of its own, as in a real run.
// Before that it calls mount in the namespace. The test itself stays outside and does not see these mounts.
func inPrivateNamespace(t *testing.T, f Fixture, mount func() error, run func(*testCase)) {
	t.Helper()
	err := filesystem.InPrivateNamespace(func() error {
		if err := mount(); err != nil {
			return err
		}
		f.Backend = Start(t)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	run(newCase(t, f))
}

// mountedRoots checks that the backend stores what is mounted at a root, which only the backend sees, and that it does
// not store what is mounted below a root and is no root.
func mountedRoots(t *testing.T, f Fixture) {
	dat, app := t.TempDir(), t.TempDir()
	wal, other := filepath.Join(dat, "wal"), filepath.Join(dat, "other")
	mount := func() error {
		for _, dir := range []string{dat, wal, other, app} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte(filepath.Base(dir)), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
	inPrivateNamespace(t, f, mount, func(tc *testCase) {
		if _, err := os.Lstat(filepath.Join(app, "file")); err == nil {
			tc.Fatal("the mounts are seen outside, so the test proves nothing")
		}
		stored := tc.store(tc.tree(0, dat, wal, app))
		tc.present(stored.ID, func(_ context.Context, p backup.Presented) error {
			for _, root := range []string{dat, wal, app} {
				got, err := os.ReadFile(filepath.Join(p.Roots[root], "file"))
				if err != nil || string(got) != filepath.Base(root) {
					tc.Errorf("the file in the root %s has the content %q (%v)", root, got, err)
				}
			}
			if left, err := os.ReadDir(filepath.Join(p.Roots[dat], "other")); err != nil || len(left) > 0 {
				tc.Errorf("the mount point of another mount below a root has %v (%v), want an empty directory", left, err)
			}
			return nil
		})
	})
}

// fullDisk fills the file system of the repository with a Store. The earlier backup must stay, and after a Settle there
// must be room again.
func fullDisk(t *testing.T, f Fixture) {
	mount := func() error {
		small := t.TempDir()
		if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=16m"); err != nil {
			return err
		}
		if err := os.CopyFS(small, os.DirFS(f.Local)); err != nil {
			return err
		}
		return unix.Mount(small, f.Local, "", unix.MS_BIND, "")
	}
	inPrivateNamespace(t, f, mount, func(tc *testCase) {
		dir := tc.makeRoot("small", map[string]string{"file": "content"})
		kept := tc.store(tc.tree(0, dir))
		large := tc.makeRoot("large", map[string]string{"file": incompressible(32 << 20)})
		_, err := tc.Backend.Store(tc.ctx, tc.Config, tc.tree(1, large), ignoreProgress)
		tc.wantCode("Store", err, fault.RepositoryFull)
		if got := ids(tc.list("")); len(got) != 1 || got[0] != kept.ID {
			tc.Errorf("listed: %v, want %s", got, kept.ID)
		}
		if err := tc.Backend.Settle(tc.ctx, tc.Config); err != nil {
			tc.Errorf("Settle: %v", err)
		}
		tc.checkUsable(2)
	})
}
