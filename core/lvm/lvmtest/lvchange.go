package lvmtest

import (
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/lvm"
)

func (f *Fake) lvchange(o options, names []string) (string, error) {
	return f.onEach(names, func(v *volume) error {
		switch {
		case o.has("--addtag") || o.has("--deltag"):
			v.retag(o["--addtag"], o["--deltag"])
			v.skipped = v.skipped && o.one("--setactivationskip") != "n"
		case o.has("--refresh"):
			v.layered = len(v.vg.snapshots(v)) > 0
			v.prepared = nil
			v.resume()
			for _, s := range v.vg.snapshots(v) {
				if s.live != nil || s.prepared != nil { // LVM loads the snapshots' tables, too
					f.makeLive(s)
				}
			}
			v.startDeferred()
		case o.one("--poll") == "y":
			f.poller = true
			f.finishMerges()
		case o.one("--activate") == "y" && o.has("--ignoreactivationskip"):
			if v.deleted {
				return says("device-mapper: reload ioctl on  (%d:%d) failed: No data available", major, v.minor)
			}
			v.active = true
			for _, s := range v.vg.snapshots(v) {
				s.active = s.active || s.Kind == lvm.Snapshot
			}
			v.startDeferred()
			f.poller = true
		case o.one("--activate") == "n" && v.Kind == lvm.Snapshot:
			return says("Change of snapshot %s will also change its origin. Proceed? [y/n]: [n]\n"+
				"Logical volume %s not changed.", v.fullName(), v.fullName())
		case o.one("--activate") == "n":
			return v.deactivate()
		default:
			panic(fmt.Sprintf("lvmtest: lvchange with %v", o))
		}
		return nil
	})
}

func (v *volume) retag(add, remove []string) {
	v.Tags = slices.DeleteFunc(slices.Clone(v.Tags), func(t string) bool { return slices.Contains(remove, t) })
	for _, t := range add {
		if !slices.Contains(v.Tags, t) {
			v.Tags = append(v.Tags, t)
		}
	}
}

func (v *volume) startDeferred() {
	for _, s := range v.vg.snapshots(v) {
		if s.merging && !s.running && v.Open == 0 && s.Open == 0 {
			s.startMerge()
		}
	}
}

func (v *volume) deactivate() error {
	if v.Open > 0 {
		return says("Logical volume %s contains a filesystem in use.", v.fullName())
	}
	v.active, v.suspended = false, false
	for _, s := range v.vg.snapshots(v) {
		s.active = s.active && s.Kind != lvm.Snapshot
	}
	return nil
}
