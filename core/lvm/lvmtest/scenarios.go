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

// Host is what a scenario runs on: a Fake, or a machine with real LVM and an
// empty volume group of 1.5 GiB or more.
type Host interface {
	command.Runner
	Make(vg string, v Volume)           // linear, thin pool or thin
	Write(name string, bytes int64)     // changes bytes that were not changed before
	SetOpen(name string, times int)     // holds the device open, or lets go of it
	SetFrozen(name string, frozen bool) // freezes a file system on it, or thaws it
	Tick()                              // lets time pass
}

// Scenario is one thing that LVM does, as package lvm reports it.
type Scenario struct {
	Name string
	Run  func(t *testing.T, s Bench)
}

// Bench is what a scenario works with.
type Bench struct {
	Host   Host
	VG     string
	LVM    *lvm.LVM
	Mapper lvm.Mapper
}

// Scenarios returns what the Fake and real LVM must both do.
func Scenarios() []Scenario {
	return []Scenario{
		{"snapshot", snapshot},
		{"refusals leave nothing", refusals},
		{"overflow", overflow},
		{"merge of a closed origin", mergeClosed},
		{"merge of an open origin waits", mergeDeferred},
		{"merges that wait are taken back", mergeTakenBack},
		{"half a merge", mergeHalf},
		{"a merge fills the other snapshot", mergeFillsSibling},
		{"thin merge", thinMerge},
		{"thin merge of an open origin waits", thinDeferred},
		{"one instant of snapshots that exist", instant},
		{"an instant at its limit", instantExpires},
		{"an instant that another program ends", instantInterfered},
		{"an instant that an LVM command was ahead of", instantForestalled},
		{"one instant of thin snapshots", thinInstant},
		{"a thin snapshot that an instant left deleted", thinLeft},
		{"a thin snapshot that is not the one", thinForestalled},
		{"an instant of thin snapshots at its limit", thinExpires},
		{"what a killed command left", leftovers},
		{"frozen origin", frozen},
		{"extend", extend},
		{"remove", remove},
		{"tags", tags},
		{"activation", activation},
		{"a suspended thin origin damages its pool", poolDamage},
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

func (b Bench) gone(t *testing.T, lv string) bool {
	t.Helper()
	_, there := b.report(t).Volume(b.VG, lv)
	return !there
}

// linear makes a linear volume of 64 MiB.
func (b Bench) linear(lv string) {
	b.Host.Make(b.VG, Volume{Name: lv, Size: 64 * mib})
}

// thin makes a thin pool and a thin volume in it.
func (b Bench) thin(lv string) {
	b.Host.Make(b.VG, Volume{Name: "pool", Kind: lvm.ThinPool, Size: 128 * mib})
	b.Host.Make(b.VG, Volume{Name: lv, Pool: "pool", Size: 64 * mib})
}

func (b Bench) create(t *testing.T, origin, name string, extents int64, tags ...string) {
	t.Helper()
	c := lvm.Create{VG: b.VG, Origin: origin, Name: name, Extents: extents, Tags: tags}
	if err := b.LVM.CreateSnapshot(context.Background(), c); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

// refused checks that an error is of a code.
func refused(t *testing.T, err error, code fault.Code) {
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

// until lets time pass until a condition holds.
func (b Bench) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		b.Host.Tick()
	}
}

// kernel returns the status of a device that has one target.
func (b Bench) kernel(t *testing.T, lv string) lvm.Target {
	t.Helper()
	status, err := b.LVM.Status(context.Background())
	must(t, err)
	targets := status[lvm.DMName(b.VG, lv)]
	if len(targets) != 1 {
		t.Fatalf("%s has targets %v", lv, targets)
	}
	return targets[0]
}
