package lvm

import (
	"strings"

	"go.pcc.com/rewind/core/fault"
)

// maxNameLength is the length, in bytes, of the longest name that LVM and the kernel accept: NAME_LEN and DM_NAME_LEN
// are 128 with the final NUL (lvm2, lib/metadata/metadata-exported.h; linux/dm-ioctl.h).
const maxNameLength = 127

// longestLayerSuffix is the longer of the two suffixes that LVM appends to device-mapper names: "-real" for the inner
// device of an origin, and "-cow" for the COW space of a snapshot.
const longestLayerSuffix = "-real"

// reservedSubstrings are the suffixes of LVM's hidden volumes: the name of a volume may not contain one.
// reservedPrefixes are what the name of a volume may not begin with (lvm(8), VALID NAMES).
var (
	reservedSubstrings = []string{
		"_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog",
		"_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_imeta", "_iorig", "_pmspare",
	}
	reservedPrefixes = []string{"snapshot", "pvmove"}
)

// ParseName splits the name of a volume into the names of group and volume. It accepts vg/lv, /dev/vg/lv and
// /dev/mapper/vg-lv (in which LVM doubles each hyphen of a name). The volume need not exist. Fault: bad_arguments for
// any other form, and for a name that LVM's rules forbid.
func ParseName(s string) (vg, lv string, err error) {
	if dmName, ok := strings.CutPrefix(s, "/dev/mapper/"); ok {
		vg, lv, err = splitDMName(dmName)
	} else {
		vg, lv, err = splitPath(s)
	}
	if err != nil {
		return "", "", err
	}
	if problem := nameProblem(vg); problem != "" {
		return "", "", badName(s, "volume group name "+problem)
	}
	if problem := nameProblem(lv); problem != "" {
		return "", "", badName(s, "volume name "+problem)
	}
	return vg, lv, nil
}

// splitPath splits vg/lv and /dev/vg/lv.
func splitPath(s string) (vg, lv string, err error) {
	path := strings.TrimPrefix(s, "/dev/")
	if strings.HasPrefix(path, "/") {
		return "", "", badName(s, "is no path below /dev")
	}
	vg, lv, ok := strings.Cut(path, "/")
	if !ok {
		return "", "", badName(s, "names no volume group")
	}
	return vg, lv, nil
}

// splitDMName is the reverse of DMName. A single hyphen separates the names, and a double one is a hyphen in a name. A
// second separator begins the suffix of a layer (-real, -cow, -tpool), whose device is LVM's own and not a volume.
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

// DMName returns the device-mapper name of a volume, as in /dev/mapper and dmsetup(8).
func DMName(vg, lv string) string {
	return doubleHyphens(vg) + "-" + doubleHyphens(lv)
}

func doubleHyphens(s string) string {
	return strings.ReplaceAll(s, "-", "--")
}

// CheckNew checks that LVM could create a volume of that name. Fault: bad_arguments if LVM would refuse the name, or if
// a device-mapper name of the volume would be too long: group, volume, every hyphen twice and a layer's suffix must fit
// in 127 bytes.
func CheckNew(vg, lv string) error {
	if problem := nameProblem(lv); problem != "" {
		return badName(lv, "volume name "+problem)
	}
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(lv, prefix) {
			return badName(lv, "LVM reserves names that begin with "+prefix)
		}
	}
	for _, substring := range reservedSubstrings {
		if strings.Contains(lv, substring) {
			return badName(lv, "LVM reserves names that contain "+substring)
		}
	}
	if n := len(DMName(vg, lv) + longestLayerSuffix); n > maxNameLength {
		return badName(lv, "is too long for a device name together with its group").
			With("length", n).With("longest", maxNameLength)
	}
	return nil
}

// nameProblem says which of LVM's rules for names s breaks, or returns "".
func nameProblem(s string) string {
	switch {
	case s == "":
		return "is empty"
	case s == "." || s == "..":
		return "is a directory's name"
	case s[0] == '-':
		return "begins with a hyphen"
	case len(s) > maxNameLength:
		return "is longer than 127 characters"
	}
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) {
			return "may hold only letters, digits and + _ . -"
		}
	}
	return ""
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("+_.-", c) >= 0
}

// IsTagText reports whether LVM allows every byte of a text in a tag (lvm(8)).
func IsTagText(s string) bool {
	for i := 0; i < len(s); i++ {
		if !isNameByte(s[i]) && strings.IndexByte("/=!:&#", s[i]) < 0 {
			return false
		}
	}
	return true
}

// badName returns the fault of a name that cannot be used.
func badName(name, problem string) *fault.Error {
	return fault.New(fault.BadArguments, "%q: %s", name, problem).
		WithHint("name a volume vg/lv, /dev/vg/lv or /dev/mapper/vg-lv")
}
