package lvm

import (
	"context"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// Report is all of LVM at one moment.
type Report struct {
	Groups []Group
	// Warnings are LVM's own lines about what it could not read: a missing PV,
	// another host's group. It often exits with 0 all the same. Where there are
	// some, a volume that is not in the report may exist.
	Warnings []string
}

// Group is a volume group. Sizes are bytes.
type Group struct {
	Name, UUID             string
	ExtentSize, Size, Free int64
	Partial                bool   // a PV is missing
	Shared                 bool   // other hosts may use it at the same time
	Clustered              bool   // the same, in LVM's older way
	Exported               bool   // made inaccessible by vgexport(8)
	ReadOnly               bool   // its metadata may not be changed
	LockType               string // "" or none; sanlock, dlm: lvmlockd(8)
	PVs                    []PV
	Volumes                []Volume
}

// PV is a physical volume. Sizes are bytes.
type PV struct {
	Device     string // as LVM opened it, such as /dev/sda2; "[unknown]" for a missing one
	UUID       string
	Size, Free int64
	Missing    bool
}

// Volume is a logical volume. Sizes are bytes; percentages are 0 to 100, nil
// where LVM has none, and rounded by LVM to two places: SnapshotStatus is exact.
type Volume struct {
	VG, Name, UUID     string
	Path               string // /dev/vg/lv; "" for a hidden volume
	DMName             string // below /dev/mapper and in dmsetup(8)
	Origin, OriginUUID string // what a snapshot was taken of; a thin one may have lost it
	Pool               string // of a thin volume
	Kind               Kind
	State              State
	Health             Health
	Size               int64 // for a thick snapshot the COW space, as LVM shows it
	OriginSize         int64 // of a thick snapshot: what its device holds
	COWSize, COWUsed   int64 // of a thick snapshot; used is SnapPercent of size
	ChunkSize          int64 // of a thick snapshot or a pool
	TransactionID      int64 // of a thin pool, as LVM's metadata has it: see PoolDamaged
	Active             bool
	Open               bool
	Suspended          bool
	ReadOnly           bool
	Hidden             bool // shown in brackets: LVM's own; a merging snapshot is hidden too
	Private            bool // a pool, or a part of another volume: no file system lies on it
	Historical         bool
	IsOrigin           bool // it has thick snapshots, or thin ones
	IsExternalOrigin   bool // what thin volumes were made of, and is read by them
	Merging            bool // a snapshot on its way into its origin, or the origin of one
	MergeFailed        bool
	SnapshotInvalid    bool
	SkipActivation     bool
	Major, Minor       int // of its device; -1 without one; a merging snapshot shows its origin's
	DataPercent        *float64
	MetadataPercent    *float64
	SnapPercent        *float64 // of a thick snapshot: how full the COW is
	Created            time.Time
	Tags               []string
	Devices            []string // what holds its data, without extent numbers
}

// FullName returns vg/lv.
func (v *Volume) FullName() string { return v.VG + "/" + v.Name }

// IsThinSnapshot reports whether it is a snapshot in a thin pool.
func (v *Volume) IsThinSnapshot() bool { return v.Kind == Thin && v.Origin != "" }

// IsSnapshot reports whether it is a snapshot of either sort.
func (v *Volume) IsSnapshot() bool { return v.Kind == Snapshot || v.IsThinSnapshot() }

// fields are the columns of each of fullreport's parts. pvseg cannot be left
// out, only kept short. The segments' own columns are joined by lv_uuid.
var fields = []struct{ part, columns string }{
	{"vg", "vg_name,vg_uuid,vg_extent_size,vg_size,vg_free,vg_permissions,vg_partial,vg_shared,vg_clustered,vg_exported,vg_lock_type"},
	{"pv", "pv_name,pv_uuid,pv_size,pv_free,pv_missing"},
	{"lv", "lv_name,lv_uuid,lv_path,lv_dm_path,lv_layout,lv_role,lv_attr,lv_size,lv_tags,lv_time," +
		"origin,origin_uuid,origin_size,pool_lv,lv_kernel_major,lv_kernel_minor,lv_device_open,lv_suspended," +
		"lv_merging,lv_merge_failed,lv_snapshot_invalid,lv_skip_activation,lv_historical,lv_permissions," +
		"data_percent,metadata_percent,snap_percent"},
	{"pvseg", "pvseg_start"},
	{"seg", "lv_uuid,chunk_size,transaction_id,devices"},
}

func reportArgv() []string {
	argv := []string{"lvm", "fullreport", "--all", "--binary", "--reportformat", "json", "--units", "b", "--nosuffix",
		"--config", reportConfig + config}
	for _, f := range fields {
		argv = append(argv, "--configreport", f.part, "--options", f.columns)
	}
	return argv
}

// Report returns every volume group with its volumes, hidden ones included, by
// one command that changes nothing. It waits for LVM's locks, so it sees no
// half-done change.
//
// LVM exits with an error when any group has trouble, yet reports the others:
// what it printed is then returned with its complaints as Warnings.
func (l *LVM) Report(ctx context.Context) (*Report, error) {
	out, err := l.look(ctx, reportArgv()...)
	if err != nil && !isExit(err) {
		return nil, err
	}
	report, unreadable := decode(out.Stdout)
	switch {
	case unreadable == nil:
		report.Warnings = lines(out.Stderr)
		return report, nil
	case err != nil:
		return nil, explain(err)
	}
	return nil, unreadable
}

// Volume finds a volume by group and name.
func (r *Report) Volume(vg, lv string) (*Volume, bool) {
	return r.find(func(v *Volume) bool { return v.VG == vg && v.Name == lv })
}

// ByPath finds a volume by one of the names ParseName takes.
func (r *Report) ByPath(path string) (*Volume, bool) {
	vg, lv, err := ParseName(path)
	if err != nil {
		return nil, false
	}
	return r.Volume(vg, lv)
}

// ByDevice finds the volume whose device has these numbers, as in st_rdev of
// the device or st_dev of what is mounted from it. While a merge runs LVM gives
// the snapshot its origin's numbers: then it is the origin.
func (r *Report) ByDevice(major, minor int) (*Volume, bool) {
	found := r.all(func(v *Volume) bool { return v.Active && v.Major == major && v.Minor == minor })
	for _, v := range found {
		if !v.Hidden {
			return v, true
		}
	}
	if len(found) == 0 {
		return nil, false
	}
	return found[0], true
}

// ByUUID finds a volume by LVM's UUID, which renaming does not change.
func (r *Report) ByUUID(uuid string) (*Volume, bool) {
	return r.find(func(v *Volume) bool { return v.UUID == uuid && !v.Historical })
}

// Snapshots returns the snapshots of a volume, thick and thin, in LVM's order.
func (r *Report) Snapshots(of *Volume) []*Volume {
	return r.all(func(v *Volume) bool {
		return v.VG == of.VG && v.IsSnapshot() && v.OriginUUID == of.UUID && v.UUID != of.UUID
	})
}

// ByTag returns the volumes that have the tag.
func (r *Report) ByTag(tag string) []*Volume {
	return r.all(func(v *Volume) bool { return has(v.Tags, tag) })
}

// Tag returns what follows the prefix in the volume's first tag that begins so.
func (v *Volume) Tag(prefix string) (string, bool) {
	for _, tag := range v.Tags {
		if rest, ok := strings.CutPrefix(tag, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

// Group finds a volume group by name.
func (r *Report) Group(name string) (*Group, bool) {
	for i := range r.Groups {
		if r.Groups[i].Name == name {
			return &r.Groups[i], true
		}
	}
	return nil, false
}

// Need is Volume with a not_found fault that names what is there instead.
func (r *Report) Need(vg, lv string) (*Volume, error) {
	if v, ok := r.Volume(vg, lv); ok {
		return v, nil
	}
	missing := fault.New(fault.NotFound, "%s/%s: no such logical volume", vg, lv)
	if len(r.Warnings) > 0 {
		return nil, missing.With("warnings", r.Warnings).WithHint("LVM could not read everything: see warnings")
	}
	g, ok := r.Group(vg)
	if !ok {
		return nil, missing.WithHint("%s", r.otherGroups(vg))
	}
	return nil, missing.WithHint("volume group %s has: %s", vg, strings.Join(g.names(), ", "))
}

// otherGroups says what there is in place of a volume group that LVM does not see.
func (r *Report) otherGroups(vg string) string {
	if len(r.Groups) == 0 {
		return "LVM sees no volume group at all. " + Unseen
	}
	var names []string
	for i := range r.Groups {
		names = append(names, r.Groups[i].Name)
	}
	return "LVM sees no volume group " + vg + ", but " + strings.Join(names, ", ") + ". " + Unseen
}

func (g *Group) names() []string {
	var names []string
	for i := range g.Volumes {
		if !g.Volumes[i].Hidden {
			names = append(names, g.Volumes[i].Name)
		}
	}
	return names
}

func (r *Report) find(match func(*Volume) bool) (*Volume, bool) {
	for _, v := range r.all(match) {
		return v, true
	}
	return nil, false
}

func (r *Report) all(match func(*Volume) bool) []*Volume {
	var found []*Volume
	for i := range r.Groups {
		for j := range r.Groups[i].Volumes {
			if v := &r.Groups[i].Volumes[j]; match(v) {
				found = append(found, v)
			}
		}
	}
	return found
}
