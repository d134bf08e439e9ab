package rollback

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

const mib = 1 << 20

// server returns a fake LVM with two thick snapshots and a thin one.
func server() *lvmtest.Fake {
	return lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{
		{Name: "dat"}, {Name: "dat_s", Origin: "dat", Size: 32 * mib},
		{Name: "app"}, {Name: "app_s", Origin: "app", Size: 32 * mib},
		{Name: "pool", Kind: lvm.ThinPool}, {Name: "thin", Pool: "pool"}, {Name: "thin_s", Pool: "pool", Origin: "thin"},
	}})
}

// testServer returns a server with this LVM.
func testServer(f *lvmtest.Fake) Server {
	return Server{LVM: func(command.Runner) *lvm.LVM { return f.LVM() }, Sets: snapset.ThisServer()}
}

// newAtMerge returns a rollback to these snapshots that has come to the merge.
func newAtMerge(t *testing.T, f *lvmtest.Fake, snapshots ...string) *rollback {
	t.Helper()
	rb := newParts(&base{run: &journey.Run{}, server: testServer(f), lvm: f.LVM(), state: &State{Set: "s"}})
	rb.merges.overlap, rb.merges.metadataDir, rb.merges.openLimit, rb.guard.forget = false, "", 0, nil
	writeProtection{}.install(rb)
	r := readReport(t, rb)
	for _, name := range snapshots {
		v, ok := r.ByPath(name)
		if !ok {
			t.Fatal("no " + name)
		}
		m, err := newMember(r, v)
		if err != nil {
			t.Fatal(err)
		}
		m.Protect = true
		rb.state.Members = append(rb.state.Members, m)
	}
	return rb
}

func readReport(t *testing.T, rb *rollback) *lvm.Report {
	t.Helper()
	r, err := rb.lvm.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var allSnapshots = []string{"vg00/dat_s", "vg00/app_s", "vg00/thin_s"}

// checkMerging fails the test unless every member merges or is merged.
func checkMerging(t *testing.T, rb *rollback) {
	t.Helper()
	states, err := rb.survey.states(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for m, state := range states {
		if state != stateMerging && state != stateMerged {
			t.Errorf("%s is %s", m.snapshot(), state)
		}
	}
}

func TestMergeOfAllIsOneCommand(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	rb := newAtMerge(t, f, allSnapshots...)
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkMerging(t, rb)
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

// Whichever command fails once, a second run of the same code completes the merges.
func TestFailedMergeIsCompletedBySecondRun(t *testing.T) {
	for n := 1; ; n++ {
		f := server()
		f.Fill("vg00/dat_s", 50)
		rb := newAtMerge(t, f, allSnapshots...)
		f.FailAt(len(f.Commands())+n, errors.New("no such luck"))
		ran := len(f.Commands())
		err := rb.merges.begin(t.Context())
		if len(f.Commands())-ran < n {
			return // a merge runs fewer commands than n
		}
		if err != nil {
			err = rb.merges.begin(t.Context())
		}
		if err != nil {
			t.Errorf("command %d: %v", n, err)
		}
		checkMerging(t, rb)
	}
}

// If the program is killed, or the power fails, before or after any command, a second run completes the merges, and
// takes no member for merged that is not.
func TestKilledMergeIsCompletedBySecondRun(t *testing.T) {
	for name, arm := range map[string]func(f *lvmtest.Fake, n int){
		"before": func(f *lvmtest.Fake, n int) { f.DieAt(n) },
		"after":  func(f *lvmtest.Fake, n int) { f.DieAfter(n) },
	} {
		for _, power := range []bool{false, true} {
			for n := 1; ; n++ {
				f := server()
				f.Fill("vg00/dat_s", 50)
				rb := newAtMerge(t, f, allSnapshots...)
				arm(f, len(f.Commands())+n)
				if !isKilled(func() { _ = rb.merges.begin(t.Context()) }) {
					break
				}
				if power {
					f.PowerCut()
				}
				if err := rb.merges.begin(t.Context()); err != nil {
					t.Errorf("%s command %d: %v", name, n, err)
				}
				checkMerging(t, rb)
			}
		}
	}
}

// isKilled runs f and reports whether the fake LVM killed it.
func isKilled(f func()) (died bool) {
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

// A merge that LVM has deferred, because it found the volume open for a moment, has not begun.
func TestDeferredMergeStartsWhenVolumeIsClosed(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s", "vg00/app_s")
	f.SetOpen("vg00/dat", 1)
	if err := rb.lvm.Merge(t.Context(), allSnapshots[:2]...); err != nil {
		t.Fatal(err)
	}
	states, err := rb.survey.states(t.Context())
	if err != nil || states[rb.state.Members[0]] != stateDeferred || states[rb.state.Members[1]] != stateMerging {
		t.Fatalf("%v %v", states, err)
	}
	f.SetOpen("vg00/dat", 0)
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkMerging(t, rb)
}

// slowLvconvert is an LVM whose lvconvert ends only after release is closed, although the kernel merges already.
type slowLvconvert struct {
	*lvmtest.Fake
	release chan struct{}
}

func (s slowLvconvert) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	out, err := s.Fake.Run(ctx, c)
	if c.Argv[1] == "lvconvert" {
		<-s.release
	}
	return out, err
}

// begin returns when the kernel merges, before lvconvert ends; the rollback waits for the end of lvconvert later.
func TestMergeReturnsBeforeLvconvertEnds(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, allSnapshots[:2]...)
	slow := slowLvconvert{f, make(chan struct{})}
	rb.lvm, rb.merges.ready, rb.merges.overlap = lvm.New(slow).On(f.Mapper), true, true
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkMerging(t, rb)
	joined := make(chan struct{})
	go func() { rb.merges.awaitLvconvert(); close(joined) }()
	select {
	case <-joined:
		t.Error("lvconvert was not waited for")
	case <-time.After(10 * time.Millisecond):
	}
	close(slow.release)
	<-joined
}

func TestMergeNamesOverflowedMember(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s", "vg00/app_s")
	beginAt(t, rb, stepMerging)
	f.Fill("vg00/dat_s", 100)
	err := rb.merges.begin(t.Context())
	if !errors.Is(err, fault.SnapshotInvalid) || !strings.Contains(err.Error(), "vg00/dat_s") {
		t.Error(err)
	}
}

// The kernel has merged everything and LVM's poller is gone: wait ends all the same.
func TestWaitMergedWithoutAPoller(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	rb := newAtMerge(t, f, "vg00/dat_s")
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.KillPoller()
	for range 30 {
		f.Tick()
	}
	bytes, idle, err := rb.survey.remaining(t.Context())
	if err != nil || bytes != 0 || len(idle) != 1 {
		t.Fatalf("%d %v %v", bytes, idle, err)
	}
	if err := rb.merges.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, exists := readReport(t, rb).ByPath("vg00/dat_s"); exists {
		t.Error("the snapshot is still there")
	}
}

func TestRecheckFindsOverflowsAndOpenVolumes(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, allSnapshots...)
	if err := rb.survey.recheck(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/dat_s", 100)
	f.Fill("vg00/app_s", 100)
	err := rb.survey.recheck(t.Context())
	if !errors.Is(err, fault.SnapshotInvalid) && fault.Of(err).Code != fault.SnapshotInvalid {
		t.Error(err)
	}
	for _, name := range allSnapshots[:2] {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	f = server()
	rb = newAtMerge(t, f, allSnapshots...)
	f.SetOpen("vg00/thin", 1)
	err = rb.survey.recheck(t.Context())
	if fault.Of(err) == nil || fault.Of(err).Code != fault.Busy || !strings.Contains(err.Error(), "vg00/thin") {
		t.Error(err)
	}
}

func TestMergeFailsWithCancelledContext(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := rb.merges.begin(ctx); err == nil {
		t.Error("merged although the context was cancelled")
	}
}

// A lost member stays lost after its snapshot is removed, as the hint of the fault says, although LVM then shows no
// difference between it and a merged member. The services stay stopped.
func TestLostMemberStaysLostAfterSnapshotIsRemoved(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s", "vg00/app_s")
	beginAt(t, rb, stepMerging)
	rb.state.Start = true
	f.Fill("vg00/dat_s", 50)
	if err := rb.lvm.Merge(t.Context(), "vg00/dat_s"); err != nil {
		t.Fatal(err)
	}
	f.Fill("vg00/app_s", 100)
	if err := rb.merges.begin(t.Context()); !errors.Is(err, fault.SnapshotInvalid) {
		t.Fatal("a lost member:", err)
	}
	f.Remove("vg00/app_s")
	resumed, err := rb.server.reopen(rb.run, rb.entry())
	if err != nil {
		t.Fatal(err)
	}
	resumed.lvm = rb.lvm
	if err := resumed.merges.begin(t.Context()); err != nil {
		t.Fatal("without it:", err)
	}
	trouble := resumed.state.notRolledBack()
	if len(trouble) != 1 || !strings.Contains(trouble[0].Msg, "vg00/app") || resumed.state.Start {
		t.Errorf("%v, services are started: %v", trouble, resumed.state.Start)
	}
	if state, _ := memberProgress(nil, resumed.state.Members[1], resumed.entry()); state != stateNotRolledBack {
		t.Errorf("the result says %s", state)
	}
}

// An LVM command that was killed, or failed, may leave a volume suspended. Whatever mounts it would hang.
func TestMergeResumesSuspendedVolume(t *testing.T) {
	f := server()
	f.Fill("vg00/dat_s", 50)
	rb := newAtMerge(t, f, "vg00/dat_s")
	if err := rb.merges.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Suspend("vg00/dat", false)
	if err := rb.merges.begin(t.Context()); err != nil || f.Suspended("vg00/dat") {
		t.Errorf("suspended: %v, %v", f.Suspended("vg00/dat"), err)
	}
}

// After a power cut LVM 2.03.16 may end a merge without removing the COW volume, which is then no snapshot any more.
func TestLeftoverCOWVolumeCountsAsDetached(t *testing.T) {
	r := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Volumes: []lvm.Volume{
		{VG: "vg00", Name: "dat", Kind: lvm.Linear}, {VG: "vg00", Name: "dat_s", UUID: "u", Kind: lvm.Linear},
	}}}}
	m := &Member{VG: "vg00", LV: "dat", Snapshot: "dat_s", SnapshotID: "u"}
	state, err := (&survey{}).metadataState(r, m, false)
	if err != nil || state != stateDetached {
		t.Errorf("%s, %v; want %s", state, err, stateDetached)
	}
}

// Another program may have removed that volume by then, and made one of its name.
func TestOnlyTheLeftoverCOWVolumeIsRemoved(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		f := lvmtest.New(lvmtest.Group{Name: "vg00", Volumes: []lvmtest.Volume{{Name: "dat"}, {Name: "dat_s"}}})
		rb := newParts(&base{lvm: f.LVM()})
		leftover, _ := readReport(t, rb).Volume("vg00", "dat_s")
		if replaced {
			f.Remove("vg00/dat_s")
			f.Make("vg00", lvmtest.Volume{Name: "dat_s"})
		}
		m := &Member{VG: "vg00", LV: "dat", Snapshot: "dat_s", SnapshotID: leftover.UUID}
		if err := rb.merges.removeDetached(t.Context(), []*Member{m}); err != nil {
			t.Error(err)
		}
		if _, exists := readReport(t, rb).Volume("vg00", "dat_s"); exists != replaced {
			t.Errorf("replaced %v: the volume exists: %v", replaced, exists)
		}
	}
}

// After a boot an overflowed snapshot that LVM has marked as merging has the table of a merge, which merges nothing.
// What the kernel shows decides, not what LVM has recorded.
func TestMergeFromOverflowedSnapshotCountsAsLost(t *testing.T) {
	r := &lvm.Report{Groups: []lvm.Group{{Name: "vg00", Volumes: []lvm.Volume{
		{VG: "vg00", Name: "dat", Kind: lvm.Linear},
		{VG: "vg00", Name: "dat_s", UUID: "u", Kind: lvm.Snapshot, Origin: "dat", Merging: true, State: lvm.Merging},
	}}}}
	m := &Member{VG: "vg00", LV: "dat", Snapshot: "dat_s", DMName: "vg00-dat", SnapshotDM: "vg00-dat_s", SnapshotID: "u"}
	whole := []lvm.Target{{Type: "snapshot-merge", Args: []string{"100/2048", "16"}}}
	invalid := []lvm.Target{{Type: "snapshot-merge", Args: []string{"Invalid"}}}
	if kernelState(whole) != stateMerging || isLostInKernel(map[string][]lvm.Target{m.DMName: whole}, m) {
		t.Error("a merge is not recognised")
	}
	if kernelState(invalid) == stateMerging || !isLostInKernel(map[string][]lvm.Target{m.DMName: invalid}, m) {
		t.Error("a merge from an overflowed snapshot counts as a merge")
	}
	for given, want := range map[bool]string{true: stateLost, false: stateDeferred} {
		state, err := (&survey{}).metadataState(r, m, given)
		if state != want || errors.Is(err, fault.SnapshotInvalid) != given {
			t.Errorf("given up %v: %s, %v", given, state, err)
		}
	}
}

// An lvconvert that outlives its limit may begin the merges at any later time, so nothing is decided while it runs: the
// services stay down, and a later run finishes the rollback.
func TestMergeThatOutlivesItsLimitIsNotUndone(t *testing.T) {
	for _, overlap := range []bool{false, true} {
		f := server()
		f.Fill("vg00/dat_s", 50)
		rb := newAtMerge(t, f, allSnapshots...)
		rb.systemd, rb.commands = &service.Systemd{}, command.NewRecorder(f)
		rb.merges.ready, rb.merges.overlap = true, overlap
		beginAt(t, rb, stepMerging)
		f.Outlive("lvconvert")
		err := rb.mergeAndStartOrAbort(t.Context())
		if !errors.Is(err, lvm.ErrUnfinished) || !errors.Is(err, fault.Timeout) ||
			!strings.Contains(err.Error(), "the services stay down") {
			t.Errorf("overlap %v: %v", overlap, err)
		}
		if e := rb.entry(); e.Step != stepMerging || e.Outcome != journal.Unfinished || !isGuarded(t, rb) {
			t.Errorf("overlap %v: %s %q, guard: %v", overlap, e.Step, e.Outcome, isGuarded(t, rb))
		}
		if n := countCommands(f, "lvconvert"); n != 1 {
			t.Errorf("overlap %v: %d lvconverts were started", overlap, n)
		}
		readReport(t, rb) // now lvconvert goes on
		if begun, err := rb.survey.hasBegun(t.Context()); !begun || err != nil {
			t.Errorf("overlap %v: begun: %v, %v", overlap, begun, err)
		}
	}
}

// Taking the merges back is not decided either while the command for it may still run.
func TestUnmergeThatOutlivesItsLimitIsNotDecided(t *testing.T) {
	f := server()
	rb := newAtMerge(t, f, "vg00/dat_s")
	rb.systemd, rb.commands = &service.Systemd{}, command.NewRecorder(f)
	rb.merges.metadataDir, rb.merges.openLimit, rb.merges.ready = t.TempDir(), 0, true
	beginAt(t, rb, stepMerging)
	rb.merges.keepMetadata(t.Context())
	f.SetOpen("vg00/dat", 1)
	f.Outlive("vgcfgrestore")
	err := rb.mergeAndStartOrAbort(t.Context())
	if !errors.Is(err, lvm.ErrUnfinished) || rb.entry().Step != stepMerging {
		t.Errorf("%s: %v", rb.entry().Step, err)
	}
}

// countCommands returns how many commands with this word were run.
func countCommands(f *lvmtest.Fake, word string) (n int) {
	for _, argv := range f.Commands() {
		if slices.Contains(argv, word) {
			n++
		}
	}
	return n
}
