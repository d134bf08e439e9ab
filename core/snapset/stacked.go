package snapset

import (
	"slices"

	"go.pcc.com/rewind/core/filesystem"
)

// stacked refuses a target that other devices are made of, where a set of it is of no use or cannot be taken: a
// physical volume of LVM, or one of several below one device, such as an md array, that are not all in the set.
func (v *View) stacked(t *Target, targets []Target) error {
	above, err := v.above(t.FS)
	if err != nil {
		return err
	}
	for _, layer := range above {
		if layer.Kind == "lvm" {
			return no("%s is a physical volume of LVM: %s lies on it", t.LV.FullName(), v.nameOf(layer)).
				WithHint("name the volumes that lie on it instead: LVM would see the physical volume twice")
		}
		below, err := filesystem.Below(v.Sysfs, layer.Dev)
		if err != nil {
			return err
		}
		for _, b := range below {
			in, err := v.madeOf(b, targets)
			if err != nil {
				return err
			}
			if !in {
				return no("%s: %s is made of it and of %s, which is not in the set", t.LV.FullName(), layer.Name, v.nameOf(b)).
					WithHint("name all that %s is made of, or leave it out", layer.Name)
			}
		}
	}
	return v.inFile(t, targets)
}

// above returns all devices that are made of a device, directly or not.
func (v *View) above(dev filesystem.Dev) ([]filesystem.Layer, error) {
	layers, err := filesystem.Above(v.Sysfs, dev)
	for i := 0; i < len(layers) && err == nil; i++ {
		var more []filesystem.Layer
		more, err = filesystem.Above(v.Sysfs, layers[i].Dev)
		for _, l := range more {
			if !slices.Contains(layers, l) {
				layers = append(layers, l)
			}
		}
	}
	return layers, err
}

// madeOf says whether a device is one of the targets, or made of nothing but targets.
func (v *View) madeOf(layer filesystem.Layer, targets []Target) (bool, error) {
	is := func(t Target) bool { return layer.Dev == t.FS || layer.Dev == devOf(t.LV) }
	if slices.ContainsFunc(targets, is) {
		return true, nil
	}
	if layer.Kind == "lvm" {
		return false, nil
	}
	below, err := filesystem.Below(v.Sysfs, layer.Dev)
	for _, b := range below {
		in, err := v.madeOf(b, targets)
		if err != nil || !in {
			return false, err
		}
	}
	return len(below) > 0, err
}

// inFile refuses a target that lies in a file, behind a loop device, on another target: what is written to it could not
// end while that one is held, and it could not be held before.
func (v *View) inFile(t *Target, targets []Target) error {
	if v.LoopFile == nil {
		return nil
	}
	stack, err := filesystem.Stack(v.Sysfs, t.FS)
	if err != nil {
		return err
	}
	for _, layer := range stack {
		if layer.Kind != "loop" {
			continue
		}
		on, is, ok := v.LoopFile("/dev/" + layer.Name)
		for _, other := range targets {
			if ok && other.LV.Active && (on == other.FS || is == other.FS || is == devOf(other.LV)) {
				return no("%s lies on %s, whose file is on %s, and both are in the set",
					t.LV.FullName(), layer.Name, other.LV.FullName()).
					WithHint("take them in sets of their own: writes to the one wait for the other")
			}
		}
	}
	return nil
}

// nameOf is vg/lv of a device that is a logical volume, or its own name.
func (v *View) nameOf(layer filesystem.Layer) string {
	if lv, ok := v.Report.ByDevice(int(layer.Dev.Major), int(layer.Dev.Minor)); ok {
		return lv.FullName()
	}
	return layer.Name
}
