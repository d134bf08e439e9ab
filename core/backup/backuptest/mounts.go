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

// inPrivate runs a case against a process in a mount namespace of its own, as backends run, after mount has mounted there.
// The suite itself stays outside and sees nothing of the mounts.
func inPrivate(t *testing.T, f Fixture, mount func() error, run func(*bench)) {
	t.Helper()
	err := filesystem.Private(func() error {
		if err := mount(); err != nil {
			return err
		}
		f.Backend = Start(t)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	run(begin(t, f))
}

// mounted checks that a root is what is mounted there, which only the backend sees, and that what else is mounted below
// a root is no part of it.
func mounted(t *testing.T, f Fixture) {
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
	inPrivate(t, f, mount, func(b *bench) {
		if _, err := os.Lstat(filepath.Join(app, "file")); err == nil {
			b.Fatal("the mounts are seen outside, which proves nothing")
		}
		stored := b.store(b.tree(0, dat, wal, app))
		b.presented(stored.ID, func(_ context.Context, p backup.Presented) error {
			for _, root := range []string{dat, wal, app} {
				got, err := os.ReadFile(filepath.Join(p.Roots[root], "file"))
				if err != nil || string(got) != filepath.Base(root) {
					b.Errorf("the root %s holds %q (%v)", root, got, err)
				}
			}
			if left, err := os.ReadDir(filepath.Join(p.Roots[dat], "other")); err != nil || len(left) > 0 {
				b.Errorf("what is mounted below a root and is none holds %v (%v), want an empty directory", left, err)
			}
			return nil
		})
	})
}

// full fills the place that holds the repository with a Store. What was there before stays, and there is room again.
func full(t *testing.T, f Fixture) {
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
	inPrivate(t, f, mount, func(b *bench) {
		dir := b.folder("small", map[string]string{"file": "content"})
		before := b.store(b.tree(0, dir))
		large := b.folder("large", map[string]string{"file": noise(32 << 20)})
		_, err := b.Backend.Store(b.ctx, b.Config, b.tree(1, large), ignore)
		b.wantCode("Store", err, fault.RepositoryFull)
		if got := ids(b.list("")); len(got) != 1 || got[0] != before.ID {
			b.Errorf("listed: %v, want %s", got, before.ID)
		}
		if err := b.Backend.Settle(b.ctx, b.Config); err != nil {
			b.Errorf("Settle: %v", err)
		}
		b.works(2)
	})
}
