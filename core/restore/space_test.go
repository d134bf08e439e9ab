package restore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

const mib = 1 << 20

// newGuardedSnapshot returns a server with a volume of 1 GiB, a snapshot of it with 32 MiB of COW space, and free bytes
// in the volume group.
func newGuardedSnapshot(t *testing.T, free int64) (*lvmtest.Fake, *spaceGuard) {
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
	own := &snapset.OwnedSet{Parts: []snapset.Part{{Target: snapset.Target{LV: origin, Group: group}, Snapshot: snapshot}}}
	flush := func(context.Context, int) error { return nil }
	return f, &spaceGuard{lvm: l, own: own, flush: flush, allowances: make([]allowance, 1)}
}

// kernelStatus returns what the fake's kernel says of the snapshot.
func kernelStatus(t *testing.T, g *spaceGuard) lvm.SnapshotStatus {
	t.Helper()
	status, err := g.lvm.Status(t.Context())
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

// writeUntilRefused reserves and writes pieces of 512 KiB, until reserve fails or all is written.
func writeUntilRefused(t *testing.T, f *lvmtest.Fake, g *spaceGuard, bytes int64) (written int64, err error) {
	t.Helper()
	const piece = 512 << 10
	for written < bytes {
		if err := g.reserve(t.Context(), 0, piece); err != nil {
			return written, err
		}
		f.Write("vg00/dat", piece) // in the fake, writes to the origin fill the COW space; those to the snapshot would too
		written += piece
	}
	return written, nil
}

func TestCOWIsExtendedBeforeItFills(t *testing.T) {
	f, g := newGuardedSnapshot(t, 1024*mib)
	if _, err := writeUntilRefused(t, f, g, 600*mib); err != nil {
		t.Fatal(err)
	}
	if st := kernelStatus(t, g); st.Lost() || st.TotalBytes() < 600*mib {
		t.Errorf("after 600 MiB the snapshot is %+v", st)
	}
}

func TestReserveFailsBeforeCOWIsFull(t *testing.T) {
	f, g := newGuardedSnapshot(t, 64*mib)
	written, err := writeUntilRefused(t, f, g, 600*mib)
	if !errors.Is(err, fault.NoSpace) {
		t.Fatalf("after %d bytes: %v", written, err)
	}
	if fault.Of(err).Hint == "" {
		t.Error("no hint")
	}
	st := kernelStatus(t, g)
	if st.Lost() {
		t.Fatal("the snapshot overflowed")
	}
	if written < 80*mib {
		t.Errorf("it ends after %d MiB of %d", written/mib, st.TotalBytes()/mib)
	}
	if left := st.TotalBytes() - st.UsedBytes(); left < minFree/2 {
		t.Errorf("%d bytes were left for what the file system still writes", left)
	}
}

// While nothing is reserved, what the server writes to the origin fills the COW space too.
func TestWritesToOriginExtendCOW(t *testing.T) {
	f, g := newGuardedSnapshot(t, 1024*mib)
	for range 40 {
		f.Write("vg00/dat", 4*mib)
		if err := g.checkAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if st := kernelStatus(t, g); st.Lost() || st.TotalBytes() < 160*mib {
		t.Errorf("after 160 MiB written to the origin the snapshot is %+v", st)
	}
}

// A check in the background must not raise the allowance for what is written and not flushed: the kernel does not count
// it yet.
func TestCheckAllNeverRaisesAllowance(t *testing.T) {
	_, g := newGuardedSnapshot(t, 0)
	if err := g.reserve(t.Context(), 0, mib); err != nil {
		t.Fatal(err)
	}
	before := g.allowances[0].bytes
	for range 10 { // accepted, and still in memory
		if err := g.reserve(t.Context(), 0, 512<<10); err != nil {
			t.Fatal(err)
		}
		if err := g.checkAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if g.allowances[0].bytes > before-10*(512<<10) {
		t.Errorf("%d bytes may be written after 5 MiB of %d", g.allowances[0].bytes, before)
	}
}

// To write out what is in memory may take minutes. What the server writes to the origins fills the snapshots meanwhile.
func TestSnapshotsAreExtendedDuringFlush(t *testing.T) {
	f, g := newGuardedSnapshot(t, 1024*mib)
	var once sync.Once
	g.flush = func(context.Context, int) error {
		once.Do(func() {
			checked := make(chan error)
			go func() {
				f.Write("vg00/dat", 6*mib)
				checked <- g.checkAll(t.Context())
			}()
			select {
			case err := <-checked:
				if st := kernelStatus(t, g); err != nil || st.Lost() || st.TotalBytes() < 64*mib {
					t.Errorf("%v, %+v", err, st)
				}
			case <-time.After(5 * time.Second):
				t.Error("nothing is checked while something is written out")
			}
		})
		return nil
	}
	if _, err := writeUntilRefused(t, f, g, 100*mib); err != nil {
		t.Error(err)
	}
}

func TestReserveFailsOnOverflowedSnapshot(t *testing.T) {
	f, g := newGuardedSnapshot(t, 0)
	f.Fill("vg00/dat_restore", 100)
	if err := g.reserve(t.Context(), 0, 4096); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("got %v", err)
	}
}

// A read from an overflowed snapshot fails with an I/O error; the overflow is reported as its cause.
func TestCauseOfIOErrorIsOverflow(t *testing.T) {
	f, g := newGuardedSnapshot(t, 0)
	if got := g.cause(t.Context(), unix.EIO); !errors.Is(got, unix.EIO) {
		t.Errorf("of a healthy snapshot: %v", got)
	}
	f.Fill("vg00/dat_restore", 100)
	if got := g.cause(t.Context(), unix.EIO); !errors.Is(got, fault.SnapshotInvalid) {
		t.Errorf("of one that has overflowed: %v", got)
	}
}

// overflowsOnExtend is an LVM in which the snapshot overflows during lvextend. The snapshot cannot be suspended then,
// and that is all that LVM's error says.
type overflowsOnExtend struct{ *lvmtest.Fake }

func (o overflowsOnExtend) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if !slices.Contains(c.Argv, "lvextend") {
		return o.Fake.Run(ctx, c)
	}
	o.Fill("vg00/dat_restore", 100)
	stderr := "  Unable to suspend vg00-dat_restore (253:4)\n"
	return command.Output{}, &command.Error{Argv: c.Argv, Code: 5, Stderr: stderr}
}

func TestOverflowDuringExtendIsReported(t *testing.T) {
	f, g := newGuardedSnapshot(t, 1024*mib)
	g.lvm = lvm.New(overflowsOnExtend{f})
	if _, err := writeUntilRefused(t, f, g, 600*mib); !errors.Is(err, fault.SnapshotInvalid) {
		t.Errorf("got %v", err)
	}
}

// What a thin pool cannot hold is refused before anything is written, unless LVM might extend the pool enough.
func TestNeedOfThinPoolIsChecked(t *testing.T) {
	for free, want := range map[int64]bool{0: true, 40 * mib: true, 100 * mib: false} {
		f := lvmtest.New(lvmtest.Group{
			Name: "vg00", Size: 400*mib + free, ExtentSize: 4 * mib,
			Volumes: []lvmtest.Volume{
				{Name: "pool", Kind: lvm.ThinPool, Size: 400 * mib},
				{Name: "dat", Kind: lvm.Thin, Pool: "pool", Size: 1024 * mib},
				{Name: "log", Kind: lvm.Thin, Pool: "pool", Size: 1024 * mib},
			},
		})
		report, err := lvm.New(f).Report(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		percent := 5.0 // the fake does not say how full a pool is
		pool, _ := report.Volume("vg00", "pool")
		pool.DataPercent = &percent
		var targets []snapset.Target
		for _, name := range []string{"dat", "log"} {
			lv, _ := report.Volume("vg00", name)
			targets = append(targets, snapset.Target{LV: lv})
		}
		needs := []tree.Need{{Least: 230 * mib}, {Least: 230 * mib}}
		err = checkPoolNeeds(report, "0a1b", targets, needs)
		if errors.Is(err, fault.NoSpace) != want || want && !strings.Contains(fault.Of(err).Hint, "lvextend vg00/pool") {
			t.Errorf("%d MiB free: %v", free/mib, err)
		}
		if err := checkPoolNeeds(report, "0a1b", targets[:1], needs[:1]); err != nil {
			t.Errorf("one alone: %v", err)
		}
	}
}
