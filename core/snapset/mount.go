package snapset

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// MountDir is the directory below which a set is mounted if the user names no mount point: each snapshot on
// set/group/volume.
const MountDir = journey.RuntimeDir + "/mounts"

// MountOptions say where and how a set is mounted.
type MountOptions struct {
	Point   string `json:"point"`   // of a single snapshot; for several, the directory that their mount points lie in
	Create  bool   `json:"create"`  // make mount points that do not exist
	Options string `json:"options"` // in addition to ro, noatime, and nouuid for XFS; rw takes the place of ro
}

// makeMounted mounts the snapshots that are not mounted yet, and adds that to setResult, the result of making the set.
// If it fails, it removes the set again, but only if this operation took it.
func (op *operation) makeMounted(ctx context.Context, setResult Result) (Result, error) {
	if op.Check && (op.set == nil || setResult.Changed) {
		mounts, err := op.planMounts()
		setResult.Msg += "; would mount it on " + joinPoints(mounts)
		return setResult, err
	}
	result, err := op.mountSet(ctx, setResult)
	switch {
	case err == nil:
		return result, nil
	case setResult.Took:
		return Result{}, fault.All(err, removeTaken(ctx, op.run, op.lvm, op.set))
	case setResult.Changed:
		err = fault.New(fault.Of(err).Code, "%s, which stays so, but it is not mounted: %w", setResult.Msg, err)
	}
	return Result{}, err
}

// planMounts returns where the snapshots of the set, which need not exist yet, are to be mounted, and refuses mount
// points that cannot be used.
func (op *operation) planMounts() ([]snapshotMount, error) {
	if err := op.targetSetOrigins(); err != nil {
		return nil, err
	}
	return op.mounter().plan()
}

func (op *operation) mounter() *mounter {
	return &mounter{
		name: op.Set, set: op.set, targets: op.targets, view: op.view, MountOptions: op.Mount, run: op.run,
		commands: op.commands, lvm: op.lvm,
	}
}

// mountSet mounts the set on the mount points that the request names, and adds that to the result.
func (op *operation) mountSet(ctx context.Context, result Result) (Result, error) {
	mounts, err := op.planMounts()
	if err != nil {
		return Result{}, err
	}
	m := op.mounter()
	missing := m.missing(mounts)
	result.Snapshots = withMountpoints(result.Snapshots, mounts)
	if len(missing) == 0 {
		return result, nil
	}
	result.Changed = true
	result.Msg = fmt.Sprintf("%s; %s it on %s", result.Msg, op.doneOrWould("mounted", "mount"), joinPoints(missing))
	if op.Check {
		return result, nil
	}
	return result, m.mount(ctx, missing)
}

// mounter mounts the snapshots of one set.
type mounter struct {
	name    string
	set     *Set     // nil: it is not taken yet
	targets []Target // its volumes
	view    *View
	MountOptions
	run      *journey.Run
	commands command.Runner
	lvm      *lvm.LVM
}

// snapshotMount is the mount of one snapshot, planned or existing.
type snapshotMount struct {
	snapshot *lvm.Volume // nil: it is not taken yet
	point    string
	options  string
}

// isOf reports whether a mount is one of the snapshot.
func (s snapshotMount) isOf(mount filesystem.Mount) bool {
	return s.snapshot != nil && mount.Dev == devOf(s.snapshot)
}

// plan returns where each snapshot is to be mounted, and refuses mount points that cannot be used.
func (m *mounter) plan() ([]snapshotMount, error) {
	count := map[string]int{}
	for _, t := range m.targets {
		count[t.LV.Name]++
	}
	var out []snapshotMount
	var errs []error
	for i := range m.targets {
		t := &m.targets[i]
		if IsPart(t, m.targets) {
			continue
		}
		planned := snapshotMount{point: t.Mountpoint, options: t.Options}
		if m.set != nil {
			planned.snapshot = m.set.snapshotOf(t.LV)
		}
		if planned.point == "" {
			planned.point = m.defaultPoint(t, count[t.LV.Name] == 1)
		}
		planned.point = filesystem.Resolve(planned.point)
		if planned.options == "" {
			planned.options = m.Options
		}
		if slices.ContainsFunc(out, func(other snapshotMount) bool { return other.point == planned.point }) {
			errs = append(errs, fault.New(fault.BadArguments, "mountpoint: two volumes have %s", planned.point))
		}
		errs = append(errs, m.check(t, planned))
		out = append(out, planned)
	}
	return out, fault.All(errs...)
}

// defaultPoint returns where the snapshot of a target is mounted that has no mount point of its own. isOnly says that
// no other target has the same name in another volume group.
func (m *mounter) defaultPoint(t *Target, isOnly bool) string {
	switch {
	case m.Point == "":
		return filepath.Join(MountDir, m.name, t.LV.VG, t.LV.Name)
	case len(m.targets) == 1:
		return m.Point
	case !isOnly:
		return filepath.Join(m.Point, t.LV.VG, t.LV.Name)
	}
	return filepath.Join(m.Point, t.LV.Name)
}

// check refuses a mount that cannot be made.
func (m *mounter) check(t *Target, planned snapshotMount) error {
	if m.set != nil && planned.snapshot == nil {
		return fault.New(fault.SetDiffers, "set %s has no snapshot of %s", m.name, t.LV.FullName())
	}
	if t.Crypt != "" {
		return fault.New(fault.Unsupported, "%s is encrypted (LUKS); its snapshot is not opened for mounting",
			t.LV.FullName()).
			WithHint("by hand: cryptsetup open --readonly %s NAME, then mount -o ro /dev/mapper/NAME",
				"/dev/"+t.LV.VG+"/"+SnapshotName(t.LV.Name, m.name))
	}
	if other, ok := filesystem.At(m.view.Mounts, planned.point); ok && !planned.isOf(other) {
		return fault.New(fault.Busy, "%s: %s is mounted there already", planned.point, other.Source).
			WithHint("choose another mountpoint")
	}
	if _, err := os.Stat(planned.point); err != nil && !m.Create {
		return fault.New(fault.NotFound, "mount point %s: %w", planned.point, err).
			WithHint("mountpoint_create=true makes it")
	}
	return nil
}

// missing returns those of the mounts that are not made yet.
func (m *mounter) missing(mounts []snapshotMount) []snapshotMount {
	var out []snapshotMount
	for _, planned := range mounts {
		if other, ok := filesystem.At(m.view.Mounts, planned.point); !ok || !planned.isOf(other) {
			out = append(out, planned)
		}
	}
	return out
}

// mount makes the mounts, one that lies in another one after it. If one fails, it undoes those before.
func (m *mounter) mount(ctx context.Context, mounts []snapshotMount) error {
	slices.SortFunc(mounts, func(a, b snapshotMount) int { return strings.Compare(a.point, b.point) })
	undoPlan := &Plan{Set: m.set.Set, Mounted: targetsOf(mounts)}
	if err := m.run.Begin(Kind, m.set.Set, m.set.Groups(), "mounting", undoPlan); err != nil {
		return err
	}
	for _, planned := range mounts {
		if err := m.mountOne(ctx, planned); err != nil {
			return closeFailed(m.run, fault.All(err, undoAfterFailure(ctx, m.lvm, undoPlan)))
		}
	}
	return m.run.Finish(StepMounted, journal.Done, nil)
}

func (m *mounter) mountOne(ctx context.Context, planned snapshotMount) error {
	if err := os.MkdirAll(planned.point, 0o755); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", planned.point, err)
	}
	snapshot := planned.snapshot
	var partOptions []string
	for i := range m.targets {
		if t := &m.targets[i]; t.LV.VG == snapshot.VG && t.LV.Name == snapshot.Origin {
			partOptions = m.set.partOptions(t)
		}
	}
	origin := m.view.mainMount(snapshot.VG, snapshot.Origin)
	spec := filesystem.MountSpec{Source: snapshot.Path, Point: planned.point, Type: origin.Type}
	if spec.Type == "" {
		fstype, err := filesystem.TypeOf(ctx, m.commands, snapshot.Path)
		if err != nil {
			return err
		}
		spec.Type = fstype
	}
	defaults := append(filesystem.SnapshotOptions(spec.Type, origin, false), partOptions...)
	spec.Options = mergeOptions(defaults, planned.options)
	return filesystem.MountDevice(ctx, m.commands, spec)
}

// mergeOptions adds the user's mount options to the defaults. rw takes the place of ro, and any *atime option that of
// noatime.
func mergeOptions(defaults []string, user string) []string {
	var userOptions []string
	for _, o := range strings.Split(user, ",") {
		if o = strings.TrimSpace(o); o != "" {
			userOptions = append(userOptions, o)
		}
	}
	out := slices.DeleteFunc(slices.Clone(defaults), func(o string) bool {
		if o == "ro" {
			return slices.Contains(userOptions, "rw")
		}
		if o == "noatime" {
			return slices.ContainsFunc(userOptions, func(a string) bool { return strings.HasSuffix(a, "atime") })
		}
		return slices.Contains(userOptions, o)
	})
	return append(out, userOptions...)
}

// targetsOf returns the mount point and the device of each mount.
func targetsOf(mounts []snapshotMount) []filesystem.Target {
	var out []filesystem.Target
	for _, m := range mounts {
		out = append(out, filesystem.Target{Point: m.point, Dev: devOf(m.snapshot)})
	}
	return out
}

// withMountpoints returns what a result says of the set's snapshots, with their mount points.
func withMountpoints(list []Taken, mounts []snapshotMount) []Taken {
	out := slices.Clone(list)
	for i := range out {
		for _, m := range mounts {
			if m.snapshot.FullName() == out[i].Snapshot {
				out[i].Mountpoint = m.point
			}
		}
	}
	return out
}

// joinPoints returns the mount points as a text.
func joinPoints(mounts []snapshotMount) string {
	var points []string
	for _, m := range mounts {
		points = append(points, m.point)
	}
	return strings.Join(points, ", ")
}
