package rollback

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/service"
)

// writeProtection stands in for the kernel: it knows which devices are write-protected.
type writeProtection map[filesystem.Dev]bool

// install makes a rollback use it instead of the kernel.
func (p writeProtection) install(rb *rollback) *rollback {
	rb.server.Host = testHost{filesystem.ThisHost(), p}
	return rb
}

// lvmWatcher runs LVM's commands, and records how many devices are protected at the start of each command that can
// begin a merge.
type lvmWatcher struct {
	command.Runner
	writeProtection
	protectedCounts []int
	protectChanges  int
}

// install makes a rollback use the write protection, and counts the changes to it.
func (w *lvmWatcher) install(rb *rollback) *rollback {
	rb.server.Host = countingHost{testHost{filesystem.ThisHost(), w.writeProtection}, w}
	return rb
}

// countingHost counts the changes of write protection.
type countingHost struct {
	testHost
	watcher *lvmWatcher
}

func (h countingHost) WriteProtect(d filesystem.Dev, on bool) error {
	h.watcher.protectChanges++
	return h.testHost.WriteProtect(d, on)
}

func (w *lvmWatcher) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "lvconvert") || slices.Contains(c.Argv, "--refresh") {
		w.protectedCounts = append(w.protectedCounts, w.count())
	}
	return w.Runner.Run(ctx, c)
}

// count returns how many devices are write-protected.
func (p writeProtection) count() (n int) {
	for _, protected := range p {
		if protected {
			n++
		}
	}
	return n
}

// newWatched returns a rollback that has come to the merge, with a connection to systemd, and the watcher of its
// commands.
func newWatched(t *testing.T, f *lvmtest.Fake, snapshots ...string) (*rollback, *lvmWatcher) {
	t.Helper()
	rb := newAtMerge(t, f, snapshots...)
	w := &lvmWatcher{Runner: f, writeProtection: writeProtection{}}
	w.install(rb).lvm = lvm.New(w).On(f.Mapper)
	rb.systemd = &service.Systemd{}
	return rb, w
}

// What mounts a volume while LVM begins to merge it can only read it. Afterwards all volumes can be written to.
func TestMembersAreReadOnlyWhileMergesBegin(t *testing.T) {
	rb, w := newWatched(t, server(), allSnapshots...)
	rb.state.Members[1].Protect = false // it was read-only before
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := len(rb.state.Members) - 1
	if len(w.protectedCounts) == 0 || slices.Min(w.protectedCounts) != want || w.count() != 0 {
		t.Errorf("%v volumes were read-only when LVM began to merge, want %d each time; %d stay so",
			w.protectedCounts, want, w.count())
	}
}

// A member whose merge LVM deferred because it was open is made read-only when LVM is told again. The other member
// merges already.
func TestMemberIsReadOnlyWhileDeferredMergeBegins(t *testing.T) {
	f := server()
	rb, w := newWatched(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	if err := rb.merges.start(t.Context(), rb.state.Members); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.protectedCounts, []int{1}) {
		t.Fatalf("%v volumes were read-only, want the one that was closed", w.protectedCounts)
	}
	f.SetOpen("vg00/dat", 0)
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.protectedCounts, []int{1, 2}) || w.count() != 0 {
		t.Errorf("%v volumes were read-only each time, want the second as well; %d stay so", w.protectedCounts, w.count())
	}
}

// Early in a boot a member, such as /, may be mounted and in use.
func TestMembersAreWritableAtBoot(t *testing.T) {
	rb, w := newWatched(t, server(), allSnapshots...)
	rb.systemd = nil
	err := rb.merges.begin(t.Context())
	if err != nil || len(w.protectedCounts) == 0 || slices.Max(w.protectedCounts) != 0 {
		t.Errorf("%v; %v volumes were read-only", err, w.protectedCounts)
	}
}

// A merge that LVM refuses leaves no volume read-only.
func TestRefusedMergeLeavesNothingReadOnly(t *testing.T) {
	f := server()
	rb, w := newWatched(t, f, "vg00/dat_s", "vg00/app_s")
	for range 2 {
		f.FailOn(errors.New("no"), "lvconvert")
	}
	err := rb.merges.begin(t.Context())
	if err == nil || len(w.protectedCounts) == 0 || slices.Min(w.protectedCounts) != 2 || w.count() != 0 {
		t.Errorf("%v; %v volumes were read-only each time, and %d are", err, w.protectedCounts, w.count())
	}
}

// A run that continues a rollback whose volumes are in use leaves them alone.
func TestSecondMergeLeavesUsedVolumesAlone(t *testing.T) {
	rb, w := newWatched(t, server(), allSnapshots...)
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := len(w.protectedCounts)
	err := rb.merges.begin(t.Context())
	if err != nil || len(w.protectedCounts) != began || w.protectChanges != 2*len(rb.state.Members) {
		t.Errorf("%v; LVM was told %d times after %d; volumes were made read-only or writable %d times",
			err, len(w.protectedCounts), began, w.protectChanges)
	}
}
