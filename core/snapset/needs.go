package snapset

import (
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Need is a volume that a file system cannot be used without: its log, its real-time device or its journal.
type Need struct {
	What   string         // log, real-time device or journal
	Option string         // the mount option that names it; empty if a snapshot is mounted without it
	Dev    filesystem.Dev // zero if not known
	LV     *lvm.Volume    // nil if it is none of the set's volumes
}

// unsupported returns an unsupported fault.
func unsupported(format string, a ...any) *fault.Error {
	return fault.New(fault.Unsupported, format, a...)
}

// resolveNeeds sets the Needs of each target, and with TakeParts adds the volumes that they name to the targets. It
// refuses a set that has a file system without one of its parts, or a part without its file system: a rollback would
// leave the two at different times.
func (v *View) resolveNeeds(targets []Target) ([]Target, error) {
	if v.Needs == nil {
		return targets, nil
	}
	fstab, err := filesystem.Fstab(fstabFile)
	if err != nil {
		return targets, err
	}
	var errs []error
	for i := 0; i < len(targets); i++ {
		t := &targets[i]
		if !t.LV.Active || Unreliable(t.LV) != nil {
			continue // it cannot be read; a set with an unreliable volume is refused later, with the reason
		}
		needs, err := v.Needs(t.devicePath())
		if err != nil {
			return targets, err
		}
		if needs.Btrfs {
			errs = append(errs, noBtrfs(t.LV.FullName()))
			continue
		}
		t.Journal = needs.IsJournal
		t.Needs = v.needsOf(t, needs, fstab)
		if v.TakeParts {
			targets = v.addParts(targets, t.Needs)
			t = &targets[i]
		}
		for j := range t.Needs {
			errs = append(errs, v.locateNeed(t, &t.Needs[j], targets))
		}
		errs = append(errs, v.checkStacked(t, targets))
	}
	for i := range targets {
		errs = append(errs, v.refuseLonePart(&targets[i], targets))
	}
	return targets, fault.All(errs...)
}

// addParts adds the needed volumes that are not yet among the targets. One that cannot be added is left out, and
// locateNeed refuses the set because of it.
func (v *View) addParts(targets []Target, needs []Need) []Target {
	for _, n := range needs {
		isNeeded := func(t Target) bool { return n.Dev == t.FS || n.Dev == devOf(t.LV) }
		lv, found := v.Report.ByDevice(int(n.Dev.Major), int(n.Dev.Minor))
		if !found || slices.ContainsFunc(targets, isNeeded) {
			continue
		}
		if part, err := v.resolve(Volume{Name: lv.FullName()}); err == nil {
			targets = append(targets, part)
		}
	}
	return targets
}

// devicePath returns the path of the device that the target's file system is on.
func (t *Target) devicePath() string {
	if t.Crypt != "" {
		return "/dev/mapper/" + t.Crypt
	}
	return t.LV.Path
}

// needsOf returns what the file system needs, and on which devices. XFS is told of these by mount options. ext4 needs
// no option for its journal, and a snapshot that is only read is mounted without the journal: the file system was
// frozen, so the journal is empty, and opening another one would be recorded in the file system.
func (v *View) needsOf(t *Target, n filesystem.Needs, fstab []filesystem.FstabEntry) []Need {
	var needs []Need
	for _, xfs := range []struct {
		needed       bool
		what, option string
	}{{n.Log, "log", "logdev"}, {n.RealTime, "real-time device", "rtdev"}} {
		if xfs.needed {
			dev, _ := v.Device(t.mountOption(xfs.option, fstab)) // zero on an error: not known
			needs = append(needs, Need{What: xfs.what, Option: xfs.option, Dev: dev})
		}
	}
	if n.Journal {
		needs = append(needs, Need{What: "journal", Dev: n.JournalOn})
	}
	return needs
}

// mountOption returns the value of a mount option of the target's file system, from its mounts or from fstab; empty if
// there is none.
func (t *Target) mountOption(name string, fstab []filesystem.FstabEntry) string {
	var all []string
	for _, m := range t.Mounts {
		all = append(all, strings.Split(m.Super, ",")...)
	}
	for _, e := range fstab {
		if slices.Contains(filesystem.FstabPoints([]filesystem.FstabEntry{e}, t.FS), e.Point) {
			all = append(all, e.Options...)
		}
	}
	for _, o := range all {
		if value, ok := strings.CutPrefix(o, name+"="); ok {
			return value
		}
	}
	return ""
}

// locateNeed finds the target that a need names and sets n.LV, or refuses the set.
func (v *View) locateNeed(t *Target, n *Need, targets []Target) error {
	if n.Dev == (filesystem.Dev{}) {
		return unsupported("%s: its %s lies on another device, and it is not known on which", t.LV.FullName(), n.What).
			WithHint("mount it, or name the device in fstab with the option %s=", n.Option)
	}
	for i := range targets {
		if n.Dev == targets[i].FS || n.Dev == devOf(targets[i].LV) {
			n.LV = targets[i].LV
			return nil
		}
	}
	if lv, ok := v.Report.ByDevice(int(n.Dev.Major), int(n.Dev.Minor)); ok {
		return unsupported("%s: its %s lies on %s, which is not in the set", t.LV.FullName(), n.What, lv.FullName()).
			WithHint("name %s in volumes too: a rollback must take both back", lv.FullName())
	}
	return unsupported("%s: its %s lies on device %s, which is no logical volume", t.LV.FullName(), n.What, n.Dev).
		WithHint("leave it out: a rollback could not take its %s back", n.What)
}

// refuseLonePart refuses a log, real-time device or journal whose file system is not in the set.
func (v *View) refuseLonePart(t *Target, targets []Target) error {
	if IsPart(t, targets) {
		return nil
	}
	if t.Journal {
		return unsupported("%s is the journal of a file system that is not in the set", t.LV.FullName()).
			WithHint("name that file system too, or leave both out")
	}
	for _, m := range v.Mounts {
		for _, o := range strings.Split(m.Super, ",") {
			option, path, _ := strings.Cut(o, "=")
			if m.Type != "xfs" || option != "logdev" && option != "rtdev" {
				continue
			}
			if dev, err := v.Device(path); err == nil && t.LV.Active && (dev == t.FS || dev == devOf(t.LV)) {
				return unsupported("%s belongs to the file system on %s, which is not in the set", t.LV.FullName(), m.Point).
					WithHint("name %s too, or leave both out", m.Point)
			}
		}
	}
	return nil
}

// partOptions returns the mount options by which the set's snapshot of t uses the snapshots of what t needs.
func (s *Set) partOptions(t *Target) []string {
	var options []string
	for _, n := range t.Needs {
		snapshot := s.snapshotOf(n.LV)
		switch {
		case n.Option == "":
			options = append(options, "noload")
		case snapshot != nil:
			options = append(options, n.Option+"="+snapshot.Path)
		}
	}
	return options
}

// IsPart says whether t is a log, real-time device or journal that another of the targets needs. Such a volume has no
// file system of its own to be mounted.
func IsPart(t *Target, targets []Target) bool {
	return slices.ContainsFunc(targets, func(other Target) bool {
		return slices.ContainsFunc(other.Needs, func(n Need) bool { return n.LV == t.LV })
	})
}
