package snapset

import (
	"go.pcc.com/rewind/core/filesystem"
)

// fstabFile is /etc/fstab; tests have one of their own.
var fstabFile = "/etc/fstab"

// withFstabWarnings adds warnings of entries in fstab that may cause trouble at a rollback and can be corrected today.
func (op *setOperation) withFstabWarnings(r Result) Result {
	fstab, err := filesystem.Fstab(fstabFile)
	if err != nil {
		r.Warnings = append(r.Warnings, err.Error())
		return r
	}
	r.Warnings = append(r.Warnings, filesystem.FstabWarnings(fstab, devicesByPoint(op.targets))...)
	return r
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
