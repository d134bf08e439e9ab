package restic_test

import (
	"context"
	"errors"
	"fmt"
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
	"go.pcc.com/rewind/plugins/backends/restic"
)

// unreadableRoot is a directory of sysfs with files that even root cannot read.
const unreadableRoot = "/sys/bus/workqueue"

func TestUnreadableFileIsNamedAndIncomplete(t *testing.T) {
	fx := newFixture(t)
	fx.tree.Roots = append(fx.tree.Roots, unreadableRoot)
	stored, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	f := fault.Of(err)
	if f == nil || f.Code != fault.SourceUnreadable {
		t.Fatalf("got %v", err)
	}
	paths, _ := f.Facts["paths"].([]string)
	slices.Sort(paths)
	if diff := cmp.Diff([]string{unreadableRoot + "/drivers_probe", unreadableRoot + "/uevent"}, paths); diff != "" {
		t.Error(diff)
	}
	list, err := fx.List(t.Context(), fx.config, "db1")
	must(t, err)
	if len(list) != 1 || !list[0].Incomplete || list[0].ID != stored.ID || f.Facts["id"] != stored.ID {
		t.Errorf("lists %+v, stored %+v", list, stored)
	}
}

func TestMissingRootStoresNothing(t *testing.T) {
	fx := newFixture(t)
	fx.tree.Roots = append(fx.tree.Roots, "/nowhere")
	if _, err := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress); !errors.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
	if list, err := fx.List(t.Context(), fx.config, ""); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// expectFault calls the methods that open the repository, and checks that each fails with the code, a hint, and no
// secret.
func (fx *fixture) expectFault(t *testing.T, want fault.Code) {
	t.Helper()
	_, stored := fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	_, checked := fx.Check(t.Context(), fx.config)
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

func TestWrongPasswordIsNamed(t *testing.T) {
	fx := newFixture(t)
	fx.config.Environment["RESTIC_PASSWORD"] = "another"
	fx.expectFault(t, fault.WrongPassword)
}

func TestPasswordFileIsUsed(t *testing.T) {
	fx := newFixture(t)
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte(password+"\n"), 0o600))
	fx.config.Environment = nil
	fx.config.Options["password_file"] = file
	_, err := fx.Check(t.Context(), fx.config)
	must(t, err)
	must(t, os.WriteFile(file, []byte("another"), 0o600))
	fx.expectFault(t, fault.WrongPassword)
}

func TestMissingRepositoryIsNamed(t *testing.T) {
	fx := newFixture(t)
	fx.config.Options["repository"] = filepath.Join(t.TempDir(), "nothing")
	fx.expectFault(t, fault.RepositoryMissing)
	must(t, fx.Settle(t.Context(), fx.config))
}

// `restic check` that reads everything at 1 KiB/s holds an exclusive lock for as long as the test needs it.
func TestLockedRepositoryIsNamed(t *testing.T) {
	fx := newFixture(t)
	fx.store(t)
	other := resticCommand(fx.option("repository"), "--limit-download", "1", "check", "--read-data")
	must(t, other.Start())
	defer func() { _ = other.Wait() }()
	defer other.Process.Kill()
	fx.waitUntilLocked(t)
	fx.expectFault(t, fault.RepositoryLocked)
	if _, err := fx.List(t.Context(), fx.config, ""); err != nil {
		t.Errorf("a lock keeps List from reading: %v", err)
	}
}

// waitUntilLocked waits until there is a lock in the repository.
func (fx *fixture) waitUntilLocked(t *testing.T) {
	t.Helper()
	locks := filepath.Join(fx.option("repository"), "locks")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		entries, err := os.ReadDir(locks)
		must(t, err)
		// restic first writes a lock under a temporary name.
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return len(e.Name()) == 64 }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("restic has not locked the repository")
		}
	}
}

// A restic that this host has started, and that was killed, has left a lock.
func TestSettleRemovesStaleLock(t *testing.T) {
	for _, synchronized := range []bool{true, false} {
		t.Run(fmt.Sprintf("clock synchronized %v", synchronized), func(t *testing.T) {
			restic.SetClockSynchronized(t, synchronized)
			fx := lockedByKilled(t, true)
			must(t, fx.Settle(t.Context(), fx.config))
			fx.checkNothingLeft(t)
			_, err := fx.Check(t.Context(), fx.config)
			must(t, err)
		})
	}
}

// The lock of a restic that this host has not started stays: a machine of the same name may have made it.
func TestSettleKeepsTheLockOfAnUnknownRestic(t *testing.T) {
	fx := lockedByKilled(t, false)
	must(t, fx.Settle(t.Context(), fx.config))
	fx.expectFault(t, fault.RepositoryLocked)
}

// lockedByKilled returns a repository with the lock of a restic that was killed. isNoted says that it was noted as one
// that this host has started.
func lockedByKilled(t *testing.T, isNoted bool) *fixture {
	t.Helper()
	fx := newFixture(t)
	fx.store(t)
	other := resticCommand(fx.option("repository"), "--limit-download", "1", "check", "--read-data")
	must(t, other.Start())
	if isNoted {
		restic.NoteProcess(t, fx.option("repository"), other.Process.Pid)
	}
	fx.waitUntilLocked(t)
	must(t, other.Process.Kill())
	_ = other.Wait()
	fx.expectFault(t, fault.RepositoryLocked)
	return fx
}

func TestFullRepositoryIsRepositoryFull(t *testing.T) {
	fx := newFixture(t)
	small := t.TempDir()
	must(t, unix.Mount("none", small, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(small, 0)) })
	fx.config.Options["repository"] = filepath.Join(small, "repository")
	newRepository(t, fx.option("repository"))
	random, err := os.Open("/dev/urandom")
	must(t, err)
	defer random.Close()
	data := make([]byte, 32<<20)
	if _, err := random.Read(data); err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(fx.tree.Roots[0], "large"), data, 0o600))
	_, err = fx.Store(t.Context(), fx.config, fx.tree, ignoreProgress)
	if !errors.Is(err, fault.RepositoryFull) {
		t.Fatalf("got %v", err)
	}
	list, err := fx.List(t.Context(), fx.config, "")
	if err != nil || len(list) > 0 {
		t.Errorf("after a Store that failed: %v, %v", list, err)
	}
}

func TestUnknownIDIsNotFound(t *testing.T) {
	fx := newFixture(t)
	for _, id := range []string{"", "latest", "../x", strings.Repeat("0", 64), "-h"} {
		err := fx.Present(t.Context(), fx.config, id, ignoreProgress, func(context.Context, backup.Presented) error {
			t.Errorf("%q is presented", id)
			return nil
		})
		if !errors.Is(err, fault.NotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
