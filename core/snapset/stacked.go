package snapset

import (
	"slices"

	"go.pcc.com/rewind/core/filesystem"
)

// checkStacked refuses a target that other devices are made of if a set of it would be useless or cannot be taken: a
// physical volume of LVM; one of several devices that make up another one, such as an md array, if not all of them are
// in the set; and a target that lies in a file on another target.
func (v *View) checkStacked(t *Target, targets []Target) error {
	above, err := allAbove(v.Sysfs, t.FS)
	if err != nil {
		return err
	}
	for _, layer := range above {
		if layer.Kind == "lvm" {
			return unsupported("%s is a physical volume of LVM: %s lies on it", t.LV.FullName(), v.layerName(layer)).
				WithHint("name the volumes that lie on it instead: LVM would see the physical volume twice")
		}
		below, err := filesystem.Below(v.Sysfs, layer.Dev)
		if err != nil {
			return err
		}
		for _, b := range below {
			inSet, err := v.consistsOfTargets(b, targets)
			if err != nil {
				return err
			}
			if !inSet {
				return unsupported("%s: %s is made of it and of %s, which is not in the set",
					t.LV.FullName(), layer.Name, v.layerName(b)).
					WithHint("name all that %s is made of, or leave it out", layer.Name)
			}
		}
	}
	return v.checkLoopFile(t, targets)
}

// allAbove returns all devices that are made of a device, directly or through others.
func allAbove(sysfs string, dev filesystem.Dev) ([]filesystem.Layer, error) {
	layers, err := filesystem.Above(sysfs, dev)
	for i := 0; i < len(layers) && err == nil; i++ {
		var more []filesystem.Layer
		more, err = filesystem.Above(sysfs, layers[i].Dev)
		for _, l := range more {
			if !slices.Contains(layers, l) {
				layers = append(layers, l)
			}
		}
	}
	return layers, err
}

// consistsOfTargets says whether a device is one of the targets, or made of nothing but targets.
func (v *View) consistsOfTargets(layer filesystem.Layer, targets []Target) (bool, error) {
	isTarget := func(t Target) bool { return layer.Dev == t.FS || layer.Dev == devOf(t.LV) }
	if slices.ContainsFunc(targets, isTarget) {
		return true, nil
	}
	if layer.Kind == "lvm" {
		return false, nil
	}
	below, err := filesystem.Below(v.Sysfs, layer.Dev)
	for _, b := range below {
		inSet, err := v.consistsOfTargets(b, targets)
		if err != nil || !inSet {
			return false, err
		}
	}
	return len(below) > 0, err
}

// checkLoopFile refuses a target that lies in a file on another target, through a loop device. While the other target
// is held, writes to this one cannot end, so this one could not be held.
func (v *View) checkLoopFile(t *Target, targets []Target) error {
	if v.LoopFile == nil {
		return nil
	}
	stack, err := filesystem.Stack(v.Sysfs, t.FS)
	if err != nil {
		return err
	}
	for _, loop := range filesystem.Loops(stack, v.LoopFile) {
		for _, other := range targets {
			if other.LV.Active && (loop.On == other.FS || loop.Node == other.FS || loop.Node == devOf(other.LV)) {
				return unsupported("%s lies on %s, whose file is on %s, and both are in the set",
					t.LV.FullName(), loop.Name, other.LV.FullName()).
					WithHint("take them in sets of their own: writes to the one wait for the other")
			}
		}
	}
	return nil
}

// layerName returns vg/lv of a device that is a logical volume, or the device's own name.
func (v *View) layerName(layer filesystem.Layer) string {
	if lv, ok := v.Report.ByDevice(int(layer.Dev.Major), int(layer.Dev.Minor)); ok {
		return lv.FullName()
	}
	return layer.Name
}
