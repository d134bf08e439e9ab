package restic_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// sysfs has files that even root cannot read.
const unreadable = "/sys/bus/workqueue"

func TestUnreadableFile(t *testing.T) {
	w := newWorld(t)
	w.tree.Roots = append(w.tree.Roots, unreadable)
	stored, err := w.Store(t.Context(), w.config, w.tree, ignore)
	f := fault.Of(err)
	if f == nil || f.Code != fault.SourceUnreadable {
		t.Fatalf("got %v", err)
	}
	paths, _ := f.Facts["paths"].([]string)
	slices.Sort(paths)
	if diff := cmp.Diff([]string{unreadable + "/drivers_probe", unreadable + "/uevent"}, paths); diff != "" {
		t.Error(diff)
	}
	list, err := w.List(t.Context(), w.config, "db1")
	must(t, err)
	if len(list) != 1 || !list[0].Incomplete || list[0].ID != stored.ID || f.Facts["id"] != stored.ID {
		t.Errorf("lists %+v, stored %+v", list, stored)
	}
}

func TestMissingRootStoresNothing(t *testing.T) {
	w := newWorld(t)
	w.tree.Roots = append(w.tree.Roots, "/nowhere")
	if _, err := w.Store(t.Context(), w.config, w.tree, ignore); !errors.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
	if list, err := w.List(t.Context(), w.config, ""); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// each calls every method that opens the repository.
func (w *world) each(t *testing.T, want fault.Code) {
	t.Helper()
	_, stored := w.Store(t.Context(), w.config, w.tree, ignore)
	_, checked := w.Check(t.Context(), w.config)
	for name, err := range map[string]error{"Check": checked, "Store": stored} {
		f := fault.Of(err)
		if f == nil || f.Code != want || f.Hint == "" {
			t.Errorf("%s: got %v, want %s and a hint", name, err, want)
			continue
		}
		if text := f.Error() + f.Hint + f.Facts["stderr"].(string); strings.Contains(text, password) {
			t.Errorf("%s tells the password: %s", name, text)
		}
	}
}

func TestWrongPassword(t *testing.T) {
	w := newWorld(t)
	w.config.Environment["RESTIC_PASSWORD"] = "another"
	w.each(t, fault.WrongPassword)
}

func TestPasswordFile(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	w.config.Environment = nil
	w.config.Options["password_file"] = file
	_, err := w.Check(t.Context(), w.config)
	must(t, err)
	must(t, os.WriteFile(file, []byte("another"), 0o600))
	w.each(t, fault.WrongPassword)
}

func TestMissingRepository(t *testing.T) {
	w := newWorld(t)
	w.config.Options["repository"] = filepath.Join(t.TempDir(), "nothing")
	w.each(t, fault.RepositoryMissing)
	must(t, w.Settle(t.Context(), w.config))
}

// A check that reads everything at 1 KiB/s holds an exclusive lock for as long as it takes.
func TestLockedRepository(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	other := command(w.option("repository"), "--limit-download", "1", "check", "--read-data")
	must(t, other.Start())
	defer func() { _ = other.Wait() }()
	defer other.Process.Kill()
	w.untilLocked(t)
	w.each(t, fault.RepositoryLocked)
	if _, err := w.List(t.Context(), w.config, ""); err != nil {
		t.Errorf("a lock keeps List from reading: %v", err)
	}
}

// untilLocked waits until a lock is in the repository.
func (w *world) untilLocked(t *testing.T) {
	t.Helper()
	locks := filepath.Join(w.option("repository"), "locks")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		entries, err := os.ReadDir(locks)
		must(t, err)
		// restic writes a lock under another name first
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return len(e.Name()) == 64 }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("restic has not locked the repository")
		}
	}
}

func TestSettleRemovesTheLockOfTheDead(t *testing.T) {
	w := newWorld(t)
	w.store(t)
	dead := command(w.option("repository"), "--limit-download", "1", "check", "--read-data")
	must(t, dead.Start())
	w.untilLocked(t)
	must(t, dead.Process.Kill())
	_ = dead.Wait()
	w.each(t, fault.RepositoryLocked)
	must(t, w.Settle(t.Context(), w.config))
	w.nothingLeft(t)
	_, err := w.Check(t.Context(), w.config)
	must(t, err)
}

func TestFullRepository(t *testing.T) {
	w := newWorld(t)
	small := t.TempDir()
	must(t, unix.Mount("none", small, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	w.config.Options["repository"] = filepath.Join(small, "repository")
	repository(t, w.option("repository"))
	random, err := os.Open("/dev/urandom")
	must(t, err)
	defer random.Close()
	data := make([]byte, 32<<20)
	if _, err := random.Read(data); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(w.tree.Roots[0], "large"), data, 0o600))
	_, err = w.Store(t.Context(), w.config, w.tree, ignore)
	if !errors.Is(err, fault.RepositoryFull) {
		t.Fatalf("got %v", err)
	}
	list, err := w.List(t.Context(), w.config, "")
	if err != nil || len(list) > 0 {
		t.Errorf("after a Store that failed: %v, %v", list, err)
	}
}

func TestUnknownID(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"", "latest", "../x", strings.Repeat("0", 64), "-h"} {
		err := w.Present(t.Context(), w.config, id, ignore, func(context.Context, backup.Presented) error {
			t.Errorf("%q is presented", id)
			return nil
		})
		if !errors.Is(err, fault.NotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
