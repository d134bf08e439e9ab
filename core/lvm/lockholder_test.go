package lvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// makeLocks makes lock files in a directory of their own. It locks each of them with flock(2) as how says, and lists
// this process as the holder, and another one as waiting.
func makeLocks(t *testing.T, how map[string]int) lockFiles {
	t.Helper()
	dir, procLocks := t.TempDir(), ""
	for name, lock := range how {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = unix.Flock(int(f.Fd()), lock)
		}
		var stat unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &stat)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		id := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
		procLocks += fmt.Sprintf("1: FLOCK  ADVISORY  WRITE %d %s 0 EOF\n1: -> FLOCK  ADVISORY  READ 1 %s 0 EOF\n",
			os.Getpid(), id, id)
	}
	file := filepath.Join(t.TempDir(), "locks")
	if err := os.WriteFile(file, []byte(procLocks), 0o600); err != nil {
		t.Fatal(err)
	}
	return lockFiles{dir, file}
}

// An LVM command that waits at a prompt holds the lock of its group, and a report waits for it until its limit.
func TestReportNamesWhoHoldsLock(t *testing.T) {
	timeout := &command.Error{Argv: []string{"lvm"}, Code: -1, Err: context.DeadlineExceeded}
	own := fmt.Sprintf("(pid %d)", os.Getpid())
	for name, c := range map[string]struct {
		how    map[string]int
		code   fault.Code
		want   []string
		absent string
	}{
		"of a group": {map[string]int{"V_vg00": unix.LOCK_EX, "V_vg01": unix.LOCK_UN, "P_global": unix.LOCK_SH},
			fault.Locked, []string{"V_vg00, the lock of volume group vg00", own}, "vg01"},
		"the global one": {map[string]int{"P_global": unix.LOCK_EX}, fault.Locked,
			[]string{"P_global, the global lock", own}, "V_"},
		// A command that is to change the group waits for one that reads it. Commands that come later wait for the first.
		"of a group, by a reader": {map[string]int{"V_vg00": unix.LOCK_SH, "V_vg00:aux": unix.LOCK_EX}, fault.Locked,
			[]string{"V_vg00, the lock of volume group vg00", own}, "V_vg00:aux"},
		"none": {map[string]int{"V_vg00": unix.LOCK_SH, "other": unix.LOCK_EX}, fault.Timeout, nil, "vg00"},
	} {
		files := makeLocks(t, c.how)
		l := New(&fixedRunner{err: timeout})
		l.lockFiles = files
		_, err := l.Report(t.Context())
		f := fault.Of(err)
		if f.Code != c.code || strings.Contains(f.Msg, c.absent) {
			t.Errorf("%s: %s: %s", name, f.Code, f.Msg)
		}
		for _, want := range c.want {
			if !strings.Contains(f.Msg, want) {
				t.Errorf("%s: %q does not say %q", name, f.Msg, want)
			}
		}
		if c.want != nil && (!strings.Contains(f.Hint, "fuser -v "+files.dir) || f.Facts["argv"] == nil) {
			t.Errorf("%s: hint %q, facts %v", name, f.Hint, f.Facts)
		}
	}
}

// Only a report that reached its limit has waited for a lock.
func TestOtherFailureOfReportIsNotLocked(t *testing.T) {
	files := makeLocks(t, map[string]int{"V_vg00": unix.LOCK_EX})
	failed := &command.Error{Argv: []string{"lvm"}, Code: -1, Err: context.Canceled}
	l := New(&fixedRunner{err: failed})
	l.lockFiles = files
	if _, err := l.Report(t.Context()); fault.Of(err).Code != fault.Interrupted {
		t.Error(err)
	}
}

func TestAwaitedLockNamesItsHolder(t *testing.T) {
	files := makeLocks(t, map[string]int{"V_vg00": unix.LOCK_EX})
	err := files.fault(context.DeadlineExceeded, "vg00", time.Minute)
	if f := fault.Of(err); f.Code != fault.Locked || !strings.Contains(f.Msg, fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("%s: %s", f.Code, f.Msg)
	}
}

func TestHoldersInProcLocks(t *testing.T) {
	const text = `1: FLOCK  ADVISORY  WRITE 812 00:19:567 0 EOF
1: -> FLOCK  ADVISORY  READ 900 00:19:567 0 EOF
2: FLOCK  ADVISORY  WRITE 813 00:19:568 0 EOF
3: FLOCK  ADVISORY  WRITE 814 00:1a:567 0 EOF
4: OFDLCK ADVISORY  READ -1 00:19:567 203 203
5: FLOCK  ADVISORY  READ 812 00:19:567 0 EOF
6: FLOCK  ADVISORY  READ 815 00:19:567 0 EOF
a new kind of line
`
	if pids := holdersIn(text, "00:19:567"); !slices.Equal(pids, []int{812, 815}) {
		t.Errorf("%v", pids)
	}
}
