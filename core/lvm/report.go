package lvm

import (
	"context"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
)

// Report is all that LVM knows of its volume groups at one moment.
type Report struct {
	Groups []Group // in the order of their names

	// Warnings are LVM's own lines about what it could not read, such as a missing PV or another host's group. LVM often
	// exits with 0 nevertheless. If there are warnings, a volume that is not in the report may exist.
	Warnings []string
}

// Group is a volume group. Sizes are bytes.
type Group struct {
	Name, UUID       string
	ExtentSize, Size int64
	Free             int64  // where LVM may make volumes: not on a PV that is missing or not allocatable
	Partial          bool   // a PV is missing
	Shared           bool   // other hosts may use it at the same time
	Clustered        bool   // shared in LVM's older way, by clvmd
	Exported         bool   // made inaccessible by vgexport(8)
	ReadOnly         bool   // its metadata may not be changed
	LockType         string // "" or "none", or the lock manager of a shared group, sanlock or dlm (lvmlockd(8))
	PVs              []PV
	Volumes          []Volume
}

// PV is a physical volume. Sizes are bytes.
type PV struct {
	Device     string // as LVM opened it, such as /dev/sda2; "[unknown]" for a missing one
	UUID       string
	Size, Free int64
	Missing    bool
	NoAlloc    bool // LVM makes no volumes on it, as while a disk is emptied (pvchange -xn)
}

// Volume is a logical volume. Sizes are bytes. Percentages are 0 to 100, and nil where LVM has none. LVM rounds them to
// two decimal places; SnapshotStatus is exact.
type Volume struct {
	VG, Name, UUID     string
	Path               string // /dev/vg/lv; "" for a hidden volume
	DMName             string // below /dev/mapper and in dmsetup(8)
	Origin, OriginUUID string // of a snapshot; "" for a thin snapshot whose origin was removed or replaced
	Pool               string // of a thin volume
	ThinID             int64  // by which its pool knows a thin volume; an origin gets that of a merged snapshot
	Kind               Kind
	State              State
	Health             Health
	Size               int64 // of a thick snapshot: its COW space, as LVM shows it
	OriginSize         int64 // of a thick snapshot: the size of its device
	COWSize, COWUsed   int64 // of a thick snapshot; COWUsed is SnapPercent of COWSize
	ChunkSize          int64 // of a thick snapshot or a pool
	TransactionID      int64 // of a thin pool, as LVM's metadata has it: see PoolDamaged
	Active             bool
	Open               bool
	Suspended          bool
	ReadOnly           bool // in LVM's metadata; for a volume in lvm.conf's read_only_volume_list that does not say it
	Hidden             bool // LVM's own, which lvs shows in brackets; a merging snapshot is hidden too
	Private            bool // a pool, or a part of another volume: no file system lies on it
	Historical         bool // removed; LVM remembers it for its descendants
	IsOrigin           bool // it has thick or thin snapshots
	IsExternalOrigin   bool // thin volumes were made of it, and still read it
	Merging            bool // a snapshot that is recorded as merging into its origin, or that origin
	MergeFailed        bool
	Locked             bool // against changes of where its data are, as while pvmove moves them
	SnapshotInvalid    bool
	SkipActivation     bool
	Major, Minor       int // of its device; -1 without one; LVM reports its origin's for a merging snapshot
	DataPercent        *float64
	MetadataPercent    *float64
	SnapPercent        *float64 // of a thick snapshot: how full the COW space is
	Created            time.Time
	Tags               []string
	Devices            []string // the PVs or volumes that hold its data
}

// FullName returns vg/lv.
func (v *Volume) FullName() string { return v.VG + "/" + v.Name }

// IsThinSnapshot reports whether v is a thin snapshot that still has its origin.
func (v *Volume) IsThinSnapshot() bool { return v.Kind == Thin && v.Origin != "" }

// IsSnapshot reports whether v is a thick or a thin snapshot.
func (v *Volume) IsSnapshot() bool { return v.Kind == Snapshot || v.IsThinSnapshot() }

// reportColumns are the columns of each of fullreport's subreports. The subreport pvseg cannot be left out, only kept
// short. addSegments joins the rows of seg with those of lv by lv_uuid.
var reportColumns = []struct{ subreport, columns string }{
	{"vg", "vg_name,vg_uuid,vg_extent_size,vg_size,vg_permissions,vg_partial,vg_shared,vg_clustered,vg_exported," +
		"vg_lock_type"},
	{"pv", "pv_name,pv_uuid,pv_size,pv_free,pv_missing,pv_allocatable"},
	{"lv", "lv_name,lv_uuid,lv_path,lv_dm_path,lv_layout,lv_role,lv_attr,lv_size,lv_tags,lv_time," +
		"origin,origin_uuid,origin_size,pool_lv,lv_kernel_major,lv_kernel_minor,lv_device_open,lv_suspended," +
		"lv_merging,lv_merge_failed,lv_snapshot_invalid,lv_skip_activation,lv_historical,lv_permissions," +
		"data_percent,metadata_percent,snap_percent"},
	{"pvseg", "pvseg_start"},
	{"seg", "lv_uuid,chunk_size,transaction_id,thin_id,devices"},
}

func reportArgv() []string {
	argv := []string{"lvm", "fullreport", "--all", "--binary", "--reportformat", "json", "--units", "b", "--nosuffix",
		"--config", reportConfig + config}
	for _, report := range reportColumns {
		argv = append(argv, "--configreport", report.subreport, "--options", report.columns)
	}
	return argv
}

// Report returns every volume group with its volumes, hidden ones included. It runs one command, which changes nothing.
// The command waits for LVM's locks, so the report shows no change half done. Faults: command_failed; locked if another
// program holds such a lock when the command reaches its limit.
//
// LVM exits with an error if it could not read one of the groups, but reports the others. What it printed is then
// returned, with its messages as Warnings.
func (l *LVM) Report(ctx context.Context) (*Report, error) {
	out, err := l.query(ctx, reportArgv()...)
	if err != nil && !exitedWithError(err) {
		return nil, l.lockFiles.explainTimeout(err)
	}
	report, decodeErr := decode(out.Stdout)
	switch {
	case decodeErr == nil:
		report.Warnings = lines(out.Stderr)
		return report, nil
	case err != nil:
		return nil, explain(err)
	}
	return nil, decodeErr
}

// Volume returns the volume with the given names of group and volume, if there is one.
func (r *Report) Volume(vg, lv string) (*Volume, bool) {
	return r.firstVolume(func(v *Volume) bool { return v.VG == vg && v.Name == lv })
}

// ByPath returns the volume with the given name, in one of the forms that ParseName accepts, if there is one.
func (r *Report) ByPath(path string) (*Volume, bool) {
	vg, lv, err := ParseName(path)
	if err != nil {
		return nil, false
	}
	return r.Volume(vg, lv)
}

// ByDevice returns the volume whose device has these numbers, if there is one. They are those in st_rdev of the device,
// or in st_dev of a file on it. While a merge runs LVM reports the origin's numbers for the snapshot too: ByDevice then
// returns the origin.
func (r *Report) ByDevice(major, minor int) (*Volume, bool) {
	found := r.volumesWhere(func(v *Volume) bool { return v.Active && v.Major == major && v.Minor == minor })
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

// Snapshots returns the thick and thin snapshots of an origin, in LVM's order.
func (r *Report) Snapshots(origin *Volume) []*Volume {
	return r.volumesWhere(func(v *Volume) bool {
		return v.VG == origin.VG && v.IsSnapshot() && v.OriginUUID == origin.UUID && v.UUID != origin.UUID
	})
}

// ByTag returns the volumes that have the tag.
func (r *Report) ByTag(tag string) []*Volume {
	return r.volumesWhere(func(v *Volume) bool { return has(v.Tags, tag) })
}

// Tag returns the rest of the volume's first tag that begins with the prefix, if there is one.
func (v *Volume) Tag(prefix string) (string, bool) {
	for _, tag := range v.Tags {
		if value, ok := strings.CutPrefix(tag, prefix); ok {
			return value, true
		}
	}
	return "", false
}

// Group returns the volume group with the given name, if there is one.
func (r *Report) Group(name string) (*Group, bool) {
	return r.GroupWith(name, "")
}

// GroupWith returns the volume group with the given name, if there is one and it has the given UUID. An empty UUID is
// one that is not known: then the name decides.
func (r *Report) GroupWith(name, uuid string) (*Group, bool) {
	for i := range r.Groups {
		if g := &r.Groups[i]; g.Name == name && (uuid == "" || g.UUID == uuid) {
			return g, true
		}
	}
	return nil, false
}

// Volume returns the group's volume with the given name, if there is one.
func (g *Group) Volume(name string) (*Volume, bool) {
	return g.firstVolume(func(v *Volume) bool { return v.Name == name })
}

// ByUUID returns the group's volume with the given UUID, if there is one. Renaming a volume does not change its UUID.
// Another group may have a volume of the same UUID: a copy of this group (vgimportclone(8)) has new UUIDs only for
// itself and its physical volumes.
func (g *Group) ByUUID(uuid string) (*Volume, bool) {
	return g.firstVolume(func(v *Volume) bool { return v.UUID == uuid && !v.Historical })
}

func (g *Group) firstVolume(match func(*Volume) bool) (*Volume, bool) {
	for i := range g.Volumes {
		if v := &g.Volumes[i]; match(v) {
			return v, true
		}
	}
	return nil, false
}

// Need returns the volume with the given names of group and volume. Fault: not_found, with a hint that names what
// exists instead.
func (r *Report) Need(vg, lv string) (*Volume, error) {
	if v, ok := r.Volume(vg, lv); ok {
		return v, nil
	}
	missing := fault.New(fault.NotFound, "%s/%s: no such logical volume", vg, lv)
	if len(r.Warnings) > 0 {
		return nil, missing.With("warnings", r.Warnings).WithHint("LVM could not read everything: see warnings")
	}
	group, ok := r.Group(vg)
	if !ok {
		return nil, missing.WithHint("%s", r.otherGroupsHint(vg))
	}
	return nil, missing.WithHint("volume group %s has: %s", vg, strings.Join(group.visibleNames(), ", "))
}

// otherGroupsHint is the hint for a volume group that LVM does not see. It names those that LVM sees.
func (r *Report) otherGroupsHint(vg string) string {
	if len(r.Groups) == 0 {
		return "LVM sees no volume group at all. " + Unseen
	}
	var names []string
	for i := range r.Groups {
		names = append(names, r.Groups[i].Name)
	}
	return "LVM sees no volume group " + vg + ", but " + strings.Join(names, ", ") + ". " + Unseen
}

// visibleNames returns the names of the group's volumes that are not hidden.
func (g *Group) visibleNames() []string {
	var names []string
	for i := range g.Volumes {
		if !g.Volumes[i].Hidden {
			names = append(names, g.Volumes[i].Name)
		}
	}
	return names
}

func (r *Report) firstVolume(match func(*Volume) bool) (*Volume, bool) {
	for _, v := range r.volumesWhere(match) {
		return v, true
	}
	return nil, false
}

func (r *Report) volumesWhere(match func(*Volume) bool) []*Volume {
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
