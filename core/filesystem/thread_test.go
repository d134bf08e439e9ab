package filesystem

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPrivateMountsAreSeenOnlyInside(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("a mount namespace takes root")
	}
	dir := t.TempDir()
	before, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var file *os.File
	err = InPrivateNamespace(func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "inside"), []byte("seen"), 0o600); err != nil {
			return err
		}
		file, err = os.Open(filepath.Join(dir, "inside"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := os.Stat(filepath.Join(dir, "inside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount is seen outside: %v", err)
	}
	got := make([]byte, 4)
	if _, err := file.Read(got); err != nil || string(got) != "seen" {
		t.Errorf("a descriptor from inside reads %q, %v", got, err)
	}
	if after, _ := os.Readlink("/proc/self/ns/mnt"); after != before {
		t.Errorf("the process itself is in %s now, not in %s", after, before)
	}
}

// A program that was started in a Space sees what is mounted in it later. Nobody outside sees it.
func TestSpaceShowsLaterMountsToItsPrograms(t *testing.T) {
	dir := t.TempDir()
	space, err := NewSpace()
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	program := exec.Command("sh", "-c", "read go; cat "+dir+"/inside")
	stdin, err := program.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	program.Stdout = &said
	if err := space.Do(program.Start); err != nil {
		t.Fatal(err)
	}
	err = space.Do(func() error {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "inside"), []byte("seen"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "inside")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount is seen outside: %v", err)
	}
	if _, err := stdin.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if err := program.Wait(); err != nil || said.String() != "seen" {
		t.Errorf("the program inside read %q, %v", said.String(), err)
	}
	if err := space.Do(func() error { return Unmount(dir) }); err != nil {
		t.Error(err)
	}
}

func TestPrivateReturnsTheError(t *testing.T) {
	want := errors.New("no")
	if err := InPrivateNamespace(func() error { return want }); err != want {
		t.Errorf("got %v", err)
	}
}

// /proc/self shows what the main thread sees, so fn must never run on the main thread.
func TestPrivateNeverTakesTheMainThread(t *testing.T) {
	for range 200 {
		err := InPrivateNamespace(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("on the main thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
