package lvmtest

import (
	"fmt"
	"slices"

	"go.pcc.com/rewind/core/lvm"
)

func (f *Fake) lvchange(o options, names []string) (string, error) {
	return f.forEach(names, func(v *volume) error {
		switch {
		case o.has("--addtag") || o.has("--deltag"):
			v.changeTags(o["--addtag"], o["--deltag"])
			v.skipActivation = v.skipActivation && o.value("--setactivationskip") != "n"
		case o.has("--setautoactivation"):
			v.Manual = o.value("--setautoactivation") == "n"
		case o.has("--permission"):
			v.readOnly = o.value("--permission") == "r"
		case o.has("--refresh") && !v.active: // LVM does nothing, and says nothing
		case o.has("--refresh"):
			v.hasInner = len(v.vg.snapshots(v)) > 0
			v.preparedTable = nil
			v.resume()
			for _, s := range v.vg.snapshots(v) {
				if s.liveTable != nil || s.preparedTable != nil { // LVM also loads the tables of the snapshots anew
					f.makeLive(s)
				}
			}
			v.startDeferredMerges()
		case o.value("--poll") == "y":
			f.pollerAlive = true
			f.finishMerges()
		case o.value("--activate") == "y" && o.has("--ignoreactivationskip"):
			if v.deletedInPool {
				return lvmError("device-mapper: reload ioctl on  (%d:%d) failed: No data available", major, v.minor)
			}
			v.active = true
			for _, s := range v.vg.snapshots(v) {
				s.active = s.active || s.Kind == lvm.Snapshot
			}
			v.startDeferredMerges()
			f.pollerAlive = true
		case o.value("--activate") == "n" && v.Kind == lvm.Snapshot:
			return lvmError("Change of snapshot %s will also change its origin. Proceed? [y/n]: [n]\n"+
				"Logical volume %s not changed.", v.fullName(), v.fullName())
		case o.value("--activate") == "n":
			return v.deactivate()
		default:
			panic(fmt.Sprintf("lvmtest: lvchange with %v", o))
		}
		return nil
	})
}

// changeTags removes and adds tags.
func (v *volume) changeTags(add, remove []string) {
	v.Tags = slices.DeleteFunc(slices.Clone(v.Tags), func(t string) bool { return slices.Contains(remove, t) })
	for _, t := range add {
		if !slices.Contains(v.Tags, t) {
			v.Tags = append(v.Tags, t)
		}
	}
}

// startDeferredMerges starts the deferred merges into v for which neither v nor the snapshot is open any more.
func (v *volume) startDeferredMerges() {
	for _, s := range v.vg.snapshots(v) {
		if s.merging && !s.kernelMerging && v.canBeginMerge(s) {
			s.startMerge()
		}
	}
}

func (v *volume) deactivate() error {
	if v.Open > 0 {
		return lvmError("Logical volume %s contains a filesystem in use.", v.fullName())
	}
	v.active, v.suspended = false, false
	for _, s := range v.vg.snapshots(v) {
		if s.Kind == lvm.Snapshot {
			s.active, s.kernelMerging = false, false
		}
	}
	return nil
}
