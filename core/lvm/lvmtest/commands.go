package lvmtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/lvm"
)

// options are the values that a command line gives to each option, in order.
type options map[string][]string

func (o options) has(name string) bool { _, ok := o[name]; return ok }

// value returns the value of an option that is given once, or "".
func (o options) value(name string) string {
	if len(o[name]) != 1 {
		return ""
	}
	return o[name][0]
}

// knownCommands returns the commands that the fake knows.
func (f *Fake) knownCommands() map[string]commandSpec {
	return map[string]commandSpec{
		"lvm fullreport": {f.fullreport, map[string]int{"--all": 0, "--binary": 0, "--nosuffix": 0, "--reportformat": 1,
			"--units": 1, "--config": 1, "--configreport": 1, "--options": 1}},
		"lvm lvs":       {f.lvs, map[string]int{"--readonly": 0, "--reportformat": 1, "--config": 1, "--options": 1}},
		"lvm lvmconfig": {f.lvmconfig, map[string]int{"--type": 1}},
		"lvm lvcreate": {f.lvcreate, map[string]int{"--config": 1, "--yes": 0, "--snapshot": 0, "--name": 1, "--extents": 1,
			"--chunksize": 1, "--setactivationskip": 1, "--addtag": 1}},
		"lvm lvextend": {f.lvextend, map[string]int{"--config": 1, "--yes": 0, "--size": 1}},
		"lvm lvremove": {f.lvremove, map[string]int{"--config": 1, "--yes": 0, "--select": 1}},
		"lvm lvconvert": {f.lvconvert, map[string]int{"--yes": 0, "--merge": 0, "--background": 0, "--interval": 1,
			"--config": 1}},
		"lvm lvchange": {f.lvchange, map[string]int{"--config": 1, "--addtag": 1, "--deltag": 1, "--refresh": 0, "--poll": 1,
			"--setactivationskip": 1, "--activate": 1, "--ignoreactivationskip": 0, "--setautoactivation": 1,
			"--permission": 1}},
		"lvm vgcfgbackup": {f.vgcfgbackup, map[string]int{"--readonly": 0, "--config": 1, "--file": 1}},
		"lvm vgcfgrestore": {f.vgcfgrestore, map[string]int{"--config": 1, "--nolocking": 0, "--yes": 0, "--force": 0,
			"--file": 1}},
		"dmsetup status": {f.dmStatus, map[string]int{"--noflush": 0}},
		"dmsetup info":   {f.dmInfo, map[string]int{"--columns": 0, "--noheadings": 0, "--separator": 1, "--options": 1}},
	}
}

// commandSpec is a command that the fake knows.
type commandSpec struct {
	run     func(o options, names []string) (string, error)
	options map[string]int // how many values each option takes
}

// dispatch runs a command and returns what it prints. It panics if the command or one of its options is unknown.
func (f *Fake) dispatch(argv []string) (string, error) {
	if len(argv) < 2 {
		panic(fmt.Sprintf("lvmtest: unknown command %q", argv))
	}
	spec, known := f.knownCommands()[argv[0]+" "+argv[1]]
	if !known {
		panic(fmt.Sprintf("lvmtest: unknown command %q", argv))
	}
	given, names := options{}, []string(nil)
	for remaining := argv[2:]; len(remaining) > 0; {
		option := remaining[0]
		remaining = remaining[1:]
		if option == "--" {
			names = remaining
			break
		}
		values, known := spec.options[option]
		if !known || len(remaining) < values {
			panic(fmt.Sprintf("lvmtest: unknown option %s in %q", option, argv))
		}
		given[option] = append(given[option], remaining[:values]...)
		remaining = remaining[values:]
	}
	f.panicIfWaitingForOwnLock(argv, names)
	return spec.run(given, names)
}

// lookup returns the volume with that name, vg/lv, and its group. Either is nil if it does not exist.
func (f *Fake) lookup(name string) (*group, *volume) {
	vg, lv, ok := strings.Cut(name, "/")
	if !ok {
		panic("lvmtest: a volume is vg/lv, not " + name)
	}
	for _, g := range f.groups {
		if g.Name == vg && !g.hidden {
			return g, g.volume(lv)
		}
	}
	return nil, nil
}

// notFoundErrors returns LVM's errors for those of the names that do not exist.
func (f *Fake) notFoundErrors(names []string) []error {
	var errs []error
	for _, name := range names {
		g, v := f.lookup(name)
		if g == nil {
			vg, _, _ := strings.Cut(name, "/")
			errs = append(errs, lvmError("Volume group %q not found\nCannot process volume group %s", vg, vg))
		} else if v == nil && !f.removed[name] {
			errs = append(errs, lvmError("Failed to find logical volume %q", name))
		}
	}
	return errs
}

// forEach applies a function to each of the named volumes. As LVM does, it goes on after a failure, takes the volumes
// in the order of their groups, and comes last to names that do not exist.
func (f *Fake) forEach(names []string, apply func(*volume) error) (string, error) {
	var errs []error
	for _, v := range f.allVolumes() {
		if !v.vg.hidden && slices.Contains(names, v.fullName()) && v.vg.volume(v.Name) == v {
			errs = append(errs, apply(v))
		}
	}
	return "", errors.Join(append(errs, f.notFoundErrors(names)...)...)
}

func (f *Fake) lvcreate(o options, names []string) (string, error) {
	if len(names) != 1 || !o.has("--yes") || !o.has("--snapshot") {
		panic(fmt.Sprintf("lvmtest: lvcreate of %q with %v", names, o))
	}
	g, origin := f.lookup(names[0])
	if g == nil {
		return "", errors.Join(f.notFoundErrors(names)...)
	}
	if origin == nil {
		_, lv, _ := strings.Cut(names[0], "/")
		return "", lvmError("Snapshot origin LV %s not found in Volume group %s.", lv, g.Name)
	}
	f.panicIfOthersSuspended(origin)
	name := o.value("--name")
	switch {
	case origin.vg.Partial:
		return "", lvmError("Cannot change VG %s while PVs are missing.", origin.vg.Name)
	case origin.vg.volume(name) != nil:
		return "", lvmError("Logical Volume %q already exists in volume group %q", name, origin.vg.Name)
	case origin.hasMergingSnapshot():
		return "", lvmError("Snapshots of an origin that has a merging snapshot are not supported.")
	case origin.Kind == lvm.Snapshot:
		return "", lvmError("Snapshots of snapshots are not supported.")
	}
	if o.has("--extents") {
		return "", f.createThick(origin, name, o)
	}
	return "", f.createThin(origin, name, o)
}

// panicIfOthersSuspended panics if another volume than origin is suspended. Callers must not run LVM then, because LVM
// reads every block device, and would wait for a LUKS mapping or a loop device that lies on the suspended volume.
func (f *Fake) panicIfOthersSuspended(origin *volume) {
	for _, v := range f.allVolumes() {
		if v.suspended && v != origin {
			panic("lvmtest: lvcreate while " + v.fullName() + " is suspended")
		}
	}
}

// hasMergingSnapshot reports whether LVM's metadata says that a snapshot merges into v.
func (v *volume) hasMergingSnapshot() bool {
	return slices.ContainsFunc(v.vg.snapshots(v), func(s *volume) bool { return s.merging })
}

func (f *Fake) createThick(origin *volume, name string, o options) error {
	extents, err := strconv.ParseInt(o.value("--extents"), 10, 64)
	chunk, chunkErr := strconv.ParseInt(strings.TrimSuffix(o.value("--chunksize"), "b"), 10, 64)
	if err != nil || chunkErr != nil || extents < 1 {
		panic(fmt.Sprintf("lvmtest: lvcreate with %v", o))
	}
	vg := origin.vg
	size := min(extents*vg.ExtentSize, lvm.MaxCOW(origin.Size, chunk, vg.ExtentSize))
	if free := vg.free(); size > free {
		return lvmError("Volume group %q has insufficient free space (%d extents): %d required.",
			vg.Name, free/vg.ExtentSize, size/vg.ExtentSize)
	}
	if origin.frozen && !f.suspendsFrozen {
		f.add(vg, Volume{Name: name, Size: size, Tags: o["--addtag"]}).halfMade = true
		origin.hasInner = true
		return lvmError("%v\nFailed to revert logical volume %s.\nAborting. Manual intervention required.",
			origin.suspendError(), origin.fullName())
	}
	f.add(vg, Volume{Name: name, Origin: origin.Name, Size: size, Tags: o["--addtag"],
		Inactive: !origin.active}).chunkSize = chunk
	origin.resume()
	return nil
}

// suspendError is LVM's error where an old kernel cannot suspend a device because its file system is frozen.
func (v *volume) suspendError() error {
	return lvmError("device-mapper: suspend ioctl on  (%d:%d) failed: Device or resource busy\n"+
		"Unable to suspend %s (%d:%d)",
		major, v.minor, lvm.DMName(v.vg.Name, v.Name), major, v.minor)
}

func (f *Fake) createThin(origin *volume, name string, o options) error {
	if skip := o.value("--setactivationskip"); skip != "n" && skip != "y" {
		panic(fmt.Sprintf("lvmtest: lvcreate of a thin snapshot with %v", o))
	}
	if origin.Kind != lvm.Thin {
		panic("lvmtest: a thick snapshot needs --extents, or LVM asks for a size")
	}
	pool := origin.vg.volume(origin.Pool)
	switch {
	case pool.damaged:
		return lvmError("WARNING: Thin pool %s has unexpected transaction id 1, expecting 3 or lower by 1.\n"+
			"Cannot create new thin volume, free space in thin pool %s reached threshold.", pool.fullName(), pool.fullName())
	case origin.suspended:
		// LVM believes that it suspended the origin itself, and skips the message to the pool.
		origin.suspended, pool.damaged = false, true
		return lvmError("device-mapper: reload ioctl on  (%d:%d) failed: No data available\nFailed to activate thin %s.",
			major, f.created+1, name)
	case origin.frozen && !f.suspendsFrozen:
		return lvmError("%v\nFailed to suspend thin snapshot origin %s.", origin.suspendError(), origin.fullName())
	}
	skip := o.value("--setactivationskip") == "y"
	f.add(origin.vg, Volume{Name: name, Kind: lvm.Thin, Origin: origin.Name, Tags: o["--addtag"],
		Inactive: skip}).skipActivation = skip
	return nil
}

func (f *Fake) lvextend(o options, names []string) (string, error) {
	size, err := strconv.ParseInt(strings.TrimSuffix(o.value("--size"), "b"), 10, 64)
	if err != nil || len(names) != 1 || !o.has("--yes") {
		panic(fmt.Sprintf("lvmtest: lvextend of %q with %v", names, o))
	}
	if g, v := f.lookup(names[0]); g != nil && v == nil {
		_, lv, _ := strings.Cut(names[0], "/")
		return "", lvmError("Logical volume %s not found in volume group %s.", lv, g.Name)
	}
	return f.forEach(names, func(v *volume) error { return v.extend(size) })
}

func (v *volume) extend(size int64) error {
	extentSize := v.vg.ExtentSize
	size = (size + extentSize - 1) / extentSize * extentSize
	if v.merging {
		return lvmError("Can't resize internal logical volume %s.", v.fullName())
	}
	if origin := v.vg.byUUID(v.originUUID); v.Kind == lvm.Snapshot {
		if maxCOW := lvm.MaxCOW(origin.Size, v.chunkSize, extentSize); size > maxCOW {
			size = maxCOW // LVM says so, and exits with 0
			if size == v.Size {
				return nil
			}
		}
	}
	if size == v.Size {
		return lvmError("New size (%d extents) matches existing size (%d extents).", size/extentSize, v.Size/extentSize)
	}
	if size < v.Size {
		return lvmError("New size given (%d extents) not larger than existing size (%d extents)", size/extentSize,
			v.Size/extentSize)
	}
	if free := v.vg.free(); size-v.Size > free {
		return lvmError("Insufficient free space: %d extents needed, but only %d available",
			(size-v.Size)/extentSize, free/extentSize)
	}
	v.Size = size
	return nil
}

func (f *Fake) lvremove(o options, names []string) (string, error) {
	if !o.has("--yes") {
		panic("lvmtest: lvremove would ask")
	}
	selected := selection(o)
	removedNames := ""
	f.removed = map[string]bool{}
	_, err := f.forEach(names, func(v *volume) error {
		if selected != nil && (!slices.Contains(selected, v.uuid) || v.isThickOrigin()) {
			return nil
		}
		if v.Open > 0 {
			return lvmError("Logical volume %s contains a filesystem in use.", v.fullName())
		}
		if v.merging && !v.invalid {
			return lvmError("Can't remove merging snapshot logical volume %s.", v.fullName())
		}
		f.removed[v.fullName()] = true
		for _, s := range v.vg.snapshots(v) {
			if s.Kind == lvm.Snapshot {
				v.vg.remove(s)
				continue
			}
			s.Origin, s.originUUID = "", ""
		}
		v.vg.remove(v)
		removedNames += fmt.Sprintf("  Logical volume %q successfully removed.\n", v.Name)
		return nil
	})
	return removedNames, err
}

// selection returns the UUIDs of the volumes that --select selects unless they have thick snapshots; nil without
// --select.
func selection(o options) []string {
	if !o.has("--select") {
		return nil
	}
	conditions, ok := strings.CutSuffix(strings.TrimPrefix(o.value("--select"), "("), ") && lv_role!={thickorigin}")
	var uuids []string
	for _, condition := range strings.Split(conditions, " || ") {
		field, uuid, _ := strings.Cut(condition, "=")
		ok = ok && field == "lv_uuid"
		uuids = append(uuids, strings.Trim(uuid, `"`))
	}
	if !ok {
		panic(fmt.Sprintf("lvmtest: lvremove with %v", o))
	}
	return uuids
}

// isThickOrigin reports whether v has thick snapshots.
func (v *volume) isThickOrigin() bool {
	return slices.ContainsFunc(v.vg.snapshots(v), func(s *volume) bool { return s.Kind == lvm.Snapshot })
}

func (f *Fake) lvconvert(o options, names []string) (string, error) {
	if !o.has("--yes") || !o.has("--merge") || !o.has("--background") {
		panic(fmt.Sprintf("lvmtest: lvconvert with %v", o))
	}
	f.removed = map[string]bool{}
	return f.forEach(names, f.merge)
}

func (f *Fake) merge(v *volume) error {
	origin := v.vg.byUUID(v.originUUID)
	switch {
	case origin == nil:
		return lvmError("%s is not a mergeable logical volume.", v.fullName())
	case v.merging:
		return lvmError("Command on LV %s is invalid on LV with properties: lv_is_merging_cow .\n"+
			"Command not permitted on LV %s.", v.fullName(), v.fullName())
	case origin.hasMergingSnapshot():
		return lvmError("Cannot merge snapshot %s into the origin %s with merging snapshot %s.",
			v.fullName(), origin.fullName(), v.fullName())
	case v.invalid:
		return lvmError("Unable to merge invalidated snapshot LV %s.", v.fullName())
	case origin.readOnly && v.Kind == lvm.Snapshot:
		return lvmError("Cannot merge snapshot %s into the read-only origin %s. (Use lvchange -p rw).",
			v.fullName(), origin.fullName())
	}
	v.merging = true
	if origin.canBeginMerge(v) {
		f.removed[v.fullName()] = v.Kind == lvm.Thin
		v.startMerge()
	} else if v.Kind == lvm.Thin {
		v.active = false
	}
	return nil
}

// canBeginMerge reports whether LVM merges snapshot s at once: nothing has it or its origin open, and the kernel has a
// device into which it copies. A thin snapshot needs none, it replaces its origin.
func (v *volume) canBeginMerge(s *volume) bool {
	return v.Open == 0 && s.Open == 0 && (v.active || s.Kind == lvm.Thin)
}

// startMerge has the kernel begin a merge.
func (v *volume) startMerge() {
	if v.Kind == lvm.Thin {
		v.replaceOrigin()
		return
	}
	v.kernelMerging = true
	v.vg.byUUID(v.originUUID).content = v.content
	for _, s := range v.siblings() {
		// The blocks that changed before the sibling was taken are only in the COW space of v. The merge writes their old
		// content to the origin, and the sibling must record that.
		s.pendingFill = max(0, v.usedSectors-s.usedSectors)
	}
}

// replaceOrigin merges a thin snapshot. LVM does that at once: the snapshot takes its origin's name, and the other
// snapshots of the origin lose their origin.
func (v *volume) replaceOrigin() {
	origin := v.vg.byUUID(v.originUUID)
	origin.content, origin.thinID = v.content, v.thinID
	for _, s := range v.vg.snapshots(origin) {
		s.Origin, s.originUUID = "", ""
	}
	v.vg.remove(v)
}
