package journey

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// from has the program kept in the first fit one of these directories.
func from(t *testing.T, dirs ...string) {
	t.Helper()
	before := programDirs
	t.Cleanup(func() { programDirs = before })
	programDirs = dirs
}

// The program is not kept where it could not be run, or where others could put theirs in its place.
func TestTheProgramIsKeptWhereItCanBeRun(t *testing.T) {
	base := "/root" // t.TempDir lies below /tmp, where everybody may write
	if os.Geteuid() != 0 {
		t.Fatal("only root can own the directories of this test")
	}
	dir, err := os.MkdirTemp(base, "rewind-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	noexec := filepath.Join(dir, "var")
	open := filepath.Join(dir, "open")
	good := filepath.Join(dir, "good")
	for _, d := range []string{noexec, open, good} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", noexec, "tmpfs", unix.MS_NOEXEC, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(noexec, unix.MNT_DETACH) })

	through := filepath.Join(good, "link") // its own path is root's, and it leads to where others may write
	if err := os.Symlink(filepath.Join(open, "bin"), through); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(open, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	from(t, noexec+"/lib/bin", open+"/bin", through, good+"/lib/rewind")
	if got, err := ProgramDir(); err != nil || got != good+"/lib/rewind" {
		t.Errorf("%s, %v", got, err)
	}
	if err := unix.Mount("tmpfs", good, "tmpfs", 0, "size=64k,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(good, unix.MNT_DETACH) })
	if err := CheckProgram(); !errors.Is(err, fault.NoSpace) || !strings.Contains(fault.Of(err).Hint, "df -h "+good) {
		t.Errorf("there is no room for it: %v", err)
	}
	from(t, noexec+"/lib/bin", open+"/bin")
	_, err = ProgramDir()
	if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), noexec+"/lib/bin is mounted noexec") ||
		!strings.Contains(err.Error(), "others than root") || !strings.Contains(fault.Of(err).Hint, "remount,exec") {
		t.Errorf("%v", err)
	}
	if err := CheckProgram(); !errors.Is(err, fault.Unsupported) {
		t.Errorf("%v", err)
	}
}

// A program that is run from where they are kept is its own copy.
func TestAKeptProgramIsNotCopied(t *testing.T) {
	if dir := os.Getenv("REWIND_TEST_KEPT"); dir != "" { // this is the copy
		from(t, dir)
		path, err := Install()
		if self, _ := os.Readlink(ownProgram); err != nil || path != self {
			t.Errorf("%s, want %s: %v", path, self, err)
		}
		return
	}
	dir, err := os.MkdirTemp("/root", "rewind-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile(ownProgram)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rewind-kept")
	if err := os.WriteFile(program, self, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := exec.Command(program, "-test.run", "^"+t.Name()+"$")
	kept.Env = append(os.Environ(), "REWIND_TEST_KEPT="+dir)
	if out, err := kept.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("%d programs are kept", len(files))
	}
}

// The collection's action plugin keeps programs where the runs do, under names that they know.
func TestTheActionPluginKeepsProgramsWhereTheRunsDo(t *testing.T) {
	plugin, err := os.ReadFile("../../plugins/plugin_utils/program.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`DIRECTORIES = "` + strings.Join(programDirs, " ") + `"`, "p=$d/" + programPrefix + "$h;", "mktemp $d/" + programPrefix,
	} {
		if !strings.Contains(string(plugin), want) {
			t.Errorf("the plugin does not have %q", want)
		}
	}
}

// A schedule's program is in use, however rarely it goes off.
func TestTheProgramOfAScheduleStays(t *testing.T) {
	dir := t.TempDir()
	from(t, dir)
	scheduleUnit = filepath.Join(dir, "unit")
	t.Cleanup(func() { scheduleUnit = ScheduleUnit })
	old := time.Now().Add(-2 * keepBin)
	for _, name := range []string{"rewind-1", "rewind-2"} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), nil, 0o700), os.Chtimes(filepath.Join(dir, name), old, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(scheduleUnit, []byte("ExecStart="+dir+"/rewind-1 snap_backup @/etc/rewind/%i.json\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	removeOld()
	if _, err := os.Stat(filepath.Join(dir, "rewind-1")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "rewind-2")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that nothing names: %v", err)
	}
}
