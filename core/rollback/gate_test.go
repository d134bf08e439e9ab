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

// gates stand for the kernel: they remember which devices are write-protected.
type gates map[filesystem.Dev]bool

// of gives them to a walk.
func (g gates) of(w *walk) *walk {
	w.protected = func(d filesystem.Dev) (bool, error) { return g[d], nil }
	w.writeProtect = func(d filesystem.Dev, on bool) error { g[d] = on; return nil }
	return w
}

// watched runs LVM's commands, and notes how many devices are protected as each begins to merge.
type watched struct {
	command.Runner
	gates
	seen    []int
	changes int
}

// of gives the gates to a walk, and counts.
func (r *watched) of(w *walk) *walk {
	r.gates.of(w)
	change := w.writeProtect
	w.writeProtect = func(d filesystem.Dev, on bool) error { r.changes++; return change(d, on) }
	return w
}

func (r *watched) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if slices.Contains(c.Argv, "lvconvert") || slices.Contains(c.Argv, "--refresh") {
		r.seen = append(r.seen, r.shut())
	}
	return r.Runner.Run(ctx, c)
}

func (g gates) shut() (n int) {
	for _, is := range g {
		if is {
			n++
		}
	}
	return n
}

// guarded is a rollback with systemd at hand that has come to the point of no return, the kernel's part in it, and what
// LVM was told.
func guarded(t *testing.T, f *lvmtest.Fake, snapshots ...string) (*walk, *watched) {
	t.Helper()
	w := walkOf(t, f, snapshots...)
	r := &watched{Runner: f, gates: gates{}}
	r.of(w).lvm = lvm.New(r).On(f.Mapper)
	w.systemd = &service.Systemd{}
	return w, r
}

// Whoever mounts a volume while LVM makes it merge can only read it, and all can be written to afterwards.
func TestMembersAreReadOnlyWhileTheirMergesBegin(t *testing.T) {
	w, r := guarded(t, server(), all...)
	w.state.Members[1].Protect = false // it was read-only before
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := len(w.state.Members) - 1; len(r.seen) == 0 || slices.Min(r.seen) != want || r.shut() != 0 {
		t.Errorf("%v volumes were read-only when LVM began to merge, want %d each time; %d stay so", r.seen, want, r.shut())
	}
}

// One that was open, so that LVM put its merge off, is read-only when LVM is told again; the other one is not any more.
func TestAMemberIsReadOnlyWhileItsDeferredMergeBegins(t *testing.T) {
	f := server()
	w, r := guarded(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	if err := w.begin(t.Context(), w.state.Members); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.seen, []int{1}) {
		t.Fatalf("%v volumes were read-only, want the one that was closed", r.seen)
	}
	f.SetOpen("vg00/dat", 0)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.seen, []int{1, 2}) || r.shut() != 0 {
		t.Errorf("%v volumes were read-only each time, want the second as well; %d stay so", r.seen, r.shut())
	}
}

// Early in a boot / may be a member, and mounted.
func TestNoMemberIsProtectedAtBoot(t *testing.T) {
	w, r := guarded(t, server(), all...)
	w.systemd = nil
	if err := w.merge(t.Context()); err != nil || len(r.seen) == 0 || slices.Max(r.seen) != 0 {
		t.Errorf("%v; %v volumes were read-only", err, r.seen)
	}
}

// A merge that LVM refuses leaves no volume read-only: nothing is known to go on.
func TestARefusedMergeLeavesNothingReadOnly(t *testing.T) {
	f := server()
	w, r := guarded(t, f, "vg00/dat_s", "vg00/app_s")
	for range 2 {
		f.FailOn(errors.New("no"), "lvconvert")
	}
	if err := w.merge(t.Context()); err == nil || len(r.seen) == 0 || slices.Min(r.seen) != 2 || r.shut() != 0 {
		t.Errorf("%v; %v volumes were read-only each time, and %d are", err, r.seen, r.shut())
	}
}

// A run that goes on with a rollback whose volumes are in use leaves them alone.
func TestWhatIsMountedSinceStays(t *testing.T) {
	w, r := guarded(t, server(), all...)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := len(r.seen)
	if err := w.merge(t.Context()); err != nil || len(r.seen) != began || r.changes != 2*len(w.state.Members) {
		t.Errorf("%v; LVM was told %d times after %d; volumes were made read-only or writable %d times",
			err, len(r.seen), began, r.changes)
	}
}
