package lvmtest_test

import (
	"context"
	"testing"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

// Another LVM command may keep the lock of a group for longer than a set waits.
func TestPrepareInstantSaysThatGroupIsLocked(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "a"}, {Name: "as", Origin: "a"}}})
	l := f.LVM().Locking(func(context.Context, []string, time.Duration) (lvm.Locks, error) {
		return lvm.Locks{}, fault.New(fault.Locked, "another LVM command has kept the lock")
	})
	pairs := []lvm.SnapshotPair{{VG: "vg", Origin: "a", Snapshot: "as", Tag: "mine"}}
	if _, err := l.PrepareInstant(t.Context(), pairs, []string{"vg"}, time.Minute); fault.Of(err).Code != fault.Locked {
		t.Error(err)
	}
}
