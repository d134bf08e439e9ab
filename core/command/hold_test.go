package command_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
)

// The lock on Cmd.Hold lasts until the program ends, even if Run has returned before and the caller has closed the
// file.
func TestHoldKeepsLockUntilProgramEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	tryLock := func() (*os.File, bool) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	lock, ok := tryLock()
	if !ok {
		t.Fatal("the lock is not free")
	}
	c := command.Cmd{Argv: []string{"sleep", "2"}, Hold: lock, Changes: true, Limit: time.Millisecond}
	if _, err := (command.Local{}).Run(context.Background(), c); err == nil {
		t.Fatal("the program was not left running")
	}
	lock.Close()
	other, ok := tryLock()
	if ok {
		t.Error("the lock was released before the program ended")
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Error("the lock was not released after the program ended:", err)
	}
}
