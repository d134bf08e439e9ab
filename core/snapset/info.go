package snapset

import (
	"context"
	"slices"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Query says what Look is to return. A field that is empty restricts nothing.
type Query struct {
	Set string // only the set of that name
	VG  string // only what lies in that volume group
	// Merging has how many bytes of COW space were in use when each merge began, by the snapshot's UUID, where that is
	// known.
	Merging map[string]int64
}

// Info is the state of this server. Sizes are bytes, percentages are 0 to 100.
type Info struct {
	Host      Host           `json:"host"`
	Groups    []GroupInfo    `json:"groups"`
	Sets      []SetInfo      `json:"sets"`
	Unmanaged []SnapshotInfo `json:"unmanaged"` // snapshots that belong to no set
	Mounts    []MountInfo    `json:"mounts"`    // file systems on logical volumes
	None      string         `json:"-"`         // the message that there is no set of the requested name
	Warnings  []string       `json:"-"`         // LVM's own; if there are any, volumes may exist that are not listed
}

// GroupInfo is a volume group.
type GroupInfo struct {
	Name    string     `json:"vg"`
	Size    int64      `json:"size_bytes"`
	Free    int64      `json:"free_bytes"`
	Extent  int64      `json:"extent_bytes"`      // the size of one extent
	Partial bool       `json:"partial,omitempty"` // a physical volume is missing
	Pools   []PoolInfo `json:"pools,omitempty"`
}

// PoolInfo is a thin pool.
type PoolInfo struct {
	Pool     string   `json:"pool"` // vg/lv
	Size     int64    `json:"size_bytes"`
	Data     *float64 `json:"data_percent,omitempty"` // used; nil if LVM does not say it
	Metadata *float64 `json:"metadata_percent,omitempty"`
	Problem  string   `json:"problem,omitempty"` // empty if there is none
}

// The states of a set.
const (
	SetOK         = "ok"
	SetMerging    = "merging"    // it is being rolled back, now or at the next activation of a volume
	SetIncomplete = "incomplete" // snapshots of it are missing: somebody removed them
	SetBad        = "bad"        // a snapshot of it cannot be relied on: see its problem
)

// SetInfo is a set with its snapshots.
type SetInfo struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Time  string `json:"time"` // when it was taken, RFC 3339
	Age   int64  `json:"age_seconds"`
	Count int    `json:"count"` // of members when it was taken
	State string `json:"state"`
	// Consistency is "set", or "volume" if each volume was taken at an instant of its own.
	Consistency string         `json:"consistency"`
	Restored    *Restored      `json:"backup,omitempty"` // the backup that it was filled with; nil: none
	Snapshots   []SnapshotInfo `json:"snapshots"`
	// Missing are the volumes, vg/lv, whose snapshots are missing in an incomplete set, where that is known.
	Missing []string `json:"missing,omitempty"`
}

// SnapshotInfo is one snapshot.
type SnapshotInfo struct {
	Snapshot    string     `json:"snapshot"`         // vg/lv
	Volume      string     `json:"volume,omitempty"` // its origin, vg/lv; empty for a thin snapshot whose origin is gone
	Thin        bool       `json:"thin,omitempty"`
	Pool        string     `json:"pool,omitempty"`    // of a thin snapshot, vg/lv
	State       string     `json:"state"`             // as lvm.State names it
	Health      string     `json:"health,omitempty"`  // as lvm.Health names it; empty if healthy
	Problem     string     `json:"problem,omitempty"` // why it cannot be relied on
	Time        string     `json:"time"`
	Age         int64      `json:"age_seconds"`
	Size        int64      `json:"size_bytes"`               // of its content: that of the origin when it was taken
	COW         int64      `json:"cow_bytes,omitempty"`      // COW space; 0 for a thin snapshot
	Used        int64      `json:"cow_used_bytes,omitempty"` // of it
	UsedPercent *float64   `json:"cow_used_percent,omitempty"`
	ToFull      *int64     `json:"seconds_to_full,omitempty"` // at the mean rate since it was taken; nil if not known
	Merge       *MergeInfo `json:"merge,omitempty"`
	Mountpoints []string   `json:"mountpoints,omitempty"`        // of the snapshot itself
	OriginAt    []string   `json:"volume_mountpoints,omitempty"` // of its origin
	Tags        []string   `json:"tags,omitempty"`
}

// The states of a merge.
const (
	MergeRunning  = "running"  // the kernel is copying
	MergeFinished = "finished" // the kernel has copied everything, and LVM does not know it yet
	MergeDeferred = "deferred" // LVM begins it at the volume's next activation
	MergeFailed   = "failed"   // the kernel gave up after an I/O error, or the snapshot has overflowed
)

// MergeInfo is the progress of a merge, as the kernel reports it.
type MergeInfo struct {
	State   string   `json:"state"`
	Left    int64    `json:"left_bytes"`        // still to be copied
	Percent *float64 `json:"percent,omitempty"` // done; nil if the amount at the beginning is not known
}

// MountInfo is a mounted file system with all the devices that it lies on.
type MountInfo struct {
	Point  string  `json:"mountpoint"`
	Volume string  `json:"volume"` // that it lies on, vg/lv
	Type   string  `json:"fstype"`
	Root   string  `json:"root,omitempty"` // of a bind mount of a directory: that directory
	Stack  []Layer `json:"stack"`          // from the file system down to the disks
}

// Layer is one element of a stack. Kind is fs, crypt, lvm, pv, or what else the kernel calls it.
type Layer struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// inspection is one call of Look, with the state of the server that was read for it.
type inspection struct {
	Query
	view   *View
	status map[string][]lvm.Target
	pvs    map[filesystem.Dev]bool // the devices that are physical volumes
	readAt time.Time
}

// Look returns the state of this server and what it can do. It changes nothing, takes no lock, and runs at most three
// commands. If there is no LVM or this is a container, Info.Host says so and the rest of the answer is empty.
func Look(ctx context.Context, r command.Runner, q Query) (*Info, error) {
	release, err := kernelRelease()
	if err != nil {
		return nil, err
	}
	l := lvm.New(r)
	version, noLVM := l.Version(ctx)
	container, _ := filesystem.InContainer()
	info := &Info{
		Host:   inspectHost("/", release, container, version, noLVM),
		Groups: []GroupInfo{}, Sets: []SetInfo{}, Unmanaged: []SnapshotInfo{}, Mounts: []MountInfo{},
	}
	if noLVM != nil || container != "" {
		return info, nil
	}
	report, err := l.Report(ctx)
	if err != nil {
		return nil, err
	}
	status, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	insp := &inspection{
		Query: q, status: status, readAt: time.Now(), pvs: map[filesystem.Dev]bool{},
		view: NewView(report, mounts),
	}
	return info, insp.collect(info)
}

// collect fills info with what the query selects.
func (insp *inspection) collect(info *Info) error {
	info.Warnings = insp.view.Report.Warnings
	for i := range insp.view.Report.Groups {
		g := &insp.view.Report.Groups[i]
		if insp.VG != "" && g.Name != insp.VG {
			continue
		}
		info.Groups = append(info.Groups, insp.groupInfo(g))
	}
	if err := insp.addMounts(info); err != nil {
		return err
	}
	for _, s := range All(insp.view.Report) {
		if insp.Set != "" && s.Set != insp.Set || insp.VG != "" && !slices.Contains(s.Groups(), insp.VG) {
			continue
		}
		info.Sets = append(info.Sets, insp.setInfo(s, info.Mounts))
	}
	if insp.Set != "" && insp.VG == "" && len(info.Sets) == 0 {
		info.None = None(insp.view.Report, insp.Set)
	}
	if insp.Set == "" {
		info.Unmanaged = append(info.Unmanaged, insp.unmanagedSnapshots(info.Mounts)...)
		return nil
	}
	info.Mounts = slices.DeleteFunc(info.Mounts, func(m MountInfo) bool { return !info.coversVolume(m.Volume) })
	return nil
}

// coversVolume says whether a volume, vg/lv, is a snapshot of one of the listed sets or the origin of one.
func (i *Info) coversVolume(volume string) bool {
	return slices.ContainsFunc(i.Sets, func(s SetInfo) bool {
		return slices.ContainsFunc(s.Snapshots, func(snapshot SnapshotInfo) bool {
			return volume == snapshot.Snapshot || volume == snapshot.Volume
		})
	})
}

// groupInfo describes a volume group and its thin pools. It also notes the group's physical volumes, for addMounts.
func (insp *inspection) groupInfo(g *lvm.Group) GroupInfo {
	out := GroupInfo{Name: g.Name, Size: g.Size, Free: g.Free, Extent: g.ExtentSize, Partial: g.Partial}
	for _, pv := range g.PVs {
		if dev, err := insp.view.Device(pv.Device); err == nil {
			insp.pvs[dev] = true
		}
	}
	for i := range g.Volumes {
		v := &g.Volumes[i]
		if v.Kind != lvm.ThinPool {
			continue
		}
		pool := PoolInfo{Pool: v.FullName(), Size: v.Size, Data: v.DataPercent, Metadata: v.MetadataPercent}
		_, pool.Problem = v.Bad()
		if pool.Problem == "" && lvm.PoolDamaged(v, insp.status) {
			pool.Problem = "its transaction id in the kernel is not the one LVM expects"
		}
		out.Pools = append(out.Pools, pool)
	}
	return out
}

// addMounts adds to info every file system that lies on a logical volume, directly or on a crypt device.
func (insp *inspection) addMounts(info *Info) error {
	for _, m := range insp.view.Mounts {
		below, ok, err := filesystem.VolumeBelow(insp.view.Sysfs, m.Dev)
		if err != nil || !ok {
			continue // not on a block device, or not on a logical volume
		}
		v, ok := insp.view.Report.ByDevice(int(below.Dev.Major), int(below.Dev.Minor))
		if !ok || insp.VG != "" && v.VG != insp.VG {
			continue
		}
		layers, err := filesystem.Stack(insp.view.Sysfs, m.Dev)
		if err != nil {
			return err
		}
		out := MountInfo{Point: m.Point, Volume: v.FullName(), Type: m.Type, Stack: []Layer{{"fs", m.Type}}}
		if m.Root != "/" {
			out.Root = m.Root
		}
		for _, l := range layers {
			kind := l.Kind
			if insp.pvs[l.Dev] {
				kind = "pv"
			}
			out.Stack = append(out.Stack, Layer{kind, l.Name})
		}
		info.Mounts = append(info.Mounts, out)
	}
	return nil
}

func (insp *inspection) setInfo(s *Set, mounts []MountInfo) SetInfo {
	out := SetInfo{
		Name: s.Set, ID: s.ID, Time: s.Time.UTC().Format(time.RFC3339), Age: insp.age(s.Time), Count: s.Count, State: SetOK,
		Consistency: s.Consistency(), Restored: s.Restored,
	}
	if !s.Complete() {
		out.State, out.Missing = SetIncomplete, s.Missing()
	}
	broken := false
	for _, v := range s.Snapshots {
		snapshot := insp.snapshotInfo(v, mounts)
		bad, _ := v.Bad()
		broken = broken || bad || snapshot.mergeFailed()
		switch {
		case broken: // also while other members merge: the rollback cannot reach its end
			out.State = SetBad
		case snapshot.Merge != nil:
			out.State = SetMerging
		case snapshot.Problem != "" && out.State != SetMerging: // a thin member that merged before the others is no fault
			out.State = SetBad
		}
		out.Snapshots = append(out.Snapshots, snapshot)
	}
	return out
}

// unmanagedSnapshots returns the snapshots that belong to no set.
func (insp *inspection) unmanagedSnapshots(mounts []MountInfo) []SnapshotInfo {
	var out []SnapshotInfo
	for gi := range insp.view.Report.Groups {
		g := &insp.view.Report.Groups[gi]
		for vi := range g.Volumes {
			v := &g.Volumes[vi]
			if _, inSet := LabelOf(v); inSet || !v.IsSnapshot() || insp.VG != "" && v.VG != insp.VG {
				continue
			}
			out = append(out, insp.snapshotInfo(v, mounts))
		}
	}
	return out
}

// age returns how long ago t was, in seconds.
func (insp *inspection) age(t time.Time) int64 { return max(0, int64(insp.readAt.Sub(t).Seconds())) }
