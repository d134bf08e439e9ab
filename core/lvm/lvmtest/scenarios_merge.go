package lvmtest

import (
	"context"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

func mergeClosed(t *testing.T, b Bench) {
	b.linear("o")
	b.create(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	b.merged(t, "o", "s")
	if o := b.volume(t, "o"); o.IsOrigin || o.Merging || o.State != lvm.Active {
		t.Errorf("after the merge: %+v", o)
	}
}

// merged waits for the end of a merge; udev may have had the origin open for a
// moment when it was to begin, so it is refreshed.
func (b Bench) merged(t *testing.T, origin, snapshot string) {
	t.Helper()
	ctx := context.Background()
	b.until(t, "merged "+snapshot, func() bool {
		if b.gone(t, snapshot) {
			return true
		}
		target := b.kernel(t, origin)
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

func mergeDeferred(t *testing.T, b Bench) {
	ctx := context.Background()
	b.linear("o")
	b.create(t, "o", "s", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	s := b.volume(t, "s")
	if !s.Merging || !s.Hidden || s.State != lvm.Merging || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	if target := b.kernel(t, "o"); target.Type != "snapshot-origin" {
		t.Errorf("the kernel has %s, want snapshot-origin: a deferred merge must not run", target.Type)
	}
	must(t, b.LVM.Refresh(ctx, b.name("o")))
	refused(t, b.LVM.CreateSnapshot(ctx, lvm.Create{VG: b.VG, Origin: "o", Name: "x", Extents: 1}), fault.Merging)
	refused(t, b.LVM.Remove(ctx, b.name("s")), fault.Merging)
	b.Host.SetOpen(b.name("o"), 0)
	b.merged(t, "o", "s")
}

func mergeHalf(t *testing.T, b Bench) {
	b.linear("o")
	b.linear("p")
	b.create(t, "o", "os", 1)
	b.create(t, "p", "ps", 4)
	b.Host.Write(b.name("o"), 8*mib)
	refused(t, b.LVM.Merge(context.Background(), b.name("os"), b.name("ps")), fault.MergeFailed)
	if b.volume(t, "o").Merging {
		t.Error("the overflowed one merges")
	}
	b.merged(t, "p", "ps")
}

func mergeFillsSibling(t *testing.T, b Bench) {
	b.linear("o")
	b.create(t, "o", "first", 8)
	b.Host.Write(b.name("o"), 16*mib)
	b.create(t, "o", "second", 2)
	if used := b.volume(t, "second").COWUsed; used >= mib {
		t.Fatalf("a new snapshot uses %d bytes", used)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("first")))
	b.merged(t, "o", "first")
	if s := b.volume(t, "second"); s.State != lvm.Invalid {
		t.Errorf("16 MiB were merged under a COW of 8 MiB: %s, %d bytes used", s.State, s.COWUsed)
	}
}

func thinMerge(t *testing.T, b Bench) {
	b.thin("o")
	b.create(t, "o", "s", 0, "t")
	b.create(t, "o", "sibling", 0)
	before := b.volume(t, "o")
	if s := b.volume(t, "s"); !s.IsThinSnapshot() || s.Pool != "pool" || s.Origin != "o" || !s.Active || s.State != lvm.Active {
		t.Errorf("thin snapshot: %+v", s)
	}
	must(t, b.LVM.Merge(context.Background(), b.name("s")))
	if !b.gone(t, "s") {
		t.Fatal("a closed thin origin is replaced at once")
	}
	if o := b.volume(t, "o"); o.UUID != before.UUID || o.Merging {
		t.Errorf("origin: %+v, was %+v", o, before)
	}
	if s := b.volume(t, "sibling"); s.Origin != "" || s.OriginUUID != "" {
		t.Errorf("the sibling keeps its origin %s", s.Origin)
	}
}

func thinDeferred(t *testing.T, b Bench) {
	ctx := context.Background()
	b.thin("o")
	b.create(t, "o", "s", 0)
	b.Host.SetOpen(b.name("o"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s")))
	if s := b.volume(t, "s"); !s.Merging || s.Active || !b.volume(t, "o").Merging {
		t.Errorf("deferred: %+v", s)
	}
	b.Host.SetOpen(b.name("o"), 0)
	b.until(t, "thin merged", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("o")))
		return b.gone(t, "s")
	})
}

// mergeTakenBack takes back merges that wait, of thick and thin snapshots in one group, and has them merge after all.
func mergeTakenBack(t *testing.T, b Bench) {
	ctx, dir := context.Background(), t.TempDir()
	b.linear("o")
	b.create(t, "o", "s", 8)
	b.thin("thin")
	b.create(t, "thin", "ts", 0, "tag")
	b.Host.Write(b.name("o"), 16*mib)
	before, thin := b.volume(t, "s"), b.volume(t, "ts")
	must(t, b.LVM.KeepMetadata(ctx, dir, b.VG))
	b.Host.SetOpen(b.name("o"), 1)
	b.Host.SetOpen(b.name("thin"), 1)
	must(t, b.LVM.Merge(ctx, b.name("s"), b.name("ts")))
	if s := b.volume(t, "s"); !s.Merging || !b.volume(t, "ts").Merging {
		t.Fatalf("deferred: %+v", s)
	}
	merges := []lvm.Waiting{{Origin: "o", Snapshot: "s"}, {Origin: "thin", Snapshot: "ts"}}
	refused(t, b.LVM.Unmerge(ctx, dir, b.VG, merges[0]), fault.Busy) // another's merge would go, too
	must(t, b.LVM.Unmerge(ctx, dir, b.VG, merges...))
	must(t, b.LVM.Activate(ctx, b.name("ts")))
	after := b.volume(t, "s")
	if after.Merging || after.Hidden || after.State != before.State || after.UUID != before.UUID {
		t.Errorf("taken back: %+v, was %+v", after, before)
	}
	if after := b.volume(t, "ts"); after.Merging || after.Hidden || !after.Active || after.Origin != thin.Origin {
		t.Errorf("taken back: %+v, was %+v", after, thin)
	}
	if target := b.kernel(t, "o"); target.Type != "snapshot-origin" {
		t.Errorf("the kernel has %s", target.Type)
	}
	b.create(t, "o", "new", 1) // LVM refuses this of an origin that merges
	refused(t, b.LVM.Unmerge(ctx, dir, b.VG, merges...), fault.Busy)
	must(t, b.LVM.Remove(ctx, b.name("new")))
	must(t, b.LVM.Merge(ctx, b.name("s"), b.name("ts")))
	b.Host.SetOpen(b.name("o"), 0)
	b.Host.SetOpen(b.name("thin"), 0)
	must(t, b.LVM.Refresh(ctx, b.name("o"), b.name("thin")))
	refused(t, b.LVM.Unmerge(ctx, dir, b.VG, merges[1]), fault.Busy) // begun, whether LVM has recorded that or not yet
	refused(t, b.LVM.Unmerge(ctx, dir, b.VG, merges...), fault.Busy)
	b.merged(t, "o", "s")
	b.until(t, "thin merged", func() bool {
		must(t, b.LVM.Refresh(ctx, b.name("thin")))
		return b.gone(t, "ts")
	})
}
