package rollback

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// Member is one volume of a rollback. The journal keeps it, with everything that is needed to continue the rollback
// without the LVM report that it was made from.
type Member struct {
	VG         string `json:"vg"`
	VGID       string `json:"vg_uuid,omitempty"` // the UUID of the volume group; empty if an earlier version planned this
	LV         string `json:"lv"`                // the origin
	Snapshot   string `json:"snapshot"`          // the snapshot, without its volume group
	DMName     string `json:"dm_name"`           // the device-mapper name of the origin
	SnapshotDM string `json:"snapshot_dm"`
	SnapshotID string `json:"snapshot_uuid"`
	Thin       bool   `json:"thin"`
	ThinID     int64  `json:"thin_id,omitempty"` // of a thin snapshot; after the merge, of the origin
	Pool       string `json:"pool,omitempty"`
	COWSize    int64  `json:"cow_bytes"`
	Used       int64  `json:"used_bytes"`      // how much the merge writes to the origin at most
	Crypt      string `json:"crypt,omitempty"` // the name of the LUKS mapping on the origin

	// CryptOptions are the optional parameters of the LUKS mapping's table, with which it is opened again.
	CryptOptions []string `json:"crypt_options,omitempty"`

	// Lost is true if the snapshot overflowed, or was removed, past the point of no return and before its merge began.
	Lost bool `json:"lost,omitempty"`

	// Siblings are the other thick snapshots of the origin.
	Siblings []sibling `json:"siblings,omitempty"`

	// Protect is true if the volume is made read-only until it merges. It is false for a volume that was read-only
	// already, which stays so.
	Protect bool `json:"protect,omitempty"`

	// LogOf is the device of the file system whose log this member holds, if that file system is on another member;
	// otherwise nil.
	LogOf *filesystem.Dev `json:"log_of,omitempty"`
}

func (m *Member) origin() string { return m.VG + "/" + m.LV }

func (m *Member) snapshot() string { return m.VG + "/" + m.Snapshot }

// find returns the member's snapshot, under whatever name, if it is in the report.
func (m *Member) find(r *lvm.Report) (*lvm.Volume, bool) {
	group, ok := r.GroupWith(m.VG, m.VGID)
	if !ok {
		return nil, false
	}
	return group.ByUUID(m.SnapshotID)
}

// findOrigin returns the member's origin, if it is in the report.
func (m *Member) findOrigin(r *lvm.Report) (*lvm.Volume, bool) {
	group, ok := r.GroupWith(m.VG, m.VGID)
	if !ok {
		return nil, false
	}
	return group.Volume(m.LV)
}

// State is what the journal entry of a rollback keeps.
type State struct {
	Set      string            `json:"set"`
	ID       string            `json:"id"`                 // of the set; empty for snapshots that were made by hand
	Taken    time.Time         `json:"taken"`              // the instant of the set
	Restored *snapset.Restored `json:"restored,omitempty"` // the backup that the set was filled with
	Members  []*Member         `json:"members"`
	Services service.Plan      `json:"services"`

	// Automounts are the automount units of the mounts in Held.
	Automounts service.Plan `json:"automounts"`

	// Mounts are the members' mounts, in the order in which they are made again.
	Mounts []filesystem.MountSpec `json:"mounts"`

	// Quotas are the types of quotas that the kernel enforced, by mount point.
	Quotas map[string][]filesystem.QuotaType `json:"quotas,omitempty"`

	// Listed are the mount points that fstab has for the members.
	Listed []string `json:"listed"`

	// Held are the units that could open a member. systemd starts none of them while the members are unmounted.
	Held []string `json:"held"`

	// Late are the units of mounts that were made after the check. There is one list for each unit that holds them.
	Late [][]string `json:"late"`

	// SetMounts are the snapshots' mounts. They are made again only if the rollback is undone.
	SetMounts []filesystem.MountSpec `json:"set_mounts"`

	// Home is the member (vg/lv) that holds the journal. It is set only for a deferred rollback.
	Home string `json:"home,omitempty"`

	// Guarded are the units other than mounts that wait for the boot guard.
	Guarded []string `json:"guarded,omitempty"`

	Start      bool              `json:"start"`      // start the services after the rollback
	Resnapshot bool              `json:"resnapshot"` // take the same set again
	Stopped    time.Time         `json:"stopped"`    // when the first service was told to stop
	Downtime   time.Duration     `json:"downtime"`
	Failures   []service.Failure `json:"failures,omitempty"` // the services that did not start
	Trouble    []*fault.Error    `json:"trouble,omitempty"`  // other failures past the point of no return
}

// groups returns the names of the volume groups of the members, each once.
func (s *State) groups() []string {
	var groups []string
	seen := map[string]bool{}
	for _, m := range s.Members {
		if !seen[m.VG] {
			seen[m.VG] = true
			groups = append(groups, m.VG)
		}
	}
	return groups
}

// membersExcept returns all members but one.
func (st *State) membersExcept(excluded *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(st.Members), func(m *Member) bool { return m == excluded })
}

// hasSnapshot is true if v is the snapshot of a member.
func (st *State) hasSnapshot(v *lvm.Volume) bool {
	for _, m := range st.Members {
		if m.VG == v.VG && m.SnapshotID == v.UUID {
			return true
		}
	}
	return false
}

// guardedUnits returns the units that must not start before the guard: the mounts of the members, also those that fstab
// has and that are not made now; the units that open encrypted members; and the units that findGuardedUnits found.
func (st *State) guardedUnits() []string {
	units := st.mountUnits()
	for _, m := range st.Members {
		if m.Crypt != "" {
			units = append(units, "systemd-cryptsetup@"+strings.TrimPrefix(service.EscapePath("/"+m.Crypt), "-")+".service")
		}
	}
	return append(units, except(st.Guarded, units)...)
}

// mountUnits returns the units of the members' mounts, and of the mounts that fstab has for the members.
func (st *State) mountUnits() []string {
	var units []string
	for _, point := range append(mountPoints(st.Mounts), st.Listed...) {
		if unit := service.MountUnit(point); !slices.Contains(units, unit) {
			units = append(units, unit)
		}
	}
	return units
}

// heldUnits returns the units that are held, in two lists. At an automount point only systemd can mount; such mounts,
// and the checks of file systems that they wait for, must be released before the rollback mounts anything. The others
// are released when everything is mounted and they have nothing left to do. Among them are the stopped services: if a
// monitoring program or a person started them earlier, they would write into the directories below the mount points.
func (st *State) heldUnits() (belowAutomounts, others []string) {
	anyAutomounted := slices.ContainsFunc(st.Held, st.isAutomounted)
	for _, unit := range st.Held {
		if st.isAutomounted(unit) || anyAutomounted && !strings.HasSuffix(unit, ".mount") {
			belowAutomounts = append(belowAutomounts, unit)
		} else {
			others = append(others, unit)
		}
	}
	return belowAutomounts, append(others, except(st.Services.Stop, others)...)
}

// isAutomounted is true if a mount unit lies below an automount.
func (st *State) isAutomounted(unit string) bool {
	return slices.Contains(st.Automounts.Active, service.AutomountOf(unit))
}

// describe names the volumes and what they are rolled back to.
func (st *State) describe() string {
	return joinSorted(originNames(st.Members)) + " to " + st.target()
}

// target names what the volumes are rolled back to. A set that was filled with a backup is described by that backup,
// because the time of the set says nothing about its content.
func (st *State) target() string {
	taken := " of " + st.Taken.Local().Format(time.RFC3339)
	switch {
	case st.Restored != nil:
		return fmt.Sprintf("set %s, which holds %s", st.Set, st.Restored)
	case st.ID == "": // the request names single snapshots
		return st.Set + taken
	}
	return "set " + st.Set + taken
}

// failure returns what failed although the volumes are rolled back: services that did not start, or a set that was not
// taken again. It returns nil if nothing did.
func (st *State) failure() error {
	var errs []error
	for _, t := range st.Trouble {
		errs = append(errs, t)
	}
	for _, f := range st.Failures {
		errs = append(errs, f)
	}
	err := fault.All(errs...)
	if err == nil {
		return nil
	}
	return fault.New(fault.Of(err).Code, "the volumes are rolled back, but %w", err)
}

// failedUnits returns the units that did not start, in the order in which they are started.
func (st *State) failedUnits() []string {
	var units []string
	for _, unit := range st.Services.Active {
		if slices.ContainsFunc(st.Failures, func(f service.Failure) bool { return f.Unit == unit }) {
			units = append(units, unit)
		}
	}
	return units
}

// notRolledBack returns one fault that names all members that are lost, and keeps the services from being started: the
// volumes now hold data of different times, and only people can know whether that is usable. It returns nil if no
// member is lost.
func (st *State) notRolledBack() []*fault.Error {
	var lostOrigins []string
	for _, m := range st.Members {
		if m.Lost {
			lostOrigins = append(lostOrigins, m.origin())
		}
	}
	if len(lostOrigins) == 0 {
		return nil
	}
	st.Start = false
	hint := "what the volumes hold is of different times: restore " + strings.Join(lostOrigins, ", ") + " from a backup"
	if active := st.Services.Active; len(active) > 0 {
		hint += ", or start the services as it is: systemctl start " + strings.Join(active, " ")
	}
	return []*fault.Error{fault.New(fault.SnapshotInvalid,
		"%s is not rolled back: its snapshot was lost before its merge began; the services are left stopped",
		strings.Join(lostOrigins, ", ")).WithHint("%s", hint)}
}

// membersIn returns those of the members that are in a state.
func membersIn(states map[*Member]string, members []*Member, state string) []*Member {
	var list []*Member
	for _, m := range members {
		if states[m] == state {
			list = append(list, m)
		}
	}
	return list
}

func snapshotNames(members []*Member) []string {
	var names []string
	for _, m := range members {
		names = append(names, m.snapshot())
	}
	return names
}

func originNames(members []*Member) []string {
	var names []string
	for _, m := range members {
		names = append(names, m.origin())
	}
	return names
}

// mountPoints returns the mount points of specs.
func mountPoints(specs []filesystem.MountSpec) []string {
	var paths []string
	for _, s := range specs {
		paths = append(paths, s.Point)
	}
	return paths
}

// joinSorted returns the names in alphabetical order, separated by commas.
func joinSorted(names []string) string {
	sorted := append([]string(nil), names...)
	sort.Strings(sorted)
	return strings.Join(sorted, ",")
}
