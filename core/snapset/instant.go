package snapset

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Method is how a member is kept from being written to at the set's instant.
type Method string

// The methods.
const (
	// ByLVM is lvcreate's own suspend of the volume, for a set of one volume and for volumes that are taken each by
	// itself.
	ByLVM Method = "lvm"
	// Closed is for an inactive volume: it has no device, so nobody can write to it.
	Closed Method = "closed"
	// Held is for all other volumes: lvcreate makes the snapshot, and it is made again at the set's instant, while
	// device-mapper holds all writes.
	Held Method = "hold"
)

// chooseMethods gives every member its method, or says why the members cannot have a common instant.
func (pl *planner) chooseMethods() error {
	p, v := pl.plan, pl.view
	journalMount, _ := filesystem.Holding(v.Mounts, v.Journal)
	var errs []error
	for i, m := range p.Members {
		t := &pl.targets[i]
		mounted := len(t.Mounts) > 0
		m.Home = v.Journal != "" && mounted && t.FS == journalMount.Dev
		switch {
		case !p.hasSeveralMembers() || p.Each:
			m.Method = ByLVM
			continue
		case !t.LV.Active:
			m.Method = Closed
			continue
		}
		m.Method = Held
		if t.Crypt != "" && mounted { // a suspend of the volume does not freeze the file system on the crypt device
			m.Target = &filesystem.Target{Point: t.Mounts[0].Point, Dev: t.FS}
		}
		errs = append(errs, checkHoldable(v.Report, t))
	}
	return fault.All(errs...)
}

// checkHoldable fails with no_single_instant for a volume whose device belongs to its thick snapshots or its thin
// volumes: there is no device that could be held, and of which a pool could make a snapshot.
func checkHoldable(r *lvm.Report, t *Target) error {
	var thick []string
	for _, s := range r.Snapshots(t.LV) {
		if s.Kind == lvm.Snapshot {
			thick = append(thick, s.FullName())
		}
	}
	why := ""
	switch {
	case t.LV.Kind == lvm.Thin && len(thick) > 0:
		why = "is thin and has thick snapshots (" + strings.Join(thick, ", ") + ")"
	case t.LV.IsExternalOrigin:
		why = "is the external origin of thin volumes"
	default:
		return nil
	}
	return fault.New(fault.NoSingleInstant, "%s %s: it cannot be held for the instant of a set", t.LV.FullName(), why).
		With("volumes", []string{t.LV.FullName()}).
		WithHint("take it in a set of its own, or give consistency=volume if each volume may be of its own instant")
}
