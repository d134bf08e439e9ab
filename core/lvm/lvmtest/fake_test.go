package lvmtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

func TestScenarios(t *testing.T) {
	for _, s := range lvmtest.Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			f := lvmtest.New(lvmtest.Group{Name: "vg"})
			s.Run(t, newBench(f))
		})
		t.Run(s.Name+", old kernel", func(t *testing.T) {
			f := lvmtest.New(lvmtest.Group{Name: "vg"})
			f.OldKernel()
			s.Run(t, newBench(f))
		})
	}
}

func newBench(f *lvmtest.Fake) lvmtest.Bench {
	mapper, _ := f.Mapper()
	return lvmtest.Bench{Host: f, VG: "vg", LVM: f.LVM(), Mapper: mapper}
}

func TestPollFinishesMergesAfterPollerDied(t *testing.T) {
	ctx := context.Background()
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{
		{Name: "o"}, {Name: "s", Origin: "o", Size: 32 << 20},
	}})
	l := lvm.New(f)
	f.Write("vg/o", 8<<20)
	if err := l.Merge(ctx, "vg/s"); err != nil {
		t.Fatal(err)
	}
	f.KillPoller()
	for range 20 {
		f.Tick()
	}
	status, err := l.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if merge, ok := status["vg-o"][0].Snapshot(); !ok || !merge.Merged() {
		t.Fatalf("kernel: %+v", status["vg-o"])
	}
	if err := l.Poll(ctx, "vg/o"); err != nil {
		t.Fatal(err)
	}
	r, err := l.Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, exists := r.Volume("vg", "s"); exists {
		t.Error("the snapshot is still there after the poll")
	}
}

func TestPowerCutStartsDeferredMerges(t *testing.T) {
	ctx := context.Background()
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "o", Open: 1}, {Name: "s", Origin: "o"}}})
	l := lvm.New(f)
	if err := l.Merge(ctx, "vg/s"); err != nil {
		t.Fatal(err)
	}
	f.PowerCut()
	status, err := l.Status(ctx)
	if err != nil || status["vg-o"][0].Type != "snapshot-merge" {
		t.Errorf("after the boot: %v, %v", status["vg-o"], err)
	}
}

func TestInjectedFailuresHappenOnce(t *testing.T) {
	ctx := context.Background()
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "o"}}})
	l := lvm.New(f)
	f.FailAt(2, errors.New("disk on fire"))
	f.FailOn(errors.New("no"), "lvchange")
	if _, err := l.Report(ctx); err != nil {
		t.Fatal(err)
	}
	err := l.CreateSnapshot(ctx, lvm.SnapshotSpec{VG: "vg", Origin: "o", Name: "s", Extents: 1})
	if got := fault.Of(err); got.Code != fault.CommandFailed || !strings.Contains(got.Msg, "disk on fire") {
		t.Errorf("got %v", got)
	}
	if err := l.AddTags(ctx, []string{"a"}, "vg/o"); err == nil {
		t.Error("lvchange did not fail")
	}
	if err := l.AddTags(ctx, []string{"a"}, "vg/o"); err != nil {
		t.Errorf("the second lvchange failed too: %v", err)
	}
	if n := len(f.Commands()); n != 4 {
		t.Errorf("%d commands", n)
	}
}

func TestDieAtAndDieAfter(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{{Name: "o"}}})
	f.DieAt(1)
	f.DieAfter(2)
	create := lvm.SnapshotSpec{VG: "vg", Origin: "o", Name: "s", Extents: 1}
	for want := 1; want <= 2; want++ {
		died := mustDie(t, func() { _ = lvm.New(f).CreateSnapshot(context.Background(), create) })
		if died.At != want {
			t.Errorf("died at %d, want %d", died.At, want)
		}
	}
	err := lvm.New(f).CreateSnapshot(context.Background(), create)
	if !errors.Is(err, fault.Exists) {
		t.Errorf("after the death in the second command: %v, want exists", err)
	}
}

// mustDie returns the Died that act panics with.
func mustDie(t *testing.T, act func()) (died lvmtest.Died) {
	t.Helper()
	defer func() { died, _ = recover().(lvmtest.Died) }()
	act()
	t.Error("the process did not die")
	return died
}

func TestUnknownCommandPanics(t *testing.T) {
	for _, argv := range [][]string{
		{"lvs"}, {"lvm", "vgremove"}, {"lvm", "lvremove", "--force", "--", "vg/o"}, {"lvm", "lvremove", "--", "vg/o"},
	} {
		t.Run(strings.Join(argv, " "), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it did not panic")
				}
			}()
			_, _ = lvmtest.New(lvmtest.Group{Name: "vg"}).Run(context.Background(), command.Cmd{Argv: argv})
		})
	}
}

// A merge gives a volume what it held when its snapshot was taken, at the moment in which it begins.
func TestContentGoesBackWithTheMerge(t *testing.T) {
	f := lvmtest.New(lvmtest.Group{Name: "vg", Volumes: []lvmtest.Volume{
		{Name: "a"}, {Name: "a_s", Origin: "a"}, {Name: "pool", Kind: lvm.ThinPool}, {Name: "t", Pool: "pool"},
		{Name: "t_s", Pool: "pool", Origin: "t"},
	}})
	for _, name := range []string{"vg/a", "vg/t"} {
		before := f.Content(name)
		f.Write(name, 1<<20)
		if now := f.Content(name); now == before || f.Content(name+"_s") != before {
			t.Errorf("%s holds %d, was %d; its snapshot holds %d", name, now, before, f.Content(name+"_s"))
		}
		if err := f.LVM().Merge(t.Context(), name+"_s"); err != nil {
			t.Fatal(err)
		}
		if now := f.Content(name); now != before {
			t.Errorf("%s holds %d after the merge, want %d", name, now, before)
		}
	}
}
