package servicetest

import (
	"maps"
	"path"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/service/bus"
)

// opposite has the property that the other unit has (org.freedesktop.systemd1(5)).
var opposite = bothWays(map[string]string{
	"After": "Before", "Requires": "RequiredBy", "Requisite": "RequisiteOf", "Wants": "WantedBy", "BindsTo": "BoundBy",
	"PartOf": "ConsistsOf", "Upholds": "UpheldBy", "PropagatesStopTo": "StopPropagatedFrom", "Triggers": "TriggeredBy",
})

func bothWays(m map[string]string) map[string]string {
	all := map[string]string{}
	for property, other := range m {
		all[property], all[other] = other, property
	}
	return all
}

func has(names []string, name string) bool { return slices.Contains(names, name) }

// relations returns the units that a unit has to do with, by property.
func (f *Fake) relations(u *Unit) map[string][]string {
	all := map[string][]string{}
	for property := range u.Deps {
		all[property] = slices.Clone(u.Deps[property])
	}
	for property := range opposite {
		if list := f.related(u, property); len(list) > 0 {
			all[property] = list
		}
	}
	return all
}

// related returns the units that a unit names in a property, and those that name the unit in the opposite one.
func (f *Fake) related(u *Unit, property string) []string {
	list := f.own(u, property)
	for name, other := range f.all() {
		if !has(list, name) && has(f.own(other, opposite[property]), u.name) {
			list = append(list, name)
		}
	}
	return list
}

// own returns the units that a unit itself names in a property, in its files or by what it is.
func (f *Fake) own(u *Unit, property string) []string {
	list := u.written(property)
	switch property {
	case "After":
		return append(list, f.impliedOrder(u)...)
	case "Requires":
		return append(list, slices.Concat(f.mountsFor(u), f.localMounts(u, false))...)
	case "Wants":
		return append(list, f.localMounts(u, true)...)
	}
	return list
}

// written returns what was given to Add for a property, and what the unit's files say.
func (u *Unit) written(property string) []string {
	return slices.Concat(u.Deps[property], u.file.deps[property])
}

// Targets of every boot (systemd.special(7)). localFS is reached when all file systems of fstab are mounted. sysinit
// comes after it, and then services with default dependencies.
const (
	localFS = "local-fs.target"
	sysinit = "sysinit.target"
)

func (u *Unit) unitType() string { return path.Ext(u.name) }

func (u *Unit) isMount() bool { return u.unitType() == ".mount" || u.unitType() == ".automount" }

// hasDefaults reports whether systemd adds dependencies of its own (DefaultDependencies=).
func (u *Unit) hasDefaults() bool {
	return !u.NoDefaults && u.file.settings["DefaultDependencies"] != "no"
}

// impliedOrder returns the units that a unit is ordered after without having to say so: the mounts on its paths; for a
// service, sysinit.target; for a mount, its automount; for a target, what it pulls in.
func (f *Fake) impliedOrder(u *Unit) []string {
	order := f.mountsFor(u)
	switch u.unitType() {
	case ".service":
		if u.hasDefaults() {
			order = append(order, sysinit)
		}
	case ".mount":
		if automount := strings.TrimSuffix(u.name, ".mount") + ".automount"; f.units[automount] != nil {
			order = append(order, automount)
		}
	case ".target":
		if order = append(order, f.orderOfTarget(u)...); u.name == sysinit {
			order = append(order, localFS)
		}
	}
	return order
}

// orderOfTarget returns the units that a target is ordered after: what it pulls in and what is not ordered after the
// target. Mounts are ordered before local-fs.target, also those that are not made at boot, except with nofail.
func (f *Fake) orderOfTarget(target *Unit) (order []string) {
	pulledIn := slices.Concat(target.written("Requires"), target.written("Wants"))
	for name, u := range f.all() {
		isLocal := target.name == localFS && u.isMount() && !u.NoFail
		isPulledIn := has(pulledIn, name) && !has(u.written("After"), target.name)
		if u.hasDefaults() && (isLocal || isPulledIn) {
			order = append(order, name)
		}
	}
	return order
}

// localMounts returns the mounts and automounts that local-fs.target requires, or those that it only wants (nofail).
func (f *Fake) localMounts(u *Unit, noFail bool) (mounts []string) {
	if u.name != localFS {
		return nil
	}
	for name, mount := range f.all() {
		if mount.isMount() && mount.Enabled && mount.NoFail == noFail {
			mounts = append(mounts, name)
		}
	}
	return mounts
}

// mountsFor returns the mount units on the paths of RequiresMountsFor=, and on the way to the mount point of a mount.
func (f *Fake) mountsFor(u *Unit) (mounts []string) {
	var points []string
	for _, needed := range u.written("RequiresMountsFor") {
		points = append(points, dirsTo(bus.EscapePath(needed))...)
	}
	if u.isMount() {
		own := strings.TrimSuffix(u.name, u.unitType())
		points = append(points, slices.DeleteFunc(dirsTo(own), func(dir string) bool { return dir == own })...)
	}
	for _, point := range points {
		if name := point + ".mount"; f.units[name] != nil && !has(mounts, name) {
			mounts = append(mounts, name)
		}
	}
	return mounts
}

// dirsTo returns an escaped path and all directories above it. In an escaped path, "-" is always a slash.
func dirsTo(escaped string) []string {
	dirs := []string{"-"}
	for i := range len(escaped) {
		if i > 0 && escaped[i] == '-' {
			dirs = append(dirs, escaped[:i])
		}
	}
	return append(dirs, escaped)
}

// isAfter reports whether a unit is ordered after another one.
func (f *Fake) isAfter(u, other *Unit) bool {
	return has(f.own(u, "After"), other.name) || has(f.own(other, "Before"), u.name)
}

// needs returns the units without which a start of a unit fails. If the server was booted, a service with default
// dependencies needs sysinit.target, and that needs local-fs.target: systemd has it only want that, and enters
// emergency mode if it fails, which comes to the same. Neither is stopped with what it needs.
func (f *Fake) needs(u *Unit) []string {
	needed := slices.Concat(f.related(u, "Requires"), f.related(u, "BindsTo"))
	switch {
	case f.units[sysinit] == nil:
	case u.name == sysinit:
		needed = append(needed, localFS)
	case u.unitType() == ".service" && u.hasDefaults():
		needed = append(needed, sysinit)
	}
	return needed
}

// pull adds a unit to pulled, and all that it requires and wants, in any number of steps, also of units that run. An
// error says that the unit, or one that it needs, does not exist. What is only wanted may be missing (systemd,
// src/core/transaction.c, transaction_add_job_and_dependencies).
func (f *Fake) pull(name string, pulled map[string]*Unit) error {
	u := f.load(name)
	if u == nil || u.Load != "loaded" {
		return noSuchUnit(name)
	}
	if pulled[name] != nil {
		return nil
	}
	pulled[name] = u
	for _, needed := range f.needs(u) {
		if err := f.pull(needed, pulled); err != nil {
			return err
		}
	}
	for _, wanted := range f.related(u, "Wants") {
		if more := maps.Clone(pulled); f.pull(wanted, more) == nil {
			maps.Copy(pulled, more)
		}
	}
	return nil
}

// toStart adds to starts what a start of a unit also starts. A unit that runs is left out, with what only it would pull
// in (systemd, transaction_drop_redundant and transaction_collect_garbage).
func (f *Fake) toStart(u *Unit, pulled, starts map[string]*Unit) {
	for _, name := range slices.Concat(f.needs(u), f.related(u, "Wants")) {
		other := pulled[name]
		if other == nil || starts[name] != nil || other.isUp() && other.jobType() != "stop" {
			continue
		}
		starts[name] = other
		f.toStart(other, pulled, starts)
	}
}
