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

// A lock that a program holds lasts until its end, also where nobody waits for that any more.
func TestAHeldLockLastsAsLongAsTheProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	locked := func() (*os.File, bool) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	lock, ok := locked()
	if !ok {
		t.Fatal("not locked")
	}
	c := command.Cmd{Argv: []string{"sleep", "2"}, Hold: lock, Changes: true, Limit: time.Millisecond}
	if _, err := (command.Local{}).Run(context.Background(), c); err == nil {
		t.Fatal("it was not left running")
	}
	lock.Close()
	other, ok := locked()
	if ok {
		t.Error("the lock went before the program")
	}
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
		t.Error("the lock outlives the program:", err)
	}
}
