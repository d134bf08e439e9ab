package rollback

import (
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/snapset"
)

// planMounts plans which mounts are unmounted and made again, and refuses members that cannot be unmounted.
func (p *planner) planMounts(f *findings) error {
	needed := filesystem.EssentialDevices(f.selection.view.Mounts, f.selection.view.Journal, "/usr")
	fstab, err := p.server.Host.Fstab()
	if err != nil {
		return err
	}
	devices, crypt := map[string]string{}, map[filesystem.Dev]bool{}
	var errs []error
	var toRestore []filesystem.Mount
	for i := range f.targets {
		t := &f.targets[i]
		path, isNeeded := needed[t.FS]
		if err := p.checkBootOrder(t, f.selection.view.Journal, path); err != nil {
			errs = append(errs, err)
		} else if isNeeded && !p.Defer {
			errs = append(errs, fault.New(fault.Busy, "%s holds %s and cannot be closed while the server runs",
				t.LV.FullName(), path).
				WithHint("when_busy=defer merges it at the next boot"))
		}
		for _, m := range mountsToRestore(t, p.StopHolders) {
			toRestore = append(toRestore, m)
			devices[m.Point] = t.LV.Path
			crypt[m.Dev] = t.Crypt != ""
		}
	}
	sortByTable(toRestore, f.selection.view.Mounts)
	for _, m := range toRestore {
		errs = append(errs, checkMadeAgain(m, toRestore, f.selection.view.Mounts, fstab))
		if !crypt[m.Dev] {
			m.Source = devices[m.Point] // the kernel keeps the name that the device had when it was mounted
		}
		if _, pid := automountOf(f.selection.view.Mounts, m); pid > 1 {
			continue // an automounter other than systemd unmounts it when it stops, and mounts it again on access
		}
		p.state.Mounts = append(p.state.Mounts, mountSpecOf(m, toRestore, fstab))
	}
	for _, v := range f.selection.snapshots {
		for _, m := range filesystem.On(f.selection.view.Mounts, filesystem.NewDev(v.Major, v.Minor)) {
			p.state.SetMounts = append(p.state.SetMounts, mountSpecOf(m, nil, nil))
		}
	}
	for i := range f.targets {
		p.state.Listed = append(p.state.Listed, filesystem.FstabPoints(fstab, f.targets[i].FS)...)
	}
	p.warnings = append(p.warnings, filesystem.FstabWarnings(fstab, devices)...)
	return fault.All(errs...)
}

// checkMadeAgain refuses a mount that could not be unmounted, because another one hides it, or not made again as it is.
func checkMadeAgain(m filesystem.Mount, all, table []filesystem.Mount, fstab []filesystem.FstabEntry) error {
	cover, covered := filesystem.Cover(table, m)
	isOwn := slices.ContainsFunc(all, func(own filesystem.Mount) bool { return own.ID == cover.ID })
	if covered && !isOwn {
		return filesystem.CoverFault(m.Point, cover)
	}
	if !utf8.ValidString(m.Point) || !utf8.ValidString(m.Root) {
		return fault.New(fault.Unsupported, "the mount on %q has a name that is not valid UTF-8: the journal cannot hold "+
			"it, and after an interruption nobody could mount it again", m.Point).
			WithHint("umount it before the rollback, and mount it again afterwards")
	}
	if losesOwnerMap(m, m.RestoreOptions(fstab)) {
		return fault.New(fault.Unsupported, "the mount on %s maps owners (idmapped), and could not be made again so",
			m.Point).WithHint("end what made it, or umount %s, before the rollback, and make it again afterwards", m.Point)
	}
	return nil
}

// losesOwnerMap reports whether a mount maps owners (idmapped), and the options with which it is made again do not.
func losesOwnerMap(m filesystem.Mount, again []string) bool {
	hasMap := func(o string) bool { return strings.HasPrefix(o, "X-mount.idmap=") }
	return slices.Contains(m.Flags(), "idmapped") && !slices.ContainsFunc(again, hasMap)
}

// sortByTable sorts mounts in the order of the kernel's table, in which a mount comes after the one that it lies below.
// The order of the mount IDs means nothing, because the kernel reuses them.
func sortByTable(mounts, table []filesystem.Mount) {
	position := map[int]int{}
	for i, m := range table {
		position[m.ID] = i
	}
	sort.SliceStable(mounts, func(i, j int) bool { return position[mounts[i].ID] < position[mounts[j].ID] })
}

// mountsToRestore returns the mounts of a volume that a rollback unmounts and makes again: those of the whole file
// system. A bind mount of a part of it was made by somebody on purpose, and belongs to them only with parts.
func mountsToRestore(t *snapset.Target, parts bool) []filesystem.Mount {
	notOwn := func(m filesystem.Mount) bool { return m.Root != "/" && !parts }
	return slices.DeleteFunc(slices.Clone(t.Mounts), notOwn)
}

// mountSpecOf returns how m is made again: from its device, or, for a bind mount, from the mount that shows the
// directory. A second mount of a whole file system that differs from the first in being read-only is made as a bind
// mount too, because the device itself has only one read-only state. all are the mounts that are made again.
func mountSpecOf(m filesystem.Mount, all []filesystem.Mount, fstab []filesystem.FstabEntry) filesystem.MountSpec {
	spec := filesystem.MountSpec{Source: m.Source, Point: m.Point, Type: m.Type, Options: m.RestoreOptions(fstab)}
	first := slices.IndexFunc(all, func(whole filesystem.Mount) bool { return whole.Dev == m.Dev && whole.Root == "/" })
	if first < 0 || m.Root == "/" && (all[first].Point == m.Point || all[first].ReadOnly() == m.ReadOnly()) {
		return spec
	}
	whole := all[first]
	bind := filesystem.MountSpec{Bind: filepath.Join(whole.Point, m.Root), Point: m.Point}
	if m.Options != whole.Options { // otherwise it inherits them
		bind.Options = m.Flags()
	}
	return bind
}
