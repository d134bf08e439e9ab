package lvmtest

import (
	"context"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

func mergeOfClosedOrigin(t *testing.T, b Bench) {
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	b.waitUntilMerged(t, "o", "s")
	if o := b.volume(t, "o"); o.IsOrigin || o.Merging || o.State != lvm.Active {
		t.Errorf("after the merge: %+v", o)
	}
}

// waitUntilMerged waits for the end of a merge. If LVM has deferred the merge, because udev had the origin open for a
// moment, waitUntilMerged starts it by a refresh.
func (b Bench) waitUntilMerged(t *testing.T, origin, snapshot string) {
	t.Helper()
	ctx := context.Background()
	b.waitUntil(t, "the merge of "+snapshot+" has ended", func() bool {
		if b.isGone(t, snapshot) {
			return true
		}
		target := b.kernelTarget(t, origin)
		status, ok := target.Snapshot()
		if !ok {
			must(t, b.LVM.Refresh(ctx, b.name(origin)))
		}
		if status.Merged() {
			must(t, b.LVM.Poll(ctx, b.name(origin)))
		}
		return false
	})
}

func mergeOfOpenOrigin(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	s := b.volume(t, "s")
	if !s.Merging || !s.Hidden || s.State != lvm.Merging || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	if target := b.kernelTarget(t, "o"); target.Type != "snapshot-origin" {
		t.Errorf("the kernel has %s, want snapshot-origin: a deferred merge must not run", target.Type)
	}
	must(t, b.LVM.Refresh(ctx, b.name("o")))
	checkFault(t, b.LVM.CreateSnapshot(ctx, lvm.SnapshotSpec{VG: b.VG, Origin: "o", Name: "x", Extents: 1}), fault.Merging)
	checkFault(t, b.LVM.Remove(ctx, b.volume(t, "s")), fault.Merging)
	b.Host.SetOpen(b.name("o"), 0)
	b.waitUntilMerged(t, "o", "s")
}

// mergeOfInactiveOrigin checks that LVM only records the merge of a thick snapshot until somebody activates the origin.
func mergeOfInactiveOrigin(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.makeManual(t, "o")
	b.mustSnapshot(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.mustDeactivate(t, "o")
	must(t, b.LVM.Merge(ctx, b.name("s")))
	must(t, b.LVM.Refresh(ctx, b.name("o")))
	if o, s := b.volume(t, "o"), b.volume(t, "s"); o.Active || !o.Merging || !s.Merging || s.State != lvm.Merging {
		t.Errorf("after a refresh: %+v %+v", o, s)
	}
	must(t, b.LVM.Activate(ctx, b.name("o")))
	if target := b.kernelTarget(t, "o"); target.Type != "snapshot-merge" {
		t.Errorf("the kernel has %s after the activation", target.Type)
	}
	b.waitUntilMerged(t, "o", "s")
}

// thinMergeOfInactiveOrigin checks that LVM replaces a thin origin at once also while that has no device.
func thinMergeOfInactiveOrigin(t *testing.T, b Bench) {
	b.makeThin("o")
	b.makeManual(t, "o")
	b.mustSnapshot(t, "o", "s", 0)
	b.mustDeactivate(t, "o")
	b.mustDeactivate(t, "s")
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	if o := b.volume(t, "o"); o.Active || o.Merging || !b.isGone(t, "s") {
		t.Errorf("after the merge: %+v", o)
	}
}

// mergeOfReadOnlyOrigin checks that LVM merges a thin snapshot into a read-only volume, and no thick one.
func mergeOfReadOnlyOrigin(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 8)
	b.makeThin("thin")
	b.mustSnapshot(t, "thin", "ts", 0)
	argv := []string{"lvm", "lvchange", "--permission", "r", "--", b.name("o"), b.name("thin")}
	_, err := b.Host.Run(ctx, command.Cmd{Argv: argv, Changes: true})
	must(t, err)
	if !b.volume(t, "o").ReadOnly || b.volume(t, "s").ReadOnly {
		t.Errorf("read-only: %+v %+v", b.volume(t, "o"), b.volume(t, "s"))
	}
	checkFault(t, b.LVM.Merge(ctx, b.name("s")), fault.MergeFailed)
	if b.volume(t, "s").Merging {
		t.Error("LVM refused the merge, and has it")
	}
	must(t, b.LVM.Merge(ctx, b.name("ts")))
	b.waitUntil(t, "the thin merge has ended", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("thin"))) // udev may have had the volume open
		return b.isGone(t, "ts")
	})
	if !b.volume(t, "thin").ReadOnly {
		t.Error("the merge made the thin volume writable")
	}
}

func mergeOfOneFails(t *testing.T, b Bench) {
	b.makeLinear("o")
	b.makeLinear("p")
	b.mustSnapshot(t, "o", "os", 1)
	b.mustSnapshot(t, "p", "ps", 4)
	b.Host.Write(b.name("o"), 8*mib)
	checkFault(t, b.LVM.Merge(context.Background(), b.name("os"), b.name("ps")), fault.MergeFailed)
	if b.volume(t, "o").Merging {
		t.Error("an overflowed snapshot is merging")
	}
	b.waitUntilMerged(t, "p", "ps")
}

func mergeFillsSibling(t *testing.T, b Bench) {
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "first", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.mustSnapshot(t, "o", "second", 2)
	if used := b.volume(t, "second").COWUsed; used >= mib {
		t.Fatalf("a new snapshot uses %d bytes", used)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("first")))
	b.waitUntilMerged(t, "o", "first")
	if s := b.volume(t, "second"); s.State != lvm.Invalid {
		t.Errorf("a merge of 16 MiB did not overflow the other COW space of 8 MiB: %s, %d bytes used", s.State, s.COWUsed)
	}
}

func thinMerge(t *testing.T, b Bench) {
	b.makeThin("o")
	b.mustSnapshot(t, "o", "s", 0, "t")
	b.mustSnapshot(t, "o", "sibling", 0)
	before := b.volume(t, "o")
	s := b.volume(t, "s")
	if !s.IsThinSnapshot() || s.Pool != "pool" || s.Origin != "o" || !s.Active || s.State != lvm.Active {
		t.Errorf("thin snapshot: %+v", s)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	if !b.isGone(t, "s") {
		t.Fatal("a closed thin origin was not replaced at once")
	}
	if o := b.volume(t, "o"); o.UUID != before.UUID || o.Merging || o.ThinID != s.ThinID || s.ThinID == before.ThinID {
		t.Errorf("origin: %+v, was %+v; its snapshot was %+v", o, before, s)
	}
	if s := b.volume(t, "sibling"); s.Origin != "" || s.OriginUUID != "" {
		t.Errorf("the origin's other snapshot still has the origin %s", s.Origin)
	}
}

func thinMergeOfOpenOrigin(t *testing.T, b Bench) {
	ctx := context.Background()
	b.makeThin("o")
	b.mustSnapshot(t, "o", "s", 0)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	if s := b.volume(t, "s"); !s.Merging || s.Active || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	b.Host.SetOpen(b.name("o"), 0)
	b.waitUntil(t, "the thin merge has ended", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("o")))
		return b.isGone(t, "s")
	})
}

// deferredMergesTakenBack takes back deferred merges of a thick and a thin snapshot in one group, and then merges the
// snapshots after all.
func deferredMergesTakenBack(t *testing.T, b Bench) {
	ctx, dir := context.Background(), t.TempDir()
	b.makeLinear("o")
	b.mustSnapshot(t, "o", "s", 8)
	b.makeThin("thin")
	b.mustSnapshot(t, "thin", "ts", 0, "tag")
	b.Host.Write(b.name("o"), 16*mib)
	before, thin := b.volume(t, "s"), b.volume(t, "ts")
	must(t, b.LVM.KeepMetadata(ctx, dir, b.VG))
	b.Host.SetOpen(b.name("o"), 1)
	b.Host.SetOpen(b.name("thin"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s"), b.name("ts")))
	if s := b.volume(t, "s"); !s.Merging || !b.volume(t, "ts").Merging {
		t.Fatalf("deferred: %+v", s)
	}
	merges := []lvm.DeferredMerge{{Origin: "o", Snapshot: "s"}, {Origin: "thin", Snapshot: "ts"}}
	// To undo one of them would undo the other, too.
	checkFault(t, b.LVM.UndoDeferredMerges(ctx, dir, b.VG, merges[0]), fault.Busy)
	must(t, b.LVM.UndoDeferredMerges(ctx, dir, b.VG, merges...))
	must(t, b.LVM.Activate(ctx, b.name("ts")))
	after := b.volume(t, "s")
	if after.Merging || after.Hidden || after.State != before.State || after.UUID != before.UUID {
		t.Errorf("taken back: %+v, was %+v", after, before)
	}
	if after := b.volume(t, "ts"); after.Merging || after.Hidden || !after.Active || after.Origin != thin.Origin {
		t.Errorf("taken back: %+v, was %+v", after, thin)
	}
	if target := b.kernelTarget(t, "o"); target.Type != "snapshot-origin" {
		t.Errorf("the kernel has %s", target.Type)
	}
	b.mustSnapshot(t, "o", "new", 1) // LVM would refuse this for an origin that merges
	checkFault(t, b.LVM.UndoDeferredMerges(ctx, dir, b.VG, merges...), fault.Busy)
	must(t, b.LVM.Remove(ctx, b.volume(t, "new")))
	must(t, b.LVM.Merge(ctx, b.name("s"), b.name("ts")))
	b.Host.SetOpen(b.name("o"), 0)
	b.Host.SetOpen(b.name("thin"), 0)
	must(t, b.LVM.Refresh(ctx, b.name("o"), b.name("thin")))
	// The merges have begun, whether LVM has recorded that already or not.
	checkFault(t, b.LVM.UndoDeferredMerges(ctx, dir, b.VG, merges[1]), fault.Busy)
	checkFault(t, b.LVM.UndoDeferredMerges(ctx, dir, b.VG, merges...), fault.Busy)
	b.waitUntilMerged(t, "o", "s")
	b.waitUntil(t, "the thin merge has ended", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("thin")))
		return b.isGone(t, "ts")
	})
}
