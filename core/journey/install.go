package journey

import (
	"encoding/hex"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/trust"
)

// BinDir is the first choice for the directory of the copies of this program that units run. Units run a copy because
// the module itself may lie in a temporary directory, which Ansible removes.
const BinDir = StateDir + "/bin"

// programDirs lists the possible directories for the copies. The first is used from which programs can be run, because
// /var may be mounted noexec.
var programDirs = []string{BinDir, "/usr/local/lib/rewind", "/opt/rewind"}

// keepPrograms is how long an unused copy is kept. A unit that runs it may still need it.
const keepPrograms = 30 * 24 * time.Hour

// ProgramDir returns the directory from which units run copies of this program. If no directory can be used, the fault
// is unsupported and names the reason for each.
func ProgramDir() (string, error) {
	var reasons []string
	for _, dir := range programDirs {
		reason, err := whyUnfit(dir)
		if err != nil {
			return "", err
		}
		if reason == "" {
			return dir, nil
		}
		reasons = append(reasons, dir+" "+reason)
	}
	return "", fault.New(fault.Unsupported,
		"systemd must run a copy of this program, and no directory can hold that copy: %s", strings.Join(reasons, "; ")).
		WithHint("let programs be run from one of them (mount -o remount,exec; /etc/fstab), or mount a file system on %s",
			programDirs[0])
}

// whyUnfit returns the reason why root's programs cannot be kept in dir and run from it; empty if they can.
func whyUnfit(dir string) (string, error) {
	if reason, err := whyUnfitMount(dir); reason != "" || err != nil {
		return reason, err
	}
	changeable := (*trust.Error)(nil)
	err := trust.Dir(dir)
	if errors.As(err, &changeable) {
		return "cannot hold root's programs: " + changeable.Error() + ": " + changeable.Remedy(), nil
	}
	if err != nil {
		return "", fault.New(fault.Internal, "%w", err)
	}
	return "", nil
}

// whyUnfitMount returns the reason why the file system of dir, which need not exist yet, cannot hold programs; empty if
// it can.
func whyUnfitMount(dir string) (string, error) {
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", fault.New(fault.Internal, "%s: %w", dir, err)
	}
	switch {
	case st.Flags&unix.ST_NOEXEC != 0:
		return "is mounted noexec", nil
	case st.Flags&unix.ST_RDONLY != 0:
		return "is mounted read-only", nil
	}
	return "", nil
}

// exists reports whether there is a file at path. It is true if that cannot be found out.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Install copies the running program to ProgramPath, unless it is there already, and returns that path. The copy
// survives a power cut. Install also removes old copies that nothing uses. The faults are those of ProgramDir,
// no_space, and internal.
func Install() (string, error) {
	path, err := ProgramPath()
	if err != nil {
		return "", err
	}
	defer removeOldPrograms()
	if used := time.Now(); os.Chtimes(path, used, used) == nil {
		return path, nil // it exists; removeOldPrograms goes by this time
	}
	self, err := os.Open(ownProgram)
	if err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	defer self.Close()
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", noRoomFault(dir, err)
	}
	if err := durable.Install(path, self, 0o700); err != nil {
		return "", noRoomFault(dir, err)
	}
	return path, nil
}

// ownProgram leads to the running program, even if its file was removed (proc_pid_exe(5)).
const ownProgram = "/proc/self/exe"

// programPrefix begins the names of the copies. A hash of the content follows it, so that each version has its own
// file.
const programPrefix = "rewind-"

// isProgramName reports whether a file of that name is a copy of this program. The kernel adds " (deleted)" to the name
// of a running program whose file was replaced or removed.
func isProgramName(name string) bool {
	return strings.HasPrefix(name, programPrefix) && !strings.HasSuffix(name, " (deleted)")
}

// isStoredName reports whether a program was stored under that name, by Install or by the action plugin, or arrived
// under it. People keep files of other names in these directories, too.
func isStoredName(name string) bool {
	rest, ok := strings.CutPrefix(name, programPrefix)
	if arriving, isNew := strings.CutPrefix(rest, "new."); ok && isNew {
		return !strings.Contains(arriving, ".")
	}
	_, err := hex.DecodeString(rest)
	return ok && err == nil && (len(rest) == 16 || len(rest) == 64)
}

// ProgramPath returns the path of the copy of the running program, which need not exist yet. If the running program is
// itself a copy in that directory, it is its own path. The faults are those of ProgramDir, and internal.
func ProgramPath() (string, error) {
	dir, err := ProgramDir()
	if err != nil {
		return "", err
	}
	own, err := os.Readlink(ownProgram)
	if err == nil && filepath.Dir(own) == dir && isProgramName(filepath.Base(own)) {
		return own, nil
	}
	self, err := os.Open(ownProgram)
	if err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	defer self.Close()
	hash := fnv.New64a() // need not be cryptographic: it only tells versions apart, and only root writes here
	if _, err := io.Copy(hash, self); err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	return filepath.Join(dir, programPrefix+hex.EncodeToString(hash.Sum(nil))), nil
}

// CheckProgram returns the fault that Install would return for want of a directory (unsupported) or of room (no_space).
// It changes nothing.
func CheckProgram() error {
	path, err := ProgramPath()
	if err != nil || exists(path) {
		return err
	}
	info, err := os.Stat(ownProgram)
	if err != nil {
		return fault.New(fault.Internal, "own program: %w", err)
	}
	dir := filepath.Dir(path)
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	free, err := durable.Free(dir)
	if err != nil {
		return fault.New(fault.Internal, "%w", err)
	}
	if free < info.Size() {
		return noRoomFault(dir, unix.ENOSPC)
	}
	return nil
}

// noRoomFault turns an error for want of room into a no_space fault with a hint. It returns other errors as they are.
func noRoomFault(dir string, err error) error {
	if !durable.IsFull(err) {
		return err
	}
	return fault.New(fault.NoSpace, "no room in %s for the copy of this program that systemd must run: %w", dir, err).
		WithHint("make room: df -h %[1]s; df -i %[1]s", dir)
}

// ScheduleUnit is the unit file with which systemd makes scheduled backups. It names one of the copies of this program.
const ScheduleUnit = "/etc/systemd/system/rewind-backup@.service"

// scheduleUnit is ScheduleUnit, except in tests.
var scheduleUnit = ScheduleUnit

// removeOldPrograms removes copies that were not used for keepPrograms, except the one that ScheduleUnit names. It
// removes none while a journal entry is unfinished: an old copy may be what finishes that entry, such as the boot
// guard.
func removeOldPrograms() {
	j, err := journal.Open(JournalDir)
	if err != nil {
		return
	}
	if unfinished, err := j.Unfinished(); err != nil || len(unfinished) > 0 {
		return
	}
	schedule, err := os.ReadFile(scheduleUnit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	for _, dir := range programDirs {
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			info, err := f.Info()
			isOld := err == nil && isStoredName(f.Name()) && time.Since(info.ModTime()) > keepPrograms
			if isOld && !strings.Contains(string(schedule), f.Name()) {
				_ = os.Remove(filepath.Join(dir, f.Name()))
			}
		}
	}
}
