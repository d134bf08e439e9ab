package snapset

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// What was set aside is used where the disk has filled, and for no other failure.
func TestRoomIsForAFullDisk(t *testing.T) {
	for _, c := range []struct {
		err   error
		tries int
	}{
		{fault.New(fault.CommandFailed, "write: %w", unix.ENOSPC), 2},
		{fault.New(fault.Unwritable, "archive"), 2},
		{fault.New(fault.CommandFailed, "another"), 1},
	} {
		room, tries := filepath.Join(t.TempDir(), "room"), 0
		if err := setAside(room); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(room, &st); err != nil || st.Blocks*512 < roomBytes {
			t.Errorf("%d blocks are set aside, %v", st.Blocks, err)
		}
		err := inRoom(room, func() error {
			tries++
			if _, err := os.Stat(room); err != nil {
				return nil // there is room
			}
			return c.err
		})
		if tries != c.tries || (err == nil) != (c.tries == 2) {
			t.Errorf("%v: %d tries, %v", c.err, tries, err)
		}
	}
}

// LVM is given the room for what tells a finished set, its last command, and nothing is left of it.
func TestASetIsFinishedOnAFullDisk(t *testing.T) {
	begin := func() (*world, *Plan) {
		w := server(t)
		return w, w.mustPlan(Want{Set: "s", Volumes: words("/dat", "/pccehr")})
	}
	w, p := begin()
	planned := len(w.Commands())
	if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	last := len(w.Commands()) - planned
	w, p = begin()
	w.FailAt(len(w.Commands())+last, fault.New(fault.Unwritable, "archive: No space left on device"))
	if _, err := take(t.Context(), w.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	if set, err := Find(w.report(), "s"); err != nil || set == nil || !set.Complete() {
		t.Errorf("set %+v, %v", set, err)
	}
	if left, _ := os.ReadDir(lvmDir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
