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

// setProgramDirs replaces the possible directories for copies of the program for the time of the test.
func setProgramDirs(t *testing.T, dirs ...string) {
	t.Helper()
	original := programDirs
	t.Cleanup(func() { programDirs = original })
	programDirs = dirs
}

// A directory is not used if programs cannot be run from it, or if other users could replace a file in it.
func TestProgramDirSkipsUnfitDirectories(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can own the directories of this test")
	}
	dir, err := os.MkdirTemp("/root", "rewind-test") // not t.TempDir, which lies below /tmp, where everybody may write
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

	link := filepath.Join(good, "link") // only root can change the link, but others can write to its target
	if err := os.Symlink(filepath.Join(open, "bin"), link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(open, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	setProgramDirs(t, noexec+"/lib/bin", open+"/bin", link, good+"/lib/rewind")
	if got, err := ProgramDir(); err != nil || got != good+"/lib/rewind" {
		t.Errorf("%s, %v", got, err)
	}
	if err := unix.Mount("tmpfs", good, "tmpfs", 0, "size=64k,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(good, unix.MNT_DETACH) })
	if err := CheckProgram(); !errors.Is(err, fault.NoSpace) || !strings.Contains(fault.Of(err).Hint, "df -h "+good) {
		t.Errorf("in a full directory: %v", err)
	}
	setProgramDirs(t, noexec+"/lib/bin", open+"/bin")
	_, err = ProgramDir()
	if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), noexec+"/lib/bin is mounted noexec") ||
		!strings.Contains(err.Error(), "others than root") || !strings.Contains(fault.Of(err).Hint, "remount,exec") {
		t.Errorf("%v", err)
	}
	if err := CheckProgram(); !errors.Is(err, fault.Unsupported) {
		t.Errorf("%v", err)
	}
}

// The test runs itself again as a program in the directory of the copies.
func TestInstallDoesNotCopyACopy(t *testing.T) {
	if dir := os.Getenv("REWIND_TEST_KEPT"); dir != "" { // this process is the copy
		setProgramDirs(t, dir)
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
	again := exec.Command(program, "-test.run", "^"+t.Name()+"$")
	again.Env = append(os.Environ(), "REWIND_TEST_KEPT="+dir)
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("the directory holds %d programs, want 1", len(files))
	}
}

// The collection's action plugin copies programs to the same directories, under names with the same prefix.
func TestActionPluginUsesTheSameProgramDirs(t *testing.T) {
	plugin, err := os.ReadFile("../../plugins/plugin_utils/program.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`DIRECTORIES = "` + strings.Join(programDirs, " ") + `"`,
		"p=$d/" + programPrefix + "$h;",
		"mktemp $d/" + programPrefix,
	} {
		if !strings.Contains(string(plugin), want) {
			t.Errorf("the plugin does not have %q", want)
		}
	}
}

// The program of a schedule is in use, even if the schedule starts it less often than once in keepPrograms.
func TestRemoveOldProgramsKeepsTheScheduledOne(t *testing.T) {
	dir := t.TempDir()
	setProgramDirs(t, dir)
	scheduleUnit = filepath.Join(dir, "unit")
	t.Cleanup(func() { scheduleUnit = ScheduleUnit })
	old := time.Now().Add(-2 * keepPrograms)
	for _, name := range []string{"rewind-0123456789abcdef", "rewind-fedcba9876543210", "rewind-wrapper.sh"} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o700), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	unit := "ExecStart=" + dir + "/rewind-0123456789abcdef snap_backup @/etc/rewind/%i.json\n"
	if err := os.WriteFile(scheduleUnit, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	removeOldPrograms()
	if _, err := os.Stat(filepath.Join(dir, "rewind-0123456789abcdef")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "rewind-fedcba9876543210")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an old program that no schedule names: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "rewind-wrapper.sh")); err != nil {
		t.Errorf("a file that somebody else has put there: %v", err)
	}
}
