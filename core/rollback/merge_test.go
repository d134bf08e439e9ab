package rollback

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
)

const mib = 1 << 20

// server has a set of two thick snapshots and a thin one.
func server() *lvmtest.Fake {
	return lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "dat_s", Origin: "dat", Size: 32 * mib},
		{Name: "app"}, {Name: "app_s", Origin: "app", Size: 32 * mib},
		{Name: "pool", Kind: lvm.ThinPool}, {Name: "thin", Pool: "pool"}, {Name: "thin_s", Pool: "pool", Origin: "thin"},
	}})
}

// walkOf is a rollback to these snapshots that has come to the point of no return.
func walkOf(t *testing.T, f *lvmtest.Fake, snapshots ...string) *walk {
	t.Helper()
	w := &walk{trip: &journey.Trip{}, lvm: f.LVM(), state: &State{Set: "s"}}
	gates{}.of(w)
	r := report(t, w)
	for _, name := range snapshots {
		v, ok := r.ByPath(name)
		if !ok {
			t.Fatal("no " + name)
		}
		m, err := member(r, v)
		if err != nil {
			t.Fatal(err)
		}
		m.Protect = true
		w.state.Members = append(w.state.Members, m)
	}
	return w
}

func report(t *testing.T, w *walk) *lvm.Report {
	t.Helper()
	r, err := w.lvm.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var all = []string{"vg00/dat_s", "vg00/app_s", "vg00/thin_s"}

// under fails unless every member merges or is merged.
func under(t *testing.T, w *walk) {
	t.Helper()
	states, err := w.states(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for m, state := range states {
		if state != merging && state != merged {
			t.Errorf("%s is %s", m.snapshot(), state)
		}
	}
}

func TestMergeOfAllIsOneCommand(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	w := walkOf(t, f, all...)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	under(t, w)
	var converts int
	for _, argv := range f.Commands() {
		if argv[1] == "lvconvert" {
			converts++
		}
	}
	if converts != 1 {
		t.Errorf("%d lvconverts", converts)
	}
}

// Whichever command fails once, a second run of the same code comes to the end.
func TestAMergeThatFailsGoesOn(t *testing.T) {
	for n := 1; ; n++ {
		f := server()
		f.Fill("vg00/dat_s", 50)
		w := walkOf(t, f, all...)
		f.FailAt(len(f.Commands())+n, errors.New("no such luck"))
		ran := len(f.Commands())
		err := w.merge(t.Context())
		if len(f.Commands())-ran < n {
			return // it needs fewer
		}
		if err != nil {
			err = w.merge(t.Context())
		}
		if err != nil {
			t.Errorf("command %d: %v", n, err)
		}
		under(t, w)
	}
}

// Killed before or after any command, or cut from power there, a second run comes to the end: of no member is there a
// mix that it would take for done.
func TestAMergeThatIsKilledGoesOn(t *testing.T) {
	for name, arm := range map[string]func(f *lvmtest.Fake, n int){
		"before": func(f *lvmtest.Fake, n int) { f.DieAt(n) },
		"after":  func(f *lvmtest.Fake, n int) { f.DieAfter(n) },
	} {
		for _, power := range []bool{false, true} {
			for n := 1; ; n++ {
				f := server()
				f.Fill("vg00/dat_s", 50)
				w := walkOf(t, f, all...)
				arm(f, len(f.Commands())+n)
				if !dies(func() { _ = w.merge(t.Context()) }) {
					break
				}
				if power {
					f.PowerCut()
				}
				if err := w.merge(t.Context()); err != nil {
					t.Errorf("%s command %d: %v", name, n, err)
				}
				under(t, w)
			}
		}
	}
}

func dies(f func()) (died bool) {
	defer func() {
		if p := recover(); p != nil {
			if _, died = p.(lvmtest.Died); !died {
				panic(p)
			}
		}
	}()
	f()
	return false
}

// LVM found a volume open for a moment and put its merge off: that is no merge yet.
func TestADeferredMergeIsStartedWhenItsVolumeIsClosed(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	if err := w.lvm.Merge(t.Context(), all[:2]...); err != nil {
		t.Fatal(err)
	}
	states, err := w.states(t.Context())
	if err != nil || states[w.state.Members[0]] != deferred || states[w.state.Members[1]] != merging {
		t.Fatalf("%v %v", states, err)
	}
	f.SetOpen("vg00/dat", 0)
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	under(t, w)
}

// tidying is an LVM whose lvconvert goes on for a while when the kernel merges already.
type tidying struct {
	*lvmtest.Fake
	goOn chan struct{}
}

func (s tidying) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	out, err := s.Fake.Run(ctx, c)
	if c.Argv[1] == "lvconvert" {
		<-s.goOn
	}
	return out, err
}

// The kernel's word is enough: what LVM still has to do holds nothing up, but its end is waited for.
func TestTheKernelsWordIsEnough(t *testing.T) {
	f := server()
	w := walkOf(t, f, all[:2]...)
	slow := tidying{f, make(chan struct{})}
	w.lvm, w.ready, w.ahead = lvm.New(slow).On(f.Mapper), true, true
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	under(t, w)
	joined := make(chan struct{})
	go func() { w.join(); close(joined) }()
	select {
	case <-joined:
		t.Error("lvconvert was not waited for")
	case <-time.After(10 * time.Millisecond):
	}
	close(slow.goOn)
	<-joined
}

func TestAMemberLostAfterThePointOfNoReturnIsNamed(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/dat_s", "vg00/app_s")
	begun(t, w, stepMerging)
	f.Fill("vg00/dat_s", 100)
	if err := w.merge(t.Context()); !errors.Is(err, fault.SnapshotInvalid) || !strings.Contains(err.Error(), "vg00/dat_s") {
		t.Error(err)
	}
}

// The kernel is done, LVM's poller is gone: waiting ends all the same.
func TestWaitMergedWithoutAPoller(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	w := walkOf(t, f, "vg00/dat_s")
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.KillPoller()
	for range 30 {
		f.Tick()
	}
	bytes, idle, err := w.left(t.Context())
	if err != nil || bytes != 0 || len(idle) != 1 {
		t.Fatalf("%d %v %v", bytes, idle, err)
	}
	if err := w.waitMerged(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, there := report(t, w).ByPath("vg00/dat_s"); there {
		t.Error("the snapshot is still there")
	}
}

func TestRecheckSeesWhatHappenedMeanwhile(t *testing.T) {
	f := server()
	w := walkOf(t, f, all...)
	if err := w.recheck(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/dat_s", 100)
	f.Fill("vg00/app_s", 100)
	err := w.recheck(t.Context())
	if !errors.Is(err, fault.SnapshotInvalid) && fault.Of(err).Code != fault.SnapshotInvalid {
		t.Error(err)
	}
	for _, name := range all[:2] {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	f = server()
	w = walkOf(t, f, all...)
	f.SetOpen("vg00/thin", 1)
	if err := w.recheck(t.Context()); fault.Of(err) == nil || fault.Of(err).Code != fault.Busy || !strings.Contains(err.Error(), "vg00/thin") {
		t.Error(err)
	}
}

func TestMergeEndsWithItsContext(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/dat_s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.merge(ctx); err == nil {
		t.Error("merged after the end")
	}
}

// A member that is lost stays so when its snapshot is removed, as its own hint has people do: LVM shows it as it shows one
// that was merged. The services are left stopped then.
func TestALostMemberIsNoMergedOneWhenItsSnapshotIsRemoved(t *testing.T) {
	f := server()
	w := walkOf(t, f, "vg00/dat_s", "vg00/app_s")
	begun(t, w, stepMerging)
	w.state.Start = true
	f.Fill("vg00/dat_s", 50)
	if err := w.lvm.Merge(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/app_s", 100)
	if err := w.merge(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
		t.Fatal("a lost member:", err)
	}
	if err := w.lvm.Remove(t.Context(), "vg00/app_s"); err != nil {
		t.Fatal(err)
	}
	again, err := reopen(w.trip, w.entry())
	if err != nil {
		t.Fatal(err)
	}
	again.lvm, again.protected, again.writeProtect = w.lvm, w.protected, w.writeProtect
	if err := again.merge(t.Context()); err != nil {
		t.Fatal("without it:", err)
	}
	trouble := again.notRolledBack()
	if len(trouble) != 1 || !strings.Contains(trouble[0].Msg, "vg00/app") || again.state.Start {
		t.Errorf("%v, services are started: %v", trouble, again.state.Start)
	}
	if state, _ := now(nil, again.state.Members[1], again.entry()); state != forsaken {
		t.Errorf("the result says %s", state)
	}
}

// An LVM command that was killed, or failed, may leave a volume suspended: whoever mounts it would wait for ever.
func TestAVolumeThatWasLeftSuspendedGoesOn(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	w := walkOf(t, f, "vg00/dat_s")
	if err := w.merge(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Suspend("vg00/dat", false)
	if err := w.merge(t.Context()); err != nil || f.Suspended("vg00/dat") {
		t.Errorf("suspended: %v, %v", f.Suspended("vg00/dat"), err)
	}
}

// After a power cut LVM 2.03.16 may end a merge without removing the COW volume, which then is no snapshot any more.
func TestACOWVolumeThatLVMLeftBehindIsAMerge(t *testing.T) {
	r := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Volumes: []lvm.Volume{
		{VG: "vg00", Name: "dat", Kind: lvm.Linear}, {VG: "vg00", Name: "dat_s", UUID: "u", Kind: lvm.Linear},
	}}}}
	m := &Member{VG: "vg00", LV: "dat", Snapshot: "dat_s", SnapshotID: "u"}
	state, err := metadataState(r, m, false)
	if err != nil || state != detached {
		t.Errorf("%s, %v; want %s", state, err, detached)
	}
}

// After a boot an overflowed COW that LVM has marked has the table of a merge, which merges nothing. The kernel's word is
// enough, whatever LVM makes of it.
func TestAMergeFromALostCOWIsNoMerge(t *testing.T) {
	r := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Volumes: []lvm.Volume{
		{VG: "vg00", Name: "dat", Kind: lvm.Linear},
		{VG: "vg00", Name: "dat_s", UUID: "u", Kind: lvm.Snapshot, Origin: "dat", Merging: true, State: lvm.Merging},
	}}}}
	m := &Member{VG: "vg00", LV: "dat", Snapshot: "dat_s", DMName: "vg00-dat", SnapshotDM: "vg00-dat_s", SnapshotID: "u"}
	whole := []lvm.Target{{Type: "snapshot-merge", Args: []string{"100/2048", "16"}}}
	invalid := []lvm.Target{{Type: "snapshot-merge", Args: []string{"Invalid"}}}
	if kernelState(whole) != merging || kernelLost(map[string][]lvm.Target{m.DMName: whole}, m) {
		t.Error("a merge is not known as one")
	}
	if kernelState(invalid) == merging || !kernelLost(map[string][]lvm.Target{m.DMName: invalid}, m) {
		t.Error("a merge from a lost COW is taken for one")
	}
	for given, want := range map[bool]string{true: lost, false: deferred} {
		if state, err := metadataState(r, m, given); state != want || errors.Is(err, fault.SnapshotInvalid) != given {
			t.Errorf("given up %v: %s, %v", given, state, err)
		}
	}
}
