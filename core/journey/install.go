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

// BinDir holds the programs that units run: the module itself may lie in a temporary folder that is gone by then.
const BinDir = State + "/bin"

// programDirs are the directories for them. The first is used that programs can be run from: /var may be mounted
// noexec.
var programDirs = []string{BinDir, "/usr/local/lib/rewind", "/opt/rewind"}

// keepBin is how long a program that is no longer used stays: a unit that was started from it may still need it.
const keepBin = 30 * 24 * time.Hour

// ProgramDir is the directory that units run this program from. unsupported if there is none, with the reason for each.
func ProgramDir() (string, error) {
	var why []string
	for _, dir := range programDirs {
		reason, err := unfit(dir)
		if err != nil {
			return "", err
		}
		if reason == "" {
			return dir, nil
		}
		why = append(why, dir+" "+reason)
	}
	return "", fault.New(fault.Unsupported, "a unit of systemd is to run a copy of this program, which has no place: %s",
		strings.Join(why, "; ")).
		WithHint("let programs be run from one of them (mount -o remount,exec; /etc/fstab), or mount a file system on %s",
			programDirs[0])
}

// unfit says why no program of root's can be kept in a directory and run from it: empty if it can be.
func unfit(dir string) (string, error) {
	if reason, err := unfitMount(dir); reason != "" || err != nil {
		return reason, err
	}
	changeable := (*trust.Error)(nil)
	err := trust.Dir(dir)
	if errors.As(err, &changeable) {
		return "is no place for root's programs: " + changeable.Error() + ": " + changeable.Remedy(), nil
	}
	if err != nil {
		return "", fault.New(fault.Internal, "%w", err)
	}
	return "", nil
}

func unfitMount(dir string) (string, error) {
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Install puts a copy of the running program where it survives a power cut and returns its path.
func Install() (string, error) {
	path, err := ProgramPath()
	if err != nil {
		return "", err
	}
	defer removeOld()
	if now := time.Now(); os.Chtimes(path, now, now) == nil {
		return path, nil
	}
	self, err := os.Open(ownProgram)
	if err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	defer self.Close()
	dir := filepath.Dir(path)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return "", noRoom(dir, err)
	}
	if err := durable.Install(path, self, 0o700); err != nil {
		return "", noRoom(dir, err)
	}
	return path, nil
}

const ownProgram = "/proc/self/exe"

// programPrefix begins the names of the programs that are kept. What follows tells versions apart.
const programPrefix = "rewind-"

// isProgram is false for one that was replaced or removed while it ran, which the kernel names so.
func isProgram(name string) bool {
	return strings.HasPrefix(name, programPrefix) && !strings.HasSuffix(name, " (deleted)")
}

// ProgramPath is where the copy of the running program lies, or is to lie. The program may be that copy.
func ProgramPath() (string, error) {
	dir, err := ProgramDir()
	if err != nil {
		return "", err
	}
	if self, err := os.Readlink(ownProgram); err == nil && filepath.Dir(self) == dir && isProgram(filepath.Base(self)) {
		return self, nil
	}
	self, err := os.Open(ownProgram)
	if err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	defer self.Close()
	hash := fnv.New64a() // tells versions apart, no more: only root writes here
	if _, err := io.Copy(hash, self); err != nil {
		return "", fault.New(fault.Internal, "own program: %w", err)
	}
	return filepath.Join(dir, programPrefix+hex.EncodeToString(hash.Sum(nil))), nil
}

// CheckProgram says whether a journey could begin: there is a place to run this program from, with room for it.
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
		return noRoom(dir, unix.ENOSPC)
	}
	return nil
}

// noRoom says what to do where the program cannot be copied for want of room.
func noRoom(dir string, err error) error {
	if !durable.Full(err) {
		return err
	}
	return fault.New(fault.NoSpace, "no room in %s for the copy of this program that a unit is to run: %w", dir, err).
		WithHint("make room: df -h %[1]s; df -i %[1]s", dir)
}

// ScheduleUnit is the unit by which systemd makes backups on its own. It names a program that is kept.
const ScheduleUnit = "/etc/systemd/system/rewind-backup@.service"

// scheduleUnit is that; tests have one of their own.
var scheduleUnit = ScheduleUnit

// removeOld removes old programs, unless something is unfinished: what finishes it, such as a boot guard, may be one of
// them, however long ago it was begun. One that a schedule names stays.
func removeOld() {
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
			if err == nil && isProgram(f.Name()) && time.Since(info.ModTime()) > keepBin && !strings.Contains(string(schedule), f.Name()) {
				_ = os.Remove(filepath.Join(dir, f.Name()))
			}
		}
	}
}
