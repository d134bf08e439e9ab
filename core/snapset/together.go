package snapset

import (
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
)

// CheckSeparable refuses a set in which each volume has an instant of its own if some of its targets are of use only at
// one instant: a file system and its log, journal or real-time device, and the volumes that one device is made of.
// Faults: unsupported, internal.
func (v *View) CheckSeparable(targets []Target) error {
	var errs []error
	lowest := map[filesystem.Dev]*Target{} // by a device that is made of it: the first target
	for i := range targets {
		t := &targets[i]
		for _, n := range t.Needs {
			if n.LV != nil {
				errs = append(errs, notSeparable(t, n.LV.FullName(), "its "+n.What+" lies on the other"))
			}
		}
		above, err := allAbove(v.Sysfs, t.FS)
		errs = append(errs, err)
		for _, layer := range above {
			if first := lowest[layer.Dev]; first != nil {
				errs = append(errs, notSeparable(first, t.LV.FullName(), layer.Name+" is made of both"))
				break
			}
			lowest[layer.Dev] = t
		}
	}
	return fault.All(errs...)
}

// notSeparable returns the fault that a target and another volume are of use only at one instant.
func notSeparable(t *Target, other, why string) error {
	return unsupported("%s and %s would be damaged by a rollback to two instants: %s", t.LV.FullName(), other, why).
		WithHint("take both at one instant, in a set of their own if other volumes need consistency=volume")
}
