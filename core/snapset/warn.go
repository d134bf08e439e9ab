package snapset

import (
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// fstabFile is /etc/fstab; tests have one of their own.
var fstabFile = "/etc/fstab"

// rollbackWarnings returns warnings of what will be in the way of a rollback to a set of the targets, and can be mended
// today.
func rollbackWarnings(targets []Target) (warnings []string) {
	for _, t := range targets {
		if err := CheckMergeInto(t.LV, t.LV.Kind == lvm.Thin); err != nil {
			warnings = append(warnings, "a rollback to this set will be refused: "+err.Error())
		}
	}
	return append(warnings, fstabWarnings(targets)...)
}

// fstabWarnings returns warnings of entries in fstab that may cause trouble at a rollback to a set of the targets, and
// that can be corrected today.
func fstabWarnings(targets []Target) []string {
	fstab, err := filesystem.Fstab(fstabFile)
	if err != nil {
		return []string{err.Error()}
	}
	return append(filesystem.FstabWarnings(fstab, devicesByPoint(targets)), cryptWarnings(targets)...)
}

// cryptWarnings is fstabWarnings for crypttab.
func cryptWarnings(targets []Target) (warnings []string) {
	for _, t := range targets {
		if t.Crypt == "" {
			continue
		}
		if warning := filesystem.CryptWarning(t.Crypt, t.LV.Path); warning != "" {
			warnings = append(warnings, warning)
		}
	}
	return warnings
}

// devicesByPoint returns the path of the volume, such as /dev/vg00/dat, at each mount point of the targets.
func devicesByPoint(targets []Target) map[string]string {
	byPoint := map[string]string{}
	for _, t := range targets {
		for _, m := range t.Mounts {
			byPoint[m.Point] = t.LV.Path
		}
	}
	return byPoint
}
