package snapset

import (
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Need is a volume that a file system is nothing without: its log, its real-time device.
type Need struct {
	What   string         // such as "log"
	Option string         // the mount option that names it; empty where its snapshot is mounted without
	Dev    filesystem.Dev // zero: it is not known which
	LV     *lvm.Volume    // nil: none of the set's
}

// no is an unsupported fault.
func no(format string, a ...any) *fault.Error { return fault.New(fault.Unsupported, format, a...) }

// whole refuses a set that lacks a part of one of its file systems, or has such a part and not the file system: a
// rollback would leave the two at different times. It notes what each target needs, and with TakeParts adds that.
func (v *View) whole(targets []Target) ([]Target, error) {
	if v.Needs == nil {
		return targets, nil
	}
	fstab, err := filesystem.Fstab(fstabFile)
	if err != nil {
		return targets, err
	}
	var wrong []error
	for i := 0; i < len(targets); i++ {
		t := &targets[i]
		if !t.LV.Active || Unreliable(t.LV) != nil {
			continue // nothing can be read of it; a set of what is unreliable is refused later, with the reason
		}
		needs, err := v.Needs(t.device())
		if err != nil {
			return targets, err
		}
		if needs.Btrfs {
			wrong = append(wrong, noBtrfs(t.LV.FullName()))
			continue
		}
		t.Journal = needs.IsJournal
		t.Needs = v.needsOf(t, needs, fstab)
		if v.TakeParts {
			targets = v.withParts(targets, t.Needs)
			t = &targets[i]
		}
		for j := range t.Needs {
			wrong = append(wrong, v.needed(t, &t.Needs[j], targets))
		}
		wrong = append(wrong, v.stacked(t, targets))
	}
	for i := range targets {
		wrong = append(wrong, v.partOf(&targets[i], targets))
	}
	return targets, fault.All(wrong...)
}

// withParts adds the volumes that are needed and not there yet. One that cannot be added is refused as one that is not
// in the set.
func (v *View) withParts(targets []Target, needs []Need) []Target {
	for _, n := range needs {
		is := func(t Target) bool { return n.Dev == t.FS || n.Dev == devOf(t.LV) }
		lv, found := v.Report.ByDevice(int(n.Dev.Major), int(n.Dev.Minor))
		if !found || slices.ContainsFunc(targets, is) {
			continue
		}
		if part, err := v.resolve(Volume{Name: lv.FullName()}); err == nil {
			targets = append(targets, part)
		}
	}
	return targets
}

// device is where the target's file system is.
func (t *Target) device() string {
	if t.Crypt != "" {
		return "/dev/mapper/" + t.Crypt
	}
	return t.LV.Path
}

// needsOf finds the devices. XFS is told of them at the mount; ext4's journal needs no option, and a snapshot that is
// only read does without: it was frozen, so its journal is empty, and to open another one would be recorded in it.
func (v *View) needsOf(t *Target, n filesystem.Needs, fstab []filesystem.FstabEntry) []Need {
	var needs []Need
	for _, xfs := range []struct {
		needed       bool
		what, option string
	}{{n.Log, "log", "logdev"}, {n.RealTime, "real-time device", "rtdev"}} {
		if xfs.needed {
			dev, _ := v.Device(t.option(xfs.option, fstab)) // else it is not known
			needs = append(needs, Need{What: xfs.what, Option: xfs.option, Dev: dev})
		}
	}
	if n.Journal {
		needs = append(needs, Need{What: "journal", Dev: n.JournalOn})
	}
	return needs
}

// option is the value of a mount option: of a mount of the target, or in fstab for it.
func (t *Target) option(name string, fstab []filesystem.FstabEntry) string {
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
		if value, is := strings.CutPrefix(o, name+"="); is {
			return value
		}
	}
	return ""
}

// needed looks for a part among the targets.
func (v *View) needed(t *Target, n *Need, targets []Target) error {
	if n.Dev == (filesystem.Dev{}) {
		return no("%s: its %s lies on another device, and it is not known on which", t.LV.FullName(), n.What).
			WithHint("mount it, or name the device in fstab with the option %s=", n.Option)
	}
	for i := range targets {
		if n.Dev == targets[i].FS || n.Dev == devOf(targets[i].LV) {
			n.LV = targets[i].LV
			return nil
		}
	}
	if lv, ok := v.Report.ByDevice(int(n.Dev.Major), int(n.Dev.Minor)); ok {
		return no("%s: its %s lies on %s, which is not in the set", t.LV.FullName(), n.What, lv.FullName()).
			WithHint("name %s in volumes too: a rollback must take both back", lv.FullName())
	}
	return no("%s: its %s lies on device %s, which is no logical volume", t.LV.FullName(), n.What, n.Dev).
		WithHint("leave it out: a rollback could not take its %s back", n.What)
}

// partOf refuses a log or journal whose file system is not in the set.
func (v *View) partOf(t *Target, targets []Target) error {
	if IsPart(t, targets) {
		return nil
	}
	if t.Journal {
		return no("%s is the journal of a file system that is not in the set", t.LV.FullName()).
			WithHint("name that file system too, or leave both out")
	}
	for _, m := range v.Mounts {
		for _, o := range strings.Split(m.Super, ",") {
			option, path, _ := strings.Cut(o, "=")
			if m.Type != "xfs" || option != "logdev" && option != "rtdev" {
				continue
			}
			if dev, err := v.Device(path); err == nil && t.LV.Active && (dev == t.FS || dev == devOf(t.LV)) {
				return no("%s belongs to the file system on %s, which is not in the set", t.LV.FullName(), m.Point).
					WithHint("name %s too, or leave both out", m.Point)
			}
		}
	}
	return nil
}

// snapshotOptions are the options by which a snapshot of t finds the snapshots of what it needs.
func (w *work) snapshotOptions(t *Target) []string {
	var options []string
	for _, n := range t.Needs {
		snapshot := w.snapshotOf(n.LV)
		switch {
		case n.Option == "":
			options = append(options, "noload")
		case snapshot != nil:
			options = append(options, n.Option+"="+snapshot.Path)
		}
	}
	return options
}

// IsPart tells the log or journal of another target, which has no file system of its own to be mounted.
func IsPart(t *Target, targets []Target) bool {
	return slices.ContainsFunc(targets, func(other Target) bool {
		return slices.ContainsFunc(other.Needs, func(n Need) bool { return n.LV == t.LV })
	})
}
