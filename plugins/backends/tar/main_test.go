package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/backuptest"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func TestMain(m *testing.M) { backuptest.Main(m, backend{command.Local{}}) }

func TestConformance(t *testing.T) {
	backuptest.Conform(t, func(t *testing.T) backuptest.Fixture {
		path := t.TempDir()
		at := func(path string) backup.Config { return backup.Config{Options: map[string]any{"path": path}} }
		return backuptest.Fixture{
			Backend: backend{command.Local{}}, Config: at(path), Missing: at(filepath.Join(path, "missing")), Whole: true,
			Local: path,
			Lose:  func(id string) error { return os.Remove(filepath.Join(path, id+".tar")) },
			Entry: func(id string) string { return filepath.Join(path, id+".json") },
			Page:  "../../../docs/attributes.md",
		}
	})
}

// The program is built as an administrator would build it, and the host can start it.
func TestProgramStartsAsPlugin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tar")
	build := exec.Command("go", "build", "-trimpath", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "sockets")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(sockets)
	p := plugin.Program{Name: "tar", Argv: []string{path}, SHA256: fmt.Sprintf("%x", sha256.Sum256(program))}
	c, err := plugin.Host{SocketDir: sockets}.Start(t.Context(), p)
	if err != nil {
		t.Fatalf("%v\n%v", err, fault.Of(err).Facts)
	}
	defer c.Close()
	d, err := c.Describe(t.Context(), backup.Config{Options: map[string]any{"path": "/mnt"}})
	if err != nil || d.Name != "tar" {
		t.Errorf("it describes itself as %+v, %v", d, err)
	}

	out, err := exec.Command(path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not started by hand") {
		t.Errorf("started by hand it says %q, %v", out, err)
	}
}

// failingTar is a tar that fails in the middle of an archive.
type failingTar struct{ command.Local }

func (failingTar) Stream(_ context.Context, c command.Cmd, _ func(string)) (command.Output, error) {
	for _, arg := range c.Argv {
		if archive, ok := strings.CutPrefix(arg, "--file="); ok {
			if err := os.WriteFile(archive, []byte("half"), 0o600); err != nil {
				return command.Output{}, err
			}
		}
	}
	return command.Output{}, &command.Error{Argv: c.Argv, Code: 2, Err: errors.New("exit code 2")}
}

// A Store that fails removes at once what it has written, and does not leave that to Settle: it may have filled the
// disk.
func TestFailedStoreLeavesNothing(t *testing.T) {
	path := t.TempDir()
	c := backup.Config{Options: map[string]any{"path": path}}
	_, err := backend{failingTar{}}.Store(t.Context(), c, backup.Tree{Roots: []string{"/dat"}}, func(backup.Progress) {})
	if !errors.Is(err, fault.BackendFailed) {
		t.Errorf("got %v, want backend_failed", err)
	}
	if left, err := os.ReadDir(path); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// store makes a backup of root in path with the real tar.
func store(t *testing.T, path, root string) (backend, backup.Config, backup.Stored) {
	t.Helper()
	b := backend{command.Local{}}
	c := backup.Config{Options: map[string]any{"path": path}}
	tree := backup.Tree{Host: "web", Set: "snap", Time: time.Now(), Roots: []string{root}}
	stored, err := b.Store(t.Context(), c, tree, func(backup.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return b, c, stored
}

// A restore unpacks the archive beside it. Where there is no room for that, it says so, and leaves nothing.
func TestPresentWithoutRoomIsNoSpace(t *testing.T) {
	path, root := t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, 0) })
	if err := os.WriteFile(filepath.Join(root, "file"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b, c, stored := store(t, path, root)
	err := b.Present(t.Context(), c, stored.ID, func(backup.Progress) {}, func(context.Context, backup.Presented) error {
		t.Error("it was presented")
		return nil
	})
	if !errors.Is(err, fault.NoSpace) || fault.Of(err).Hint == "" {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(path, "rewind-presenting-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// An archive that somebody has changed may hold a symbolic link in the place of a root.
func TestPresentRefusesSymbolicLinkAsRoot(t *testing.T) {
	path, root := t.TempDir(), filepath.Join(t.TempDir(), "dat")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	b, c, stored := store(t, path, root)
	if err := errors.Join(os.Remove(root), os.Symlink("/", root)); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(path, stored.ID+".tar")
	if out, err := exec.Command("tar", "-cf", archive, "-C", "/", "."+root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	use := func(_ context.Context, p backup.Presented) error { return fmt.Errorf("presented %v", p.Roots) }
	err := b.Present(t.Context(), c, stored.ID, func(backup.Progress) {}, use)
	if !errors.Is(err, fault.BackendFailed) || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
}

// Every piece of code in docs/backends.md is in this program.
func TestDocumentationShowsThisProgram(t *testing.T) {
	page, err := os.ReadFile("../../../docs/backends.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	blocks := strings.Split(string(page), "```go\n")[1:]
	if len(blocks) < 5 {
		t.Errorf("the page shows %d pieces of it", len(blocks))
	}
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		if !strings.Contains(source.String(), code) {
			t.Errorf("the page shows what is not there:\n%s", code)
		}
	}
}

// The texts that tar writes are turned into the code of a fault (GNU tar: src/create.c, src/misc.c).
func TestStderrBecomesFault(t *testing.T) {
	failed := &command.Error{Argv: []string{"tar"}, Code: 2, Err: fmt.Errorf("exit code 2")}
	previous := "tar: Exiting with failure status due to previous errors"
	for _, test := range []struct {
		lines []string
		code  fault.Code
		paths string
	}{
		{[]string{"tar: ./dat/a: b: Cannot open: Permission denied", previous}, fault.SourceUnreadable, "[/dat/a: b]"},
		{[]string{"tar: ./dat/a: Read error at byte 0, while reading 512 bytes: Input/output error", previous},
			fault.SourceUnreadable, "[/dat/a]"},
		{[]string{"tar: ./dat/a: Cannot stat: No such file or directory", previous}, fault.SourceVanished, "[/dat/a]"},
		{[]string{"tar: ./dat/a: File removed before we read it"}, fault.SourceVanished, "[/dat/a]"},
		{[]string{"tar: ./dat/a: Cannot open: Permission denied",
			"tar: /mnt/x.partial: Cannot write: No space left on device",
			"tar: Error is not recoverable: exiting now"}, fault.RepositoryFull, ""},
		{[]string{"tar: /mnt/x.partial: Wrote only 2048 of 10240 bytes", "tar: Error is not recoverable: exiting now"},
			fault.RepositoryFull, ""},
		{[]string{"tar: ./dat/a: Cannot open: Permission denied", "tar: Error is not recoverable: exiting now"},
			fault.BackendFailed, ""},
		{[]string{previous}, fault.BackendFailed, ""},
	} {
		var s summary
		for _, line := range test.lines {
			s.parseStderr(line)
		}
		f := fault.Of(s.explain(failed))
		if f == nil || f.Code != test.code {
			t.Errorf("%q: got %v, want %s", test.lines, f, test.code)
			continue
		}
		if paths, _ := f.Facts["paths"].([]string); test.paths != "" && fmt.Sprint(paths) != test.paths {
			t.Errorf("%q: paths %q, want %s", test.lines, paths, test.paths)
		}
	}
	changed := summary{}
	changed.parseStderr("tar: ./dat/log: file changed as we read it")
	if err := changed.explain(&command.Error{Code: 1, Err: failed.Err}); err != nil || len(changed.warnings) != 1 {
		t.Errorf("a file that changed: %v %q", err, changed.warnings)
	}
}

// A message to the host has a limit, and a directory that is read live may have any number of sockets.
func TestWarningsAreBounded(t *testing.T) {
	var s summary
	for i := range 100_000 {
		s.parseStderr(fmt.Sprintf("tar: ./run/%d: socket ignored", i))
	}
	got := s.allWarnings()
	if len(got) != maxWarnings+1 || got[0] != "/run/0: socket ignored" || got[maxWarnings] != "and 99900 more of these" {
		t.Errorf("%d warnings: %q ... %q", len(got), got[0], got[len(got)-1])
	}
}
