package snapset

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/fault"
)

// The reserve is used if the disk is full, and for no other failure.
func TestReserveIsUsedOnlyOnFullDisk(t *testing.T) {
	for _, c := range []struct {
		err   error
		tries int
	}{
		{fault.New(fault.CommandFailed, "write: %w", unix.ENOSPC), 2},
		{fault.New(fault.Unwritable, "archive"), 2},
		{fault.New(fault.CommandFailed, "another"), 1},
	} {
		room, tries := filepath.Join(t.TempDir(), "room"), 0
		if err := createReserve(room); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(room, &st); err != nil || st.Blocks*512 < reserveBytes {
			t.Errorf("%d blocks are set aside, %v", st.Blocks, err)
		}
		err := runWithReserve(room, func() error {
			tries++
			if _, err := os.Stat(room); err != nil {
				return nil // the reserve is gone: there is room
			}
			return c.err
		})
		if tries != c.tries || (err == nil) != (c.tries == 2) {
			t.Errorf("%v: %d tries, %v", c.err, tries, err)
		}
	}
}

// The last command, which makes the snapshots a set, can use the reserve, and no reserve file is left.
func TestTakeFinishesSetOnFullDisk(t *testing.T) {
	begin := func() (*testServer, *Plan) {
		srv := newServer(t)
		return srv, srv.mustPlan(SetSpec{Set: "s", Volumes: volumesNamed("/dat", "/pccehr")})
	}
	srv, p := begin()
	planned := len(srv.Commands())
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	last := len(srv.Commands()) - planned
	srv, p = begin()
	srv.FailAt(len(srv.Commands())+last, fault.New(fault.Unwritable, "archive: No space left on device"))
	if _, err := take(t.Context(), srv.lvm, p, time.Minute); err != nil {
		t.Fatal(err)
	}
	if set, err := Find(srv.report(), "s"); err != nil || set == nil || !set.Complete() {
		t.Errorf("set %+v, %v", set, err)
	}
	if left, _ := os.ReadDir(srv.lvm.Dir()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
