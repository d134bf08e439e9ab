package snapset

import (
	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/filesystem"
)

// fstabFile is /etc/fstab; tests have one of their own.
var fstabFile = "/etc/fstab"

// warned adds what will matter at the rollback and can be put right today.
func (w *work) warned(r ansible.Result) ansible.Result {
	fstab, err := filesystem.Fstab(fstabFile)
	if err != nil {
		r.Warnings = append(r.Warnings, err.Error())
		return r
	}
	r.Warnings = append(r.Warnings, filesystem.FstabWarnings(fstab, devicesAt(w.targets))...)
	return r
}

// devicesAt names the volume at each mount point of the targets, such as /dev/vg00/dat.
func devicesAt(targets []Target) map[string]string {
	at := map[string]string{}
	for _, t := range targets {
		for _, m := range t.Mounts {
			at[m.Point] = t.LV.Path
		}
	}
	return at
}
