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

// SetOpen says how often a volume is open; a mount is one.
func (f *Fake) SetOpen(name string, times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.need(name).Open = times
}

// SetFrozen says that the file system on a volume is frozen, or thawed again.
func (f *Fake) SetFrozen(name string, frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.need(name).frozen = frozen
}

// OldKernel makes this a kernel like 6.1, which suspends no frozen file system.
func (f *Fake) OldKernel() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.thawed = false
}

// Suspended reports whether a volume's device is suspended.
func (f *Fake) Suspended(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.need(name).suspended
}

// Rename renames a volume, as an administrator would between two runs.
func (f *Fake) Rename(name, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.need(name)
	for _, s := range v.vg.snapshots(v) {
		s.Origin = to
	}
	v.Name = to
}

// Fill sets how much of a thick snapshot's COW space is used; 100 overflows it.
func (f *Fake) Fill(name string, percent float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.need(name)
	v.used = max(headerSectors, int64(float64(v.Size/sector)*percent/100))
	v.overflow()
}

// Write changes bytes of a volume that no snapshot has recorded yet: they fill
// the COW space of each of its thick snapshots.
func (f *Fake) Write(name string, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.need(name)
	for _, s := range v.vg.snapshots(v) {
		if s.Kind == lvm.Snapshot && !s.running {
			s.used += bytes / sector
			s.overflow()
		}
	}
}

func (v *volume) overflow() {
	if v.used >= v.Size/sector {
		v.used, v.invalid = v.Size/sector, true
	}
}

// KillPoller ends LVM's poller: merges go on in the kernel, but LVM does not
// notice their end before somebody polls or activates the origin.
func (f *Fake) KillPoller() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.poller = false
}

// Tick lets every merge that runs copy half of what is left, at least 1 MiB,
// and the poller finish those that have nothing left.
func (f *Fake) Tick() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.allVolumes() {
		if v.running {
			v.mergeSome()
		}
	}
	if f.poller {
		f.finishMerges()
	}
}

func (v *volume) mergeSome() {
	left := v.used - headerSectors
	step := min(left, max(left/2, mib/sector))
	v.used -= step
	for _, s := range v.siblings() {
		fill := min(step, s.debt)
		s.used, s.debt = s.used+fill, s.debt-fill
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

func (f *Fake) finishMerges() {
	for _, v := range f.allVolumes() {
		if v.running && v.used <= headerSectors {
			v.vg.remove(v)
		}
	}
}

// PowerCut ends everything that is not on disk: devices are activated again at
// the next boot, which also starts merges that were deferred.
func (f *Fake) PowerCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.poller = true
	for _, v := range f.allVolumes() {
		v.suspended, v.frozen, v.halfMade, v.Open = false, false, false, 0
		if v.merging && !v.running && v.Kind == lvm.Snapshot {
			v.startMerge()
		}
	}
	for _, v := range f.allVolumes() {
		if v.merging && v.Kind == lvm.Thin {
			v.replaceOrigin()
		}
	}
}

func (f *Fake) allVolumes() []*volume {
	var all []*volume
	for _, g := range f.groups {
		all = append(all, g.volumes...)
	}
	return all
}
