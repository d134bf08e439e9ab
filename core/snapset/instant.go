package snapset

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Method is how it comes that nobody writes to a member at the set's instant.
type Method string

// The methods.
const (
	// ByLVM is lvcreate's own suspend: a set of one, or each by itself.
	ByLVM Method = "lvm"
	// Closed is a member without a device: nobody can write to it.
	Closed Method = "closed"
	// Held is lvcreate, whose snapshot is made anew at the instant, while device-mapper holds all writes.
	Held Method = "hold"
)

// choose gives every member its method, or says why no single instant can be had.
func (v *View) choose(p *Plan, targets []Target) error {
	home, _ := filesystem.Holding(v.Mounts, v.Journal)
	var wrong []error
	for i, m := range p.Members {
		t := &targets[i]
		mounted := len(t.Mounts) > 0
		m.Home = v.Journal != "" && mounted && t.FS == home.Dev
		switch {
		case !p.late() || p.Each:
			m.Method = ByLVM
			continue
		case !t.LV.Active:
			m.Method = Closed
			continue
		}
		m.Method = Held
		if t.Crypt != "" && mounted { // the suspend of the volume freezes what lies on it, and nothing above that
			m.Target = &filesystem.Target{Point: t.Mounts[0].Point, Dev: t.FS}
		}
		wrong = append(wrong, v.holdable(t))
	}
	return fault.All(wrong...)
}

// holdable refuses a volume whose device is not its own, but belongs to what uses it: there is nothing that could be
// held and of which a pool could make a snapshot.
func (v *View) holdable(t *Target) error {
	var thick []string
	for _, s := range v.Report.Snapshots(t.LV) {
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
