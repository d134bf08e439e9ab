package restore

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/snapset"
)

const mib = 1 << 20

// snapshotted is a server with one volume of 1 GiB, a snapshot of it with little COW space, and so much free space.
func snapshotted(t *testing.T, free int64) (*lvmtest.Fake, *space) {
	t.Helper()
	const cow = 32 * mib
	f := lvmtest.New(lvmtest.Group{
		Name: "vg00", Size: 1024*mib + cow + free, ExtentSize: 4 * mib,
		Volumes: []lvmtest.Volume{
			{Name: "dat", Size: 1024 * mib},
			{Name: "dat_restore", Size: cow, Origin: "dat"},
		},
	})
	l := lvm.New(f)
	report, err := l.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	origin, _ := report.Volume("vg00", "dat")
	snapshot, _ := report.Volume("vg00", "dat_restore")
	group, _ := report.Group("vg00")
	own := &snapset.Own{Parts: []snapset.Part{{Target: snapset.Target{LV: origin, Group: group}, Snapshot: snapshot}}}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return f, &space{lvm: l, own: own, points: &points{dirs: []*os.File{dir}}, rooms: make([]room, 1)}
}

// state is what the fake's kernel says of the snapshot.
func state(t *testing.T, s *space) lvm.SnapshotStatus {
	t.Helper()
	status, err := s.lvm.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range status["vg00-dat_restore"] {
		if st, ok := target.Snapshot(); ok {
			return st
		}
	}
	t.Fatal("no snapshot in the kernel's table")
	return lvm.SnapshotStatus{}
}

// fillUp writes through the gate, in pieces of 512 KiB, until it says no or all is written.
func fillUp(t *testing.T, f *lvmtest.Fake, s *space, bytes int64) (written int64, err error) {
	t.Helper()
	const piece = 512 << 10
	for written < bytes {
		if err := s.gate(t.Context(), 0, piece); err != nil {
			return written, err
		}
		f.Write("vg00/dat", piece) // the fake fills a COW by its origin; a write to the snapshot itself does it alike
		written += piece
	}
	return written, nil
}

func TestCOWIsExtendedBeforeItFills(t *testing.T) {
	f, s := snapshotted(t, 1024*mib)
	if _, err := fillUp(t, f, s, 600*mib); err != nil {
		t.Fatal(err)
	}
	if st := state(t, s); st.Lost() || st.TotalBytes() < 600*mib {
		t.Errorf("after 600 MiB the snapshot is %+v", st)
	}
}

func TestWithoutRoomTheGateClosesBeforeTheCOWIsFull(t *testing.T) {
	f, s := snapshotted(t, 64*mib)
	written, err := fillUp(t, f, s, 600*mib)
	if !errors.Is(err, fault.NoSpace) {
		t.Fatalf("after %d bytes: %v", written, err)
	}
	if fault.Of(err).Hint == "" {
		t.Error("no hint")
	}
	st := state(t, s)
	if st.Lost() {
		t.Fatal("the snapshot overflowed")
	}
	if written < 80*mib {
		t.Errorf("it ends after %d MiB of %d", written/mib, st.TotalBytes()/mib)
	}
	if left := st.TotalBytes() - st.UsedBytes(); left < floor/2 {
		t.Errorf("%d bytes were left for what the file system still writes", left)
	}
}

// While the gate is not asked, what the server writes to the origin fills the COW too.
func TestWritesToTheOriginExtendToo(t *testing.T) {
	f, s := snapshotted(t, 1024*mib)
	for range 40 {
		f.Write("vg00/dat", 4*mib)
		if err := s.lookAtAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if st := state(t, s); st.Lost() || st.TotalBytes() < 160*mib {
		t.Errorf("after 160 MiB of the origin's the snapshot is %+v", st)
	}
}

// A look from outside must not give back room for what is written and not flushed: the kernel does not count it yet.
func TestALookNeverRaisesWhatMayBeWritten(t *testing.T) {
	_, s := snapshotted(t, 0)
	if err := s.gate(t.Context(), 0, mib); err != nil {
		t.Fatal(err)
	}
	before := s.rooms[0].left
	for range 10 { // accepted, and still in memory
		if err := s.gate(t.Context(), 0, 512<<10); err != nil {
			t.Fatal(err)
		}
		if err := s.lookAtAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.rooms[0].left > before-10*(512<<10) {
		t.Errorf("%d bytes may be written after 5 MiB of %d", s.rooms[0].left, before)
	}
}

func TestALostSnapshotEndsTheRestore(t *testing.T) {
	f, s := snapshotted(t, 0)
	f.Fill("vg00/dat_restore", 100)
	if err := s.gate(t.Context(), 0, 4096); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("got %v", err)
	}
}

// What reads an overflowed snapshot gets an I/O error; the cause of that is what is said.
func TestAnIOErrorOfALostSnapshotIsNamedSo(t *testing.T) {
	f, s := snapshotted(t, 0)
	if got := s.cause(t.Context(), unix.EIO); !errors.Is(got, unix.EIO) {
		t.Errorf("of a snapshot that is well: %v", got)
	}
	f.Fill("vg00/dat_restore", 100)
	if got := s.cause(t.Context(), unix.EIO); !errors.Is(got, fault.SnapshotInvalid) {
		t.Errorf("of one that has overflowed: %v", got)
	}
}

// overflowing is LVM where a snapshot overflows while it is made larger: it cannot be suspended then, and LVM says so.
type overflowing struct{ *lvmtest.Fake }

func (o overflowing) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if !slices.Contains(c.Argv, "lvextend") {
		return o.Fake.Run(ctx, c)
	}
	o.Fill("vg00/dat_restore", 100)
	return command.Output{}, &command.Error{Argv: c.Argv, Code: 5, Stderr: "  Unable to suspend vg00-dat_restore (253:4)\n"}
}

func TestASnapshotThatOverflowsBeforeItIsExtendedIsNamedSo(t *testing.T) {
	f, s := snapshotted(t, 1024*mib)
	s.lvm = lvm.New(overflowing{f})
	if _, err := fillUp(t, f, s, 600*mib); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("got %v", err)
	}
}
