package lvmtest

import (
	"go.pcc.com/rewind/core/lvm"
)

// Make adds a volume to a group.
func (f *Fake) Make(vg string, v Volume) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		if g.Name == vg {
			f.add(g, v)
			return
		}
	}
	panic("lvmtest: no group " + vg)
}

// SetHidden takes all disks of a group away from LVM, which does not see the group then, or brings them back. What the
// kernel has of its volumes stays.
func (f *Fake) SetHidden(vg string, hidden bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		if g.Name == vg {
			g.hidden = hidden
		}
	}
}

// CloneGroup adds a copy of a group under another name, as vgimportclone(8) makes one of copied disks: the group has a
// new UUID, its volumes keep theirs. They are inactive.
func (f *Fake) CloneGroup(vg, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, g := range f.groups {
		if g.Name != vg {
			continue
		}
		clone := &group{Group: g.Group, uuid: f.uuid()}
		clone.Name = name
		for _, v := range g.volumes {
			copied := *v
			copied.vg, copied.active, copied.Open = clone, false, 0
			clone.volumes = append(clone.volumes, &copied)
		}
		f.groups = append(f.groups, clone)
		return
	}
	panic("lvmtest: no group " + vg)
}

// SetOpen sets the open count of a volume. A mount counts as one.
func (f *Fake) SetOpen(name string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mustFind(name).Open = times
}

// SetFrozen freezes the file system on a volume, or thaws it.
func (f *Fake) SetFrozen(name string, frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mustFind(name).frozen = frozen
}

// KeepCopiesIn sets the directory of which LVM says that it keeps copies of its metadata there.
func (f *Fake) KeepCopiesIn(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dir = dir
}

// OldKernel makes the kernel one like 6.1, which cannot suspend a device with a frozen file system.
func (f *Fake) OldKernel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suspendsFrozen = false
}

// Suspended reports whether a volume's device is suspended.
func (f *Fake) Suspended(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mustFind(name).suspended
}

// Remove removes volumes by their names, as an administrator does with lvremove. It does not count as a command.
func (f *Fake) Remove(names ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.dispatch(append([]string{"lvm", "lvremove", "--yes", "--"}, names...)); err != nil {
		panic(err)
	}
}

// Rename renames a volume, as an administrator would between two runs.
func (f *Fake) Rename(name, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.mustFind(name)
	for _, s := range v.vg.snapshots(v) {
		s.Origin = to
	}
	v.Name = to
}

// Fill sets how much of a thick snapshot's COW space is used; 100 overflows it.
func (f *Fake) Fill(name string, percent float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.mustFind(name)
	v.usedSectors = max(headerSectors, int64(float64(v.Size/sector)*percent/100))
	v.overflow()
}

// Content returns a number for what a volume holds. A write gives it a new number. A snapshot has the number of its
// origin at its instant, and an origin has that of the snapshot from the moment in which it merges.
func (f *Fake) Content(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mustFind(name).content
}

// Write changes that many bytes of a volume. No snapshot has recorded them yet, so they fill the COW space of each of
// the volume's thick snapshots.
func (f *Fake) Write(name string, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.mustFind(name)
	f.contents++
	v.content = f.contents
	for _, s := range v.vg.snapshots(v) {
		if s.Kind == lvm.Snapshot && !s.kernelMerging {
			s.usedSectors += bytes / sector
			s.overflow()
		}
	}
}

// overflow makes a snapshot invalid if its COW space is used up.
func (v *volume) overflow() {
	if v.usedSectors >= v.Size/sector {
		v.usedSectors, v.invalid = v.Size/sector, true
	}
}

// KillPoller ends LVM's poller. Merges go on in the kernel, but LVM does not notice that they have ended until somebody
// has it poll, or activates the origin.
func (f *Fake) KillPoller() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pollerAlive = false
}

// Tick lets time pass. Every merge that runs copies half of what is left, but at least 1 MiB, and the poller finishes
// the merges that have nothing left.
func (f *Fake) Tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.allVolumes() {
		if v.kernelMerging {
			v.mergeSome()
		}
	}
	if f.pollerAlive {
		f.finishMerges()
	}
}

// mergeSome has the kernel copy a part of a merging snapshot back to its origin.
func (v *volume) mergeSome() {
	left := v.usedSectors - headerSectors
	step := min(left, max(left/2, mib/sector))
	v.usedSectors -= step
	for _, s := range v.siblings() {
		fill := min(step, s.pendingFill)
		s.usedSectors, s.pendingFill = s.usedSectors+fill, s.pendingFill-fill
		s.overflow()
	}
}

// siblings returns the other thick snapshots of a snapshot's origin.
func (v *volume) siblings() []*volume {
	var others []*volume
	for _, s := range v.vg.snapshots(v.vg.byUUID(v.originUUID)) {
		if s != v && s.Kind == lvm.Snapshot {
			others = append(others, s)
		}
	}
	return others
}

// finishMerges removes the snapshots whose merges have nothing left to copy.
func (f *Fake) finishMerges() {
	for _, v := range f.allVolumes() {
		if v.kernelMerging && v.usedSectors <= headerSectors {
			v.vg.remove(v)
		}
	}
}

// PowerCut is a power cut and the next boot. Everything that is not on disk is lost. The boot activates the devices
// again, with the tables that LVM's metadata has, which also starts deferred merges. It activates none that has the
// activation-skip flag or may not be activated by itself, and no thin snapshot that its pool has deleted.
func (f *Fake) PowerCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pollerAlive, f.lockedGroups = true, nil
	for _, v := range f.allVolumes() {
		v.suspended, v.frozen, v.halfMade, v.Open = false, false, false, 0
		v.active, v.hasInner = v.isActivatedAtBoot(), false
		if v.liveTable != nil { // a thick snapshot without its table begins to record only now
			v.suspendedAtStart = nil
		}
		v.liveTable, v.preparedTable = nil, nil
		if v.merging && v.Kind == lvm.Snapshot {
			wasMerging := v.kernelMerging
			if v.kernelMerging = v.active; v.active && !wasMerging {
				v.startMerge()
			}
		}
	}
	for _, v := range f.allVolumes() {
		if v.merging && v.Kind == lvm.Thin && v.vg.byUUID(v.originUUID).active {
			v.replaceOrigin()
		}
	}
}

// isActivatedAtBoot reports whether a boot gives v a device. A thick snapshot has one whenever its origin has.
func (v *volume) isActivatedAtBoot() bool {
	if origin := v.vg.byUUID(v.originUUID); v.Kind == lvm.Snapshot && origin != nil {
		v = origin
	}
	return !v.skipActivation && !v.Manual && !v.deletedInPool
}

func (f *Fake) allVolumes() []*volume {
	var all []*volume
	for _, g := range f.groups {
		all = append(all, g.volumes...)
	}
	return all
}
