package rollback

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/service/servicetest"
)

// At an automount point only systemd can mount, and the mount waits for the check of its file system.
func TestHeldUnitsSeparatesUnitsBelowAutomounts(t *testing.T) {
	const fsck = "systemd-fsck@dev-vg00-app.service"
	rb := newParts(&base{state: &State{
		Held: []string{"dat.mount", "app.mount", fsck}, Services: service.Plan{Stop: []string{"db.service"}},
	}})
	below, others := rb.state.heldUnits()
	if len(below) != 0 || len(others) != 4 {
		t.Errorf("without an automount: %v, %v", below, others)
	}
	rb.state.Automounts = service.Plan{Active: []string{"app.automount"}}
	below, others = rb.state.heldUnits()
	if !slices.Equal(below, []string{"app.mount", fsck}) || !slices.Equal(others, []string{"dat.mount", "db.service"}) {
		t.Errorf("with one: %v, %v", below, others)
	}
}

func TestUnknownMounts(t *testing.T) {
	app := filesystem.Dev{Major: 253, Minor: 1}
	mounts := []filesystem.Mount{
		{ID: 1, Dev: app, Root: "/", Point: "/app"},
		{ID: 2, Dev: app, Root: "/", Point: "/srv/again"},
		{ID: 3, Dev: app, Root: "/logs", Point: "/var/log/app"}, // a bind mount of a part
		{ID: 4, Dev: filesystem.Dev{Major: 253, Minor: 2}, Root: "/", Point: "/dat"},
	}
	since := unknownMounts(mounts, mountsAt("/app", "/srv/gone"), []filesystem.Dev{app})
	if len(since) != 1 || since[0].Point != "/srv/again" {
		t.Errorf("%+v", since)
	}
}

// The automount daemon is the process group of an autofs mount. systemd's own automounts are held, and so are no
// holders.
func TestForeignAutomounterIsAHolder(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	mounts := []filesystem.Mount{
		{ID: 1, Root: "/", Point: "/app", Type: filesystem.Autofs, Super: "rw,fd=50,pgrp=1,timeout=2,direct"},
		{ID: 2, Root: "/", Point: "/misc", Type: filesystem.Autofs, Super: "rw,fd=7,pgrp=" + self + ",indirect"},
		{ID: 3, Parent: 1, Root: "/", Point: "/app"},
		{ID: 4, Parent: 2, Root: "/", Point: "/misc/dat"},
	}
	got := automounters(mounts, mounts[2:])
	if len(got) != 1 || got[0].Path != "/misc" || got[0].PID != os.Getpid() || got[0].Command == "" {
		t.Errorf("%+v", got)
	}
	if kill, rest := splitKillable(got); len(kill) != 0 || len(rest) != 1 {
		t.Errorf("it would be killed, with what it has mounted: %+v", kill)
	}
}

// A later run on the volume group settles a rollback whose volumes cannot be mounted. Nothing is held any more, and an
// administrator has got the service running in some other way: it is not stopped at four in the morning.
func TestServiceStartedAfterAFailedRunStays(t *testing.T) {
	for _, isHeld := range []bool{false, true} {
		systemd := servicetest.New()
		systemd.Add("db.service", "active")
		rb := newAtMerge(t, server(), allSnapshots...)
		beginAt(t, rb, stepUndoing)
		rb.base.systemd = service.On(systemd.Connect(nil), "", "", "")
		rb.state.Services = service.Plan{Stop: []string{"db.service"}}
		if isHeld {
			_, hold := rb.holds.names()
			systemd.Add(hold, "active")
		}
		err := rb.holds.releaseOthers(t.Context(), true)
		if wouldStop := errors.Is(err, fault.Unsupported); wouldStop != isHeld { // without control groups nothing is stopped
			t.Errorf("held %v: %v", isHeld, err)
		}
	}
}
