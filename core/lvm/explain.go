package lvm

import (
	"errors"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// errorPattern recognises one of LVM's errors by its text, and says what it means.
type errorPattern struct {
	substrings []string // all of them are in the same line
	code       fault.Code
	hint       string
}

// errorPatterns are the errors of LVM that are known. The texts are English because core/command sets LC_ALL=C. LVM
// 2.03.16 and 2.03.31 printed them, except those marked "from source", which are only in LVM's source. The first
// pattern that matches any line counts, so causes come before their consequences.
var errorPatterns = []errorPattern{
	{[]string{"suspend ioctl", "Device or resource busy"}, fault.Busy, frozenHint}, // only with kernels before 6.12
	{[]string{"Thin pool", "unexpected transaction id"}, fault.PoolDamaged, poolHint},
	{[]string{"reload ioctl", "No data available"}, fault.PoolDamaged, poolHint},
	{[]string{"transaction_id", "while expected"}, fault.PoolDamaged, poolHint}, // from source
	{[]string{"insufficient free space"}, fault.NoSpace, spaceHint},
	{[]string{"Insufficient free space"}, fault.NoSpace, spaceHint},
	{[]string{"Insufficient suitable", "allocatable extents"}, fault.NoSpace, spaceHint}, // from source
	{[]string{"free space in thin pool", "reached threshold"}, fault.NoSpace, "extend the thin pool"},
	{[]string{"ioctl", "No space left on device"}, fault.NoSpace, "extend the thin pool"}, // from source
	{[]string{"too large for circular buffer"}, fault.NoSpace,
		"the metadata area of the volume group is full: remove snapshots; vgs -o vg_mda_size,vg_mda_free shows " +
			"it"}, // from source
	{[]string{"No space left on device"}, fault.Unwritable, filesHint},
	{[]string{"Read-only file system"}, fault.Unwritable, filesHint}, // from source
	{[]string{"read-only filesystem"}, fault.Unwritable, filesHint},
	{[]string{"mkdir failed"}, fault.Unwritable, filesHint},
	{[]string{"File locking initialisation failed"}, fault.Unwritable,
		"LVM keeps its locks in /run/lock/lvm: it must be writable"},
	{[]string{"volume_list activation filter?"}, fault.Unsupported, NotActivated},
	{[]string{"create ioctl on", "Device or resource busy"}, fault.Exists,
		"a device-mapper device of that name was left over: look at it with `dmsetup info`, and if nothing uses it " +
			"remove it with `dmsetup remove`"},
	{[]string{"with duplicate PV devices"}, fault.Unsupported,
		"LVM sees one physical volume twice, as below multipath or after a disk was copied: hide one of the two, with " +
			"devices/filter in lvm.conf or lvmdevices(8); `pvs` names them"},
	{[]string{"not found: device not cleared"}, fault.CommandFailed,
		"udev has not made the device's name: `systemctl status systemd-udevd`"},
	{[]string{"without using device-mapper"}, fault.Unsupported,
		"the kernel's device-mapper is not there: `dmsetup version`"},
	{[]string{"lock failed"}, fault.Locked, lockdHint},
	{[]string{"due to failed lock"}, fault.Locked, lockdHint}, // from source
	{[]string{"already exists in volume group"}, fault.Exists, ""},
	{[]string{"Failed to find logical volume"}, fault.NotFound, ""},
	{[]string{"not found in", "olume group"}, fault.NotFound, ""},
	{[]string{"Volume group", "not found"}, fault.NotFound, Unseen},
	{[]string{"ioctl on", "No such device or address"}, fault.NotFound, ""},
	{[]string{"Unable to merge invalidated snapshot"}, fault.SnapshotInvalid,
		"the snapshot overflowed: nothing can be rolled back to it; remove it"},
	{[]string{"merging snapshot"}, fault.Merging, "wait for the merge to finish"},
	{[]string{"lv_is_merging_"}, fault.Merging, "wait for the merge to finish"},
	{[]string{"contains a filesystem in use"}, fault.Busy, "unmount it"},
	{[]string{"is used by another device"}, fault.Busy, "close what is stacked on it"},
	{[]string{"Logical volume", " in use"}, fault.Busy, "find what holds it open"},
	{[]string{"Operation prohibited while"}, fault.Unsupported,
		"lvm.conf forbids changes: global/locking_type, global/metadata_read_only"},
	{[]string{"Can't get lock for"}, fault.Locked, "another LVM command holds the volume group"}, // from source
	{[]string{"while PVs are missing"}, fault.Unsupported, Missing},
	{[]string{"Volume group", "is exported"}, fault.Unsupported, "import the volume group: vgimport(8)"},
	{[]string{"Cannot access VG", "system ID"}, fault.Unsupported, "another host owns the volume group: lvmsystemid(7)"},
	{[]string{"Snapshots of snapshots are not supported"}, fault.Unsupported, "take the snapshot of the origin"},
}

const (
	spaceHint = "free space in the volume group or ask for a smaller size"
	filesHint = "LVM writes to /etc/lvm/archive and /etc/lvm/backup (or where lvm.conf says) at each change: " +
		"free space there, or mount it writable"
	lockdHint  = "the volume group is shared with other hosts: lvmlockd(8) must run here, and nobody else hold the lock"
	poolHint   = "repair the thin pool before anything else: lvmthin(7), Metadata check and repair"
	frozenHint = "the file system is frozen: wait until the program that froze it has thawed it, such as an agent of a " +
		"virtual machine or of storage; fsfreeze -u thaws it by hand"
)

// Unseen is the hint for a volume that may exist but is not in LVM's report.
const Unseen = "LVM looks only at disks that devices/filter in lvm.conf and its devices file (lvmdevices(8)) allow"

// NotActivated is the hint for a volume that LVM may not activate.
const NotActivated = "activation/volume_list in lvm.conf, or host tags there, keep the snapshots out: " +
	"name the volume group in that list"

// Missing is the hint for a missing physical volume. It does not suggest to remove the physical volume from the group:
// the disk may be attached, only LVM does not look at it, and its data would be lost.
const Missing = "`pvs` names the missing disk: attach it. If it is attached, LVM does not look at it: " +
	"`lvmdevices` and devices/filter in lvm.conf say which disks LVM looks at, `lvmdevices --adddev` adds one"

// explain gives the error of a failed LVM command the code, message and hint of the first errorPattern that matches
// LVM's messages. An error that no pattern matches is returned as it is, and is command_failed.
func explain(err error) error {
	failed := (*command.Error)(nil)
	if !errors.As(err, &failed) || failed.Code <= 0 {
		return err
	}
	messages := lines(failed.Stderr)
	for _, pattern := range errorPatterns {
		i := slices.IndexFunc(messages, pattern.matches)
		if i < 0 {
			continue
		}
		f := fault.New(pattern.code, "%s", messages[i]).WithHint("%s", pattern.hint)
		f.Err, f.Facts = err, fault.Of(err).Facts
		return f
	}
	return err
}

// matches reports whether the line contains all of the pattern's substrings.
func (p errorPattern) matches(line string) bool {
	for _, substring := range p.substrings {
		if !strings.Contains(line, substring) {
			return false
		}
	}
	return true
}
