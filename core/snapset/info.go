package snapset

import (
	"context"
	"math"
	"slices"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
)

// Query says what Look looks for. Empty fields leave nothing out.
type Query struct {
	Set string // only the set of that name
	VG  string // only in that volume group
	// Merging is how many bytes of COW space merges began with, by the snapshot's UUID, where that is known.
	Merging map[string]int64
}

// Info is what there is on this server. Sizes are bytes, percentages 0 to 100.
type Info struct {
	Host      Host        `json:"host"`
	Groups    []GroupInfo `json:"groups"`
	Sets      []SetInfo   `json:"sets"`
	Unmanaged []Shot      `json:"unmanaged"` // snapshots that belong to no set
	Mounts    []MountInfo `json:"mounts"`    // file systems on logical volumes
	None      string      `json:"-"`         // that there is no set of the name that was asked for, and which there are
	Warnings  []string    `json:"-"`         // LVM's own: where there are some, a volume that is not listed may exist
}

// GroupInfo is a volume group.
type GroupInfo struct {
	Name    string     `json:"vg"`
	Size    int64      `json:"size_bytes"`
	Free    int64      `json:"free_bytes"`
	Extent  int64      `json:"extent_bytes"`
	Partial bool       `json:"partial,omitempty"` // a physical volume is missing
	Pools   []PoolInfo `json:"pools,omitempty"`
}

// PoolInfo is a thin pool.
type PoolInfo struct {
	Pool     string   `json:"pool"` // vg/lv
	Size     int64    `json:"size_bytes"`
	Data     *float64 `json:"data_percent,omitempty"`
	Metadata *float64 `json:"metadata_percent,omitempty"`
	Problem  string   `json:"problem,omitempty"`
}

// The states of a set.
const (
	SetOK         = "ok"
	SetMerging    = "merging"    // it is being rolled back, or that was asked for and waits for the next activation
	SetIncomplete = "incomplete" // members were removed by somebody
	SetBad        = "bad"        // a member cannot be relied on: see its problem
)

// SetInfo is a set with its snapshots.
type SetInfo struct {
	Name  string `json:"name"`
	ID    string `json:"id"`
	Time  string `json:"time"` // when it was taken, RFC 3339
	Age   int64  `json:"age_seconds"`
	Count int    `json:"count"` // of members when it was taken
	State string `json:"state"`
	// Consistency is set, or volume where each of its volumes was taken at an instant of its own.
	Consistency string    `json:"consistency"`
	Restored    *Restored `json:"backup,omitempty"` // what it was filled with
	Snapshots   []Shot    `json:"snapshots"`
}

// Shot is one snapshot.
type Shot struct {
	Snapshot    string     `json:"snapshot"`         // vg/lv
	Volume      string     `json:"volume,omitempty"` // its origin, vg/lv; empty for a thin one that has lost it
	Thin        bool       `json:"thin,omitempty"`
	Pool        string     `json:"pool,omitempty"`
	State       string     `json:"state"`             // LVM's, by name
	Health      string     `json:"health,omitempty"`  // LVM's, unless ok
	Problem     string     `json:"problem,omitempty"` // why it cannot be relied on
	Time        string     `json:"time"`
	Age         int64      `json:"age_seconds"`
	Size        int64      `json:"size_bytes"` // of what it shows: its origin's then
	COW         int64      `json:"cow_bytes,omitempty"`
	Used        int64      `json:"cow_used_bytes,omitempty"`
	UsedPercent *float64   `json:"cow_used_percent,omitempty"`
	ToFull      *int64     `json:"seconds_to_full,omitempty"` // at the mean rate since it was taken; nil where that says nothing
	Merge       *MergeInfo `json:"merge,omitempty"`
	Mountpoints []string   `json:"mountpoints,omitempty"`        // of the snapshot
	OriginAt    []string   `json:"volume_mountpoints,omitempty"` // of its origin
	Tags        []string   `json:"tags,omitempty"`
}

// The states of a merge.
const (
	MergeRunning  = "running"  // the kernel copies
	MergeFinished = "finished" // the kernel has copied all; LVM is yet to be told
	MergeDeferred = "deferred" // recorded by LVM, to begin at the volume's next activation
	MergeFailed   = "failed"
)

// MergeInfo is how far a merge is, as the kernel says.
type MergeInfo struct {
	State   string   `json:"state"`
	Left    int64    `json:"left_bytes"`
	Percent *float64 `json:"percent,omitempty"` // nil where it is not known how much there was to merge
}

// MountInfo is a mounted file system and all that it lies on.
type MountInfo struct {
	Point  string  `json:"mountpoint"`
	Volume string  `json:"volume"` // vg/lv
	Type   string  `json:"fstype"`
	Root   string  `json:"root,omitempty"` // of a bind mount: the directory that is mounted
	Stack  []Layer `json:"stack"`          // from the file system down to the disks
}

// Layer is one part of a stack: fs, crypt, lvm, pv, or what else the kernel calls it.
type Layer struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// looker is one look with all that was seen.
type looker struct {
	Query
	view   *View
	status map[string][]lvm.Target
	pvs    map[filesystem.Dev]bool
	now    time.Time
}

// Look says what there is and what this server can do. It changes nothing, takes no lock, and runs at most three
// commands. Where LVM is missing or this is a container, the answer says so in Host and is otherwise empty.
func Look(ctx context.Context, r command.Runner, q Query) (*Info, error) {
	release, err := kernelRelease()
	if err != nil {
		return nil, err
	}
	l := lvm.New(r)
	version, noLVM := l.Version(ctx)
	container, _ := filesystem.InContainer()
	info := &Info{
		Host:   host("/", release, container, version, noLVM),
		Groups: []GroupInfo{}, Sets: []SetInfo{}, Unmanaged: []Shot{}, Mounts: []MountInfo{},
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
	k := &looker{
		Query: q, status: status, now: time.Now(), pvs: map[filesystem.Dev]bool{},
		view: NewView(report, mounts),
	}
	return info, k.fill(info)
}

func (k *looker) fill(info *Info) error {
	info.Warnings = k.view.Report.Warnings
	for i := range k.view.Report.Groups {
		g := &k.view.Report.Groups[i]
		if k.VG != "" && g.Name != k.VG {
			continue
		}
		info.Groups = append(info.Groups, k.group(g))
	}
	if err := k.mounts(info); err != nil {
		return err
	}
	for _, s := range All(k.view.Report) {
		if k.Set != "" && s.Set != k.Set || k.VG != "" && !slices.Contains(s.Groups(), k.VG) {
			continue
		}
		info.Sets = append(info.Sets, k.set(s, info.Mounts))
	}
	if k.Set != "" && k.VG == "" && len(info.Sets) == 0 {
		info.None = None(k.view.Report, k.Set)
	}
	if k.Set == "" {
		info.Unmanaged = append(info.Unmanaged, k.unmanaged(info.Mounts)...)
		return nil
	}
	info.Mounts = slices.DeleteFunc(info.Mounts, func(m MountInfo) bool { return !info.concerns(m.Volume) })
	return nil
}

// concerns says whether a volume is a snapshot of one of the sets, or the origin of one.
func (i *Info) concerns(volume string) bool {
	return slices.ContainsFunc(i.Sets, func(s SetInfo) bool {
		return slices.ContainsFunc(s.Snapshots, func(shot Shot) bool { return volume == shot.Snapshot || volume == shot.Volume })
	})
}

func (k *looker) group(g *lvm.Group) GroupInfo {
	out := GroupInfo{Name: g.Name, Size: g.Size, Free: g.Free, Extent: g.ExtentSize, Partial: g.Partial}
	for _, pv := range g.PVs {
		if dev, err := k.view.Device(pv.Device); err == nil {
			k.pvs[dev] = true
		}
	}
	for i := range g.Volumes {
		v := &g.Volumes[i]
		if v.Kind != lvm.ThinPool {
			continue
		}
		pool := PoolInfo{Pool: v.FullName(), Size: v.Size, Data: v.DataPercent, Metadata: v.MetadataPercent}
		_, pool.Problem = v.Bad()
		if pool.Problem == "" && lvm.PoolDamaged(v, k.status) {
			pool.Problem = "its transaction id in the kernel is not the one LVM expects"
		}
		out.Pools = append(out.Pools, pool)
	}
	return out
}

// mounts lists every file system that lies on a logical volume, directly or through a crypt device.
func (k *looker) mounts(info *Info) error {
	for _, m := range k.view.Mounts {
		below, ok, err := filesystem.VolumeBelow(k.view.Sysfs, m.Dev)
		if err != nil || !ok {
			continue // no block device, or none of ours
		}
		v, ok := k.view.Report.ByDevice(int(below.Dev.Major), int(below.Dev.Minor))
		if !ok || k.VG != "" && v.VG != k.VG {
			continue
		}
		layers, err := filesystem.Stack(k.view.Sysfs, m.Dev)
		if err != nil {
			return err
		}
		out := MountInfo{Point: m.Point, Volume: v.FullName(), Type: m.Type, Stack: []Layer{{"fs", m.Type}}}
		if m.Root != "/" {
			out.Root = m.Root
		}
		for _, l := range layers {
			kind := l.Kind
			if k.pvs[l.Dev] {
				kind = "pv"
			}
			out.Stack = append(out.Stack, Layer{kind, l.Name})
		}
		info.Mounts = append(info.Mounts, out)
	}
	return nil
}

func (k *looker) set(s *Set, mounts []MountInfo) SetInfo {
	out := SetInfo{
		Name: s.Set, ID: s.ID, Time: s.Time.UTC().Format(time.RFC3339), Age: k.age(s.Time), Count: s.Count, State: SetOK,
		Consistency: s.Consistency(), Restored: s.Restored,
	}
	if !s.Complete() {
		out.State = SetIncomplete
	}
	for _, v := range s.Snapshots {
		shot := k.shot(v, mounts)
		switch {
		case shot.Merge != nil:
			out.State = SetMerging
		case shot.Problem != "" && out.State != SetMerging:
			out.State = SetBad
		}
		out.Snapshots = append(out.Snapshots, shot)
	}
	return out
}

func (k *looker) unmanaged(mounts []MountInfo) []Shot {
	var out []Shot
	for gi := range k.view.Report.Groups {
		g := &k.view.Report.Groups[gi]
		for vi := range g.Volumes {
			v := &g.Volumes[vi]
			if _, ours := LabelOf(v); ours || !v.IsSnapshot() || k.VG != "" && v.VG != k.VG {
				continue
			}
			out = append(out, k.shot(v, mounts))
		}
	}
	return out
}

func (k *looker) age(t time.Time) int64 { return max(0, int64(k.now.Sub(t).Seconds())) }

// shot describes one snapshot. Of how full it is the kernel's own figures count: LVM rounds them.
func (k *looker) shot(v *lvm.Volume, mounts []MountInfo) Shot {
	s := Shot{
		Snapshot: v.FullName(), Thin: v.Kind == lvm.Thin, State: string(v.State), Size: v.Size, Tags: v.Tags,
		Time: v.Created.UTC().Format(time.RFC3339), Age: k.age(v.Created), COW: v.COWSize, Used: v.COWUsed,
	}
	if v.Origin != "" {
		s.Volume = v.VG + "/" + v.Origin
	}
	if v.Pool != "" {
		s.Pool = v.VG + "/" + v.Pool
	}
	if v.OriginSize > 0 {
		s.Size = v.OriginSize
	}
	if v.Health != lvm.Healthy {
		s.Health = string(v.Health)
	}
	_, s.Problem = v.Bad()
	if s.Problem == "" && !v.IsSnapshot() {
		s.Problem = "it has no origin any more: it was merged, or a sibling was"
	}
	if v.Merging {
		s.Merge = k.merge(v)
		s.Used = s.Merge.Left
	} else if kernel, ok := snapshotStatus(k.status[v.DMName]); ok && kernel.Total > 0 {
		s.Used = kernel.UsedBytes()
	}
	if s.COW > 0 && (s.Merge == nil || s.Merge.State != MergeFailed) { // of a failed merge the kernel tells nothing
		s.UsedPercent = percent(float64(s.Used) / float64(s.COW))
	}
	s.ToFull = s.toFull()
	for _, m := range mounts {
		switch m.Volume {
		case s.Snapshot:
			s.Mountpoints = append(s.Mountpoints, m.Point)
		case s.Volume:
			s.OriginAt = append(s.OriginAt, m.Point)
		}
	}
	return s
}

// youngest is the age in seconds from which on the rate at which a snapshot has filled says something of the next hours.
const youngest = 60

// toFull is in how many seconds the COW space is used up, if as much goes on being written. Of what merges, thin or lost
// there is none.
func (s *Shot) toFull() *int64 {
	if s.Merge != nil || s.Problem != "" || s.Used == 0 || s.Age < youngest {
		return nil
	}
	seconds := int64(float64(s.COW-s.Used) / float64(s.Used) * float64(s.Age))
	return &seconds
}

// merge asks the table of the snapshot's origin: LVM records a merge before the kernel begins it.
func (k *looker) merge(v *lvm.Volume) *MergeInfo {
	m := &MergeInfo{State: MergeDeferred, Left: v.COWUsed}
	origin, ok := k.view.Report.Volume(v.VG, v.Origin)
	if !ok {
		return m
	}
	s, ok := snapshotStatus(k.status[origin.DMName])
	switch {
	case !ok || !s.Merging:
		return m
	case s.MergeFailed || s.Lost():
		m.State = MergeFailed
		return m
	}
	m.State, m.Left = MergeRunning, (s.Used-s.Metadata)*512
	if s.Merged() {
		m.State = MergeFinished
	}
	if begun := k.Merging[v.UUID]; begun > 0 {
		m.Percent = percent(1 - float64(m.Left)/float64(begun))
	}
	return m
}

// percent makes a percentage with two places, as LVM's, of a part of one.
func percent(part float64) *float64 {
	p := math.Round(10000*min(1, max(0, part))) / 100
	return &p
}

func snapshotStatus(targets []lvm.Target) (lvm.SnapshotStatus, bool) {
	if len(targets) != 1 {
		return lvm.SnapshotStatus{}, false
	}
	return targets[0].Snapshot()
}
