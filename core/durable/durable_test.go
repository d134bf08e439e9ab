package durable_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"go.pcc.com/rewind/core/durable"
)

// names returns the names of the files in dir, which show whether a temporary file was left behind.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func TestWriteFileIgnoresUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "unit")
	for _, perm := range []os.FileMode{0o644, 0o755, 0o600} {
		content := perm.String()
		if err := durable.WriteFile(path, []byte(content), perm); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != content {
			t.Errorf("read %q, %v", data, err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != perm {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, perm)
		}
	}
	if got := names(t, dir); got != "unit" {
		t.Errorf("the directory holds %q", got)
	}
}

func TestFailedInstallKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "guard")
	if err := durable.WriteFile(path, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	errRead := errors.New("read failed")
	src := io.MultiReader(strings.NewReader("new, but half"), iotest.ErrReader(errRead))
	err := durable.Install(path, src, 0o755)
	if !errors.Is(err, errRead) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "old" {
		t.Errorf("the file now holds %q", data)
	}
	if got := names(t, dir); got != "guard" {
		t.Errorf("the directory holds %q", got)
	}
}

func TestRemoveOfMissingFileIsNoError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "guard")
	if err := durable.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := durable.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := durable.Remove(filepath.Join(dir, "none", "guard")); err != nil {
		t.Errorf("a file in a missing directory: %v", err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the directory holds %q", got)
	}
}

func TestMkdirAllMakesParents(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b")
	for range 2 {
		if err := durable.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{path, filepath.Dir(path)} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", d, info, err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, filepath.Join(file, "below")} {
		if err := durable.MkdirAll(p, 0o700); err == nil {
			t.Errorf("%s was made a directory", p)
		}
	}
}
