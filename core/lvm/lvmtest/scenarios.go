package lvmtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// Host is the machine that a scenario runs on: a Fake, or a machine with real LVM and an empty volume group of 1.5 GiB
// or more. Volumes are named vg/lv.
type Host interface {
	command.Runner
	Make(vg string, v Volume)           // makes a linear volume, a thin pool or a thin volume
	Write(name string, bytes int64)     // changes that many bytes of a volume, which were not changed before
	SetOpen(name string, times int)     // holds the volume's device open; 0: closes it
	SetFrozen(name string, frozen bool) // freezes a file system on the volume, or thaws it
	Tick()                              // lets time pass
}

// Scenario is one behaviour of LVM, as package lvm shows it.
type Scenario struct {
	Name string
	Run  func(t *testing.T, s Bench)
}

// Bench is what a scenario works with: a host, an empty volume group on it, and the host's LVM and device-mapper.
type Bench struct {
	Host   Host
	VG     string
	LVM    *lvm.LVM
	Mapper lvm.Mapper
}

// Scenarios returns the behaviour that the Fake and real LVM must share.
func Scenarios() []Scenario {
	return []Scenario{
		{"thick snapshot", thickSnapshot},
		{"a refused snapshot leaves nothing", refusedSnapshots},
		{"an overflowed snapshot is invalid", overflow},
		{"merge into a closed origin", mergeOfClosedOrigin},
		{"merge into an open origin is deferred", mergeOfOpenOrigin},
		{"merge into an inactive origin is deferred", mergeOfInactiveOrigin},
		{"deferred merges are taken back", deferredMergesTakenBack},
		{"one of two merges is refused", mergeOfOneFails},
		{"merge into a read-only origin", mergeOfReadOnlyOrigin},
		{"a merge fills the other snapshot of its origin", mergeFillsSibling},
		{"thin merge into a closed origin", thinMerge},
		{"thin merge into an open origin is deferred", thinMergeOfOpenOrigin},
		{"thin merge into an inactive origin", thinMergeOfInactiveOrigin},
		{"instant of thick snapshots", thickInstant},
		{"a thick snapshot that another program made anew is refused", thickSnapshotMadeAnewByAnother},
		{"instant of thick snapshots reaches its limit", thickInstantReachesLimit},
		{"another program resumes an origin during an instant", originResumedByAnother},
		{"an LVM command makes a snapshot live before the instant", thickSnapshotLiveTooEarly},
		{"instant of thin snapshots", thinInstant},
		{"thin snapshots that an abandoned instant deleted are removed", thinInstantAbandoned},
		{"a thin snapshot that another program changed is refused", thinSnapshotChangedByAnother},
		{"instant of thin snapshots reaches its limit", thinInstantReachesLimit},
		{"leftovers of a killed command are cleaned up", leftoversOfKilledCommand},
		{"snapshot of a frozen origin", frozenOrigin},
		{"extend", extend},
		{"remove", remove},
		{"only what was seen is removed", removeOnlyWhatWasSeen},
		{"tags", tags},
		{"activation", activation},
		{"snapshot of an inactive origin", snapshotOfInactiveOrigin},
		{"a snapshot of a suspended thin origin damages the pool", suspendedOriginDamagesPool},
	}
}

func (b Bench) name(lv string) string { return b.VG + "/" + lv }

func (b Bench) report(t *testing.T) *lvm.Report {
	t.Helper()
	r, err := b.LVM.Report(context.Background())
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	return r
}

func (b Bench) volume(t *testing.T, lv string) *lvm.Volume {
	t.Helper()
	v, err := b.report(t).Need(b.VG, lv)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// isGone reports whether the volume group has no such volume.
func (b Bench) isGone(t *testing.T, lv string) bool {
	t.Helper()
	_, exists := b.report(t).Volume(b.VG, lv)
	return !exists
}

// makeLinear makes a linear volume of 64 MiB.
func (b Bench) makeLinear(lv string) {
	b.Host.Make(b.VG, Volume{Name: lv, Size: 64 * mib})
}

// makeThin makes a thin pool and a thin volume in it.
func (b Bench) makeThin(lv string) {
	b.Host.Make(b.VG, Volume{Name: "pool", Kind: lvm.ThinPool, Size: 128 * mib})
	b.Host.Make(b.VG, Volume{Name: lv, Pool: "pool", Size: 64 * mib})
}

// mustSnapshot takes a snapshot: a thick one with that many extents of COW space, or a thin one with 0.
func (b Bench) mustSnapshot(t *testing.T, origin, name string, extents int64, tags ...string) {
	t.Helper()
	c := lvm.SnapshotSpec{VG: b.VG, Origin: origin, Name: name, Extents: extents, Tags: tags}
	if err := b.LVM.CreateSnapshot(context.Background(), c); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

// checkFault checks that an error is a fault with the given code.
func checkFault(t *testing.T, err error, code fault.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("got %v (%v), want %s", err, fault.Of(err), code)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// waitUntil lets time pass until a condition holds, for two minutes at most.
func (b Bench) waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until: %s", what)
		}
		b.Host.Tick()
	}
}

// kernelTarget returns the kernel's status of a volume's device, which must have exactly one target.
func (b Bench) kernelTarget(t *testing.T, lv string) lvm.Target {
	t.Helper()
	status, err := b.LVM.Status(context.Background())
	must(t, err)
	targets := status[lvm.DMName(b.VG, lv)]
	if len(targets) != 1 {
		t.Fatalf("%s has targets %v", lv, targets)
	}
	return targets[0]
}
