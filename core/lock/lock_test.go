package lock

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSharedAndExclusive(t *testing.T) {
	for name, path := range map[string]string{"file": filepath.Join(t.TempDir(), "record"), "directory": t.TempDir()} {
		if name == "file" {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		first, err1 := Shared(path)
		second, err2 := Shared(path)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatalf("%s: two that read: %v", name, err)
		}
		if _, err := Exclusive(path); !errors.Is(err, ErrHeld) {
			t.Errorf("%s: one that writes beside two that read: %v", name, err)
		}
		first.Release()
		second.Release()
		writer, err := Exclusive(path)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := Shared(path); !errors.Is(err, ErrHeld) {
			t.Errorf("%s: one that reads beside one that writes: %v", name, err)
		}
		writer.Release()
	}
	for _, take := range []func(string) (*Lock, error){Shared, Exclusive} {
		path := filepath.Join(t.TempDir(), "none")
		if _, err := take(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of what does not exist: %v", err)
		}
	}
}

func TestFileIsMadeAndNoLink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, ".lock"), filepath.Join(dir, "link")
	l, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := File(path); !errors.Is(err, ErrHeld) {
		t.Errorf("locked twice: %v", err)
	}
	l.Release()
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := File(link); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
}

func TestWaitEndsWithTheLockOrTheContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".lock")
	first, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), pollInterval)
	defer cancel()
	if _, err := Wait(ctx, path, File); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("held by another: %v", err)
	}
	time.AfterFunc(pollInterval, first.Release)
	second, err := Wait(t.Context(), path, File)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

// A child between fork and exec has such a copy of the descriptor.
func TestReleaseDespiteACopyOfTheDescriptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".lock")
	l, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(copyOf(t, path))
	l.Release()
	if again, err := File(path); err != nil {
		t.Errorf("still locked: %v", err)
	} else {
		again.Release()
	}
}

// copyOf returns a copy of the descriptor by which this process has the file at path open.
func copyOf(t *testing.T, path string) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if to, _ := os.Readlink("/proc/self/fd/" + name.Name()); to != path {
			continue
		}
		fd, err := strconv.Atoi(name.Name())
		if err != nil {
			t.Fatal(err)
		}
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return copied
	}
	t.Fatalf("%s is not open", path)
	return -1
}
