package rollback

import (
	"context"
	"slices"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
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
	seen []int
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

// Whoever mounts a volume while LVM makes it merge can only read it, and all can be written to afterwards.
func TestMembersAreReadOnlyWhileTheirMergesBegin(t *testing.T) {
	f := server()
	w := walkOf(t, f, all...)
	g := gates{}
	r := &watched{Runner: f, gates: g}
	g.of(w).lvm = lvm.New(r).On(f.Mapper)
	w.state.Members[1].ReadOnly = true // as its administrator had it before
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := len(w.state.Members) - 1; len(r.seen) == 0 || slices.Min(r.seen) != want {
		t.Errorf("%v volumes were read-only when LVM began to merge, want %d each time", r.seen, want)
	}
	if left := g.shut(); left != 0 {
		t.Errorf("%d volumes stay read-only", left)
	}
}

// A run that goes on with a rollback whose volumes are in use leaves them alone.
func TestWhatIsMountedSinceStays(t *testing.T) {
	f := server()
	w := walkOf(t, f, all...)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	g := gates{}
	g.of(w)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(g) != 0 {
		t.Errorf("%d volumes were made read-only again", len(g))
	}
	if slices.ContainsFunc(w.warnings, func(s string) bool { return strings.Contains(s, "mounted") }) {
		t.Error(w.warnings)
	}
}
