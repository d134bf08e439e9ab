package lvm

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// maxName is the longest name LVM and the kernel take: NAME_LEN and DM_NAME_LEN
// are 128 with the final NUL (lvm2, lib/metadata/metadata-exported.h; linux/dm-ioctl.h).
const maxName = 127

// longestLayer is what LVM appends to the device-mapper names of an origin and
// its COW: "-real" and "-cow".
const longestLayer = "-real"

// reservedInside are the suffixes of LVM's hidden volumes, which no name may
// contain; reservedStarts are the beginnings none may have (lvm(8), VALID NAMES).
var (
	reservedInside = []string{
		"_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog",
		"_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_imeta", "_iorig", "_pmspare",
	}
	reservedStarts = []string{"snapshot", "pvmove"}
)

// ParseName splits a volume's name into group and volume. It takes vg/lv,
// /dev/vg/lv and /dev/mapper/vg-lv (where LVM doubles each hyphen of a name).
// Anything else, and names LVM's rules forbid, is a bad_arguments fault. It
// looks nothing up: the volume need not exist.
func ParseName(s string) (vg, lv string, err error) {
	if dm, ok := strings.CutPrefix(s, "/dev/mapper/"); ok {
		vg, lv, err = splitDMName(dm)
	} else {
		vg, lv, err = splitPath(s)
	}
	if err != nil {
		return "", "", err
	}
	if problem := wrongName(vg); problem != "" {
		return "", "", badName(s, "volume group name "+problem)
	}
	if problem := wrongName(lv); problem != "" {
		return "", "", badName(s, "volume name "+problem)
	}
	return vg, lv, nil
}

func splitPath(s string) (vg, lv string, err error) {
	rest := strings.TrimPrefix(s, "/dev/")
	if strings.HasPrefix(rest, "/") {
		return "", "", badName(s, "is no path below /dev")
	}
	vg, lv, ok := strings.Cut(rest, "/")
	if !ok {
		return "", "", badName(s, "names no volume group")
	}
	return vg, lv, nil
}

// splitDMName undoes what DMName does. A single hyphen separates, a double one
// is a hyphen; a second separator begins a layer (-real, -cow, _tdata's -tpool),
// which is a device of LVM's own and no volume.
func splitDMName(s string) (vg, lv string, err error) {
	var parts []string
	var part strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '-':
			part.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '-':
			part.WriteByte('-')
			i++
		default:
			parts = append(parts, part.String())
			part.Reset()
		}
	}
	parts = append(parts, part.String())
	switch len(parts) {
	case 2:
		return parts[0], parts[1], nil
	case 1:
		return "", "", badName("/dev/mapper/"+s, "is no LVM device: it has no hyphen between group and volume")
	}
	return "", "", badName("/dev/mapper/"+s, "is an inner device of LVM, not a volume")
}

// DMName returns the volume's device-mapper name, as in /dev/mapper and dmsetup(8).
func DMName(vg, lv string) string {
	return double(vg) + "-" + double(lv)
}

func double(s string) string {
	return strings.ReplaceAll(s, "-", "--")
}

// CheckNew returns a bad_arguments fault if LVM would refuse to create a volume
// of that name, or could not build its device-mapper names: those hold both
// names, every hyphen twice, and a layer's suffix within 127 bytes.
func CheckNew(vg, lv string) error {
	if problem := wrongName(lv); problem != "" {
		return badName(lv, "volume name "+problem)
	}
	for _, start := range reservedStarts {
		if strings.HasPrefix(lv, start) {
			return badName(lv, "LVM reserves names that begin with "+start)
		}
	}
	for _, inside := range reservedInside {
		if strings.Contains(lv, inside) {
			return badName(lv, "LVM reserves names that contain "+inside)
		}
	}
	if n := len(DMName(vg, lv) + longestLayer); n > maxName {
		return badName(lv, "is too long for a device name together with its group").
			With("length", n).With("longest", maxName)
	}
	return nil
}

// wrongName says what LVM's rules for names have against s, or nothing.
func wrongName(s string) string {
	switch {
	case s == "":
		return "is empty"
	case s == "." || s == "..":
		return "is a directory's name"
	case s[0] == '-':
		return "begins with a hyphen"
	case len(s) > maxName:
		return "is longer than 127 characters"
	}
	for i := 0; i < len(s); i++ {
		if !nameByte(s[i]) {
			return "may hold only letters, digits and + _ . -"
		}
	}
	return ""
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("+_.-", c) >= 0
}

func badName(name, problem string) *fault.Error {
	return fault.New(fault.BadArguments, "%q: %s", name, problem).
		WithHint("name a volume vg/lv, /dev/vg/lv or /dev/mapper/vg-lv")
}
