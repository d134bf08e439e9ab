package lvmtest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.pcc.com/rewind/core/lvm"
)

// options are the values given to each option, in order.
type options map[string][]string

func (o options) has(name string) bool { _, ok := o[name]; return ok }

func (o options) one(name string) string {
	if len(o[name]) != 1 {
		return ""
	}
	return o[name][0]
}

// verbs are the commands this fake knows, each with its options and the number
// of values they take.
func (f *Fake) verbs() map[string]verb {
	return map[string]verb{
		"lvm fullreport": {f.fullreport, map[string]int{"--all": 0, "--binary": 0, "--nosuffix": 0, "--reportformat": 1,
			"--units": 1, "--config": 1, "--configreport": 1, "--options": 1}},
		"lvm lvs":       {f.lvs, map[string]int{"--readonly": 0, "--reportformat": 1, "--config": 1, "--options": 1}},
		"lvm lvmconfig": {f.lvmconfig, map[string]int{"--type": 1}},
		"lvm lvcreate": {f.lvcreate, map[string]int{"--config": 1, "--yes": 0, "--snapshot": 0, "--name": 1, "--extents": 1,
			"--chunksize": 1, "--setactivationskip": 1, "--addtag": 1}},
		"lvm lvextend":  {f.lvextend, map[string]int{"--config": 1, "--yes": 0, "--size": 1}},
		"lvm lvremove":  {f.lvremove, map[string]int{"--config": 1, "--yes": 0}},
		"lvm lvconvert": {f.lvconvert, map[string]int{"--yes": 0, "--merge": 0, "--background": 0, "--interval": 1, "--config": 1}},
		"lvm lvchange": {f.lvchange, map[string]int{"--config": 1, "--addtag": 1, "--deltag": 1, "--refresh": 0, "--poll": 1,
			"--setactivationskip": 1, "--activate": 1, "--ignoreactivationskip": 0}},
		"lvm vgcfgbackup":  {f.vgcfgbackup, map[string]int{"--readonly": 0, "--config": 1, "--file": 1}},
		"lvm vgcfgrestore": {f.vgcfgrestore, map[string]int{"--config": 1, "--nolocking": 0, "--yes": 0, "--force": 0, "--file": 1}},
		"dmsetup status":   {f.dmStatus, map[string]int{"--noflush": 0}},
		"dmsetup info":     {f.dmInfo, map[string]int{"--columns": 0, "--noheadings": 0, "--separator": 1, "--options": 1}},
	}
}

type verb struct {
	run     func(o options, names []string) (string, error)
	options map[string]int
}

// dispatch runs an argv, or panics if package lvm has no business with it.
func (f *Fake) dispatch(argv []string) (string, error) {
	if len(argv) < 2 {
		panic(fmt.Sprintf("lvmtest: unknown command %q", argv))
	}
	v, known := f.verbs()[argv[0]+" "+argv[1]]
	if !known {
		panic(fmt.Sprintf("lvmtest: unknown command %q", argv))
	}
	given, names := options{}, []string(nil)
	for rest := argv[2:]; len(rest) > 0; {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			names = rest
			break
		}
		values, known := v.options[word]
		if !known || len(rest) < values {
			panic(fmt.Sprintf("lvmtest: unknown option %s in %q", word, argv))
		}
		given[word] = append(given[word], rest[:values]...)
		rest = rest[values:]
	}
	f.mustNotWaitForItself(argv, names)
	return v.run(given, names)
}

// lookup finds a volume, and its group if that at least exists.
func (f *Fake) lookup(name string) (*group, *volume) {
	vg, lv, ok := strings.Cut(name, "/")
	if !ok {
		panic("lvmtest: a volume is vg/lv, not " + name)
	}
	for _, g := range f.groups {
		if g.Name == vg {
			return g, g.volume(lv)
		}
	}
	return nil, nil
}

// missing is what LVM says of names that it does not find.
func (f *Fake) missing(names []string) []error {
	var errs []error
	for _, name := range names {
		g, v := f.lookup(name)
		if g == nil {
			vg, _, _ := strings.Cut(name, "/")
			errs = append(errs, says("Volume group %q not found\nCannot process volume group %s", vg, vg))
		} else if v == nil && !f.gone[name] {
			errs = append(errs, says("Failed to find logical volume %q", name))
		}
	}
	return errs
}

// onEach does the same to each volume and goes on after a failure, as LVM does:
// in the order of the groups, with what does not exist at the end.
func (f *Fake) onEach(names []string, do func(*volume) error) (string, error) {
	var errs []error
	for _, v := range f.allVolumes() {
		if slices.Contains(names, v.fullName()) && v.vg.volume(v.Name) == v {
			errs = append(errs, do(v))
		}
	}
	return "", errors.Join(append(errs, f.missing(names)...)...)
}

func (f *Fake) lvcreate(o options, names []string) (string, error) {
	if len(names) != 1 || !o.has("--yes") || !o.has("--snapshot") {
		panic(fmt.Sprintf("lvmtest: lvcreate of %q with %v", names, o))
	}
	g, origin := f.lookup(names[0])
	if g == nil {
		return "", errors.Join(f.missing(names)...)
	}
	if origin == nil {
		_, lv, _ := strings.Cut(names[0], "/")
		return "", says("Snapshot origin LV %s not found in Volume group %s.", lv, g.Name)
	}
	f.mustNotReadSuspended(origin)
	name := o.one("--name")
	switch {
	case origin.vg.Partial:
		return "", says("Cannot change VG %s while PVs are missing.", origin.vg.Name)
	case origin.vg.volume(name) != nil:
		return "", says("Logical Volume %q already exists in volume group %q", name, origin.vg.Name)
	case origin.isMerging():
		return "", says("Snapshots of an origin that has a merging snapshot are not supported.")
	case origin.Kind == lvm.Snapshot:
		return "", says("Snapshots of snapshots are not supported.")
	}
	if o.has("--extents") {
		return "", f.createThick(origin, name, o)
	}
	return "", f.createThin(origin, name, o)
}

// mustNotReadSuspended holds a caller to keep away from LVM while another volume is suspended: LVM reads every block
// device, and waits for a LUKS mapping or a loop device that lies on such a volume.
func (f *Fake) mustNotReadSuspended(origin *volume) {
	for _, v := range f.allVolumes() {
		if v.suspended && v != origin {
			panic("lvmtest: lvcreate while " + v.fullName() + " is suspended")
		}
	}
}

func (v *volume) isMerging() bool {
	return slices.ContainsFunc(v.vg.snapshots(v), func(s *volume) bool { return s.merging })
}

func (f *Fake) createThick(origin *volume, name string, o options) error {
	extents, err := strconv.ParseInt(o.one("--extents"), 10, 64)
	chunk, chunkErr := strconv.ParseInt(strings.TrimSuffix(o.one("--chunksize"), "b"), 10, 64)
	if err != nil || chunkErr != nil || extents < 1 {
		panic(fmt.Sprintf("lvmtest: lvcreate with %v", o))
	}
	vg := origin.vg
	size := min(extents*vg.ExtentSize, lvm.MaxCOW(origin.Size, chunk, vg.ExtentSize))
	if free := vg.free(); size > free {
		return says("Volume group %q has insufficient free space (%d extents): %d required.",
			vg.Name, free/vg.ExtentSize, size/vg.ExtentSize)
	}
	if origin.frozen && !f.thawed {
		f.add(vg, Volume{Name: name, Size: size, Tags: o["--addtag"]}).halfMade = true
		origin.layered = true
		return says("%v\nFailed to revert logical volume %s.\nAborting. Manual intervention required.",
			origin.unsuspendable(), origin.fullName())
	}
	f.add(vg, Volume{Name: name, Origin: origin.Name, Size: size, Tags: o["--addtag"]}).chunk = chunk
	origin.resume()
	return nil
}

// unsuspendable is what an old kernel says of a device whose file system is frozen.
func (v *volume) unsuspendable() error {
	return says("device-mapper: suspend ioctl on  (%d:%d) failed: Device or resource busy\nUnable to suspend %s (%d:%d)",
		major, v.minor, lvm.DMName(v.vg.Name, v.Name), major, v.minor)
}

func (f *Fake) createThin(origin *volume, name string, o options) error {
	if skip := o.one("--setactivationskip"); skip != "n" && skip != "y" {
		panic(fmt.Sprintf("lvmtest: lvcreate of a thin snapshot with %v", o))
	}
	if origin.Kind != lvm.Thin {
		panic("lvmtest: a thick snapshot needs --extents, or LVM asks for a size")
	}
	pool := origin.vg.volume(origin.Pool)
	switch {
	case pool.sick:
		return says("WARNING: Thin pool %s has unexpected transaction id 1, expecting 3 or lower by 1.\n"+
			"Cannot create new thin volume, free space in thin pool %s reached threshold.", pool.fullName(), pool.fullName())
	case origin.suspended:
		// LVM takes the origin for suspended by itself and skips the message to the pool.
		origin.suspended, pool.sick = false, true
		return says("device-mapper: reload ioctl on  (%d:%d) failed: No data available\nFailed to activate thin %s.",
			major, f.made+1, name)
	case origin.frozen && !f.thawed:
		return says("%v\nFailed to suspend thin snapshot origin %s.", origin.unsuspendable(), origin.fullName())
	}
	skipped := o.one("--setactivationskip") == "y"
	f.add(origin.vg, Volume{Name: name, Kind: lvm.Thin, Origin: origin.Name, Tags: o["--addtag"],
		Inactive: skipped}).skipped = skipped
	return nil
}

func (f *Fake) lvextend(o options, names []string) (string, error) {
	size, err := strconv.ParseInt(strings.TrimSuffix(o.one("--size"), "b"), 10, 64)
	if err != nil || len(names) != 1 || !o.has("--yes") {
		panic(fmt.Sprintf("lvmtest: lvextend of %q with %v", names, o))
	}
	if g, v := f.lookup(names[0]); g != nil && v == nil {
		_, lv, _ := strings.Cut(names[0], "/")
		return "", says("Logical volume %s not found in volume group %s.", lv, g.Name)
	}
	return f.onEach(names, func(v *volume) error { return v.extend(size) })
}

func (v *volume) extend(size int64) error {
	unit := v.vg.ExtentSize
	size = (size + unit - 1) / unit * unit
	if v.merging {
		return says("Can't resize internal logical volume %s.", v.fullName())
	}
	if origin := v.vg.byUUID(v.originUUID); v.Kind == lvm.Snapshot {
		if longest := lvm.MaxCOW(origin.Size, v.chunk, unit); size > longest {
			size = longest // LVM says so, and exits with 0
			if size == v.Size {
				return nil
			}
		}
	}
	if size == v.Size {
		return says("New size (%d extents) matches existing size (%d extents).", size/unit, v.Size/unit)
	}
	if size < v.Size {
		return says("New size given (%d extents) not larger than existing size (%d extents)", size/unit, v.Size/unit)
	}
	if free := v.vg.free(); size-v.Size > free {
		return says("Insufficient free space: %d extents needed, but only %d available", (size-v.Size)/unit, free/unit)
	}
	v.Size = size
	return nil
}

func (f *Fake) lvremove(o options, names []string) (string, error) {
	if !o.has("--yes") {
		panic("lvmtest: lvremove would ask")
	}
	f.gone = map[string]bool{}
	return f.onEach(names, func(v *volume) error {
		if v.Open > 0 {
			return says("Logical volume %s contains a filesystem in use.", v.fullName())
		}
		if v.merging && !v.invalid {
			return says("Can't remove merging snapshot logical volume %s.", v.fullName())
		}
		f.gone[v.fullName()] = true
		for _, s := range v.vg.snapshots(v) {
			if s.Kind == lvm.Snapshot {
				v.vg.remove(s)
				continue
			}
			s.Origin, s.originUUID = "", ""
		}
		v.vg.remove(v)
		return nil
	})
}

func (f *Fake) lvconvert(o options, names []string) (string, error) {
	if !o.has("--yes") || !o.has("--merge") || !o.has("--background") {
		panic(fmt.Sprintf("lvmtest: lvconvert with %v", o))
	}
	f.gone = map[string]bool{}
	return f.onEach(names, f.merge)
}

func (f *Fake) merge(v *volume) error {
	origin := v.vg.byUUID(v.originUUID)
	switch {
	case origin == nil:
		return says("%s is not a mergeable logical volume.", v.fullName())
	case v.merging:
		return says("Command on LV %s is invalid on LV with properties: lv_is_merging_cow .\n"+
			"Command not permitted on LV %s.", v.fullName(), v.fullName())
	case origin.isMerging():
		return says("Cannot merge snapshot %s into the origin %s with merging snapshot %s.",
			v.fullName(), origin.fullName(), v.fullName())
	case v.invalid:
		return says("Unable to merge invalidated snapshot LV %s.", v.fullName())
	}
	v.merging = true
	if origin.Open == 0 && v.Open == 0 {
		f.gone[v.fullName()] = v.Kind == lvm.Thin
		v.startMerge()
	} else if v.Kind == lvm.Thin {
		v.active = false
	}
	return nil
}

// startMerge is what an open origin or snapshot delays.
func (v *volume) startMerge() {
	if v.Kind == lvm.Thin {
		v.replaceOrigin()
		return
	}
	v.running = true
	for _, s := range v.siblings() {
		// What was written before the sibling was taken is in this COW only, and
		// the merge writes it to the origin a second time.
		s.debt = max(0, v.used-s.used)
	}
}

// replaceOrigin is the merge of a thin snapshot: it takes its origin's name at
// once, and the origin's other snapshots have no origin any more.
func (v *volume) replaceOrigin() {
	origin := v.vg.byUUID(v.originUUID)
	for _, s := range v.vg.snapshots(origin) {
		s.Origin, s.originUUID = "", ""
	}
	v.vg.remove(v)
}
