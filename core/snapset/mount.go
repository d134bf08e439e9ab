package snapset

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// snapshotMount is the mount of one snapshot, planned or existing.
type snapshotMount struct {
	snapshot *lvm.Volume
	point    string
	options  string
}

// makeMounted mounts the snapshots that are not mounted yet, and adds that to setResult, the result of making the set.
// If it fails, it removes the set again, but only if this operation took it.
func (op *setOperation) makeMounted(ctx context.Context, setResult Result) (Result, error) {
	if op.Check && (op.set == nil || setResult.Changed) {
		setResult.Msg += " and mount it"
		return setResult, nil
	}
	result := setResult
	mounts, err := op.planMounts()
	if err == nil {
		result, err = op.mountAll(ctx, setResult, mounts)
	}
	switch {
	case err == nil:
		return result, nil
	case setResult.Took:
		return Result{}, fault.All(err, op.removeTaken(ctx))
	case setResult.Changed:
		err = fault.New(fault.Of(err).Code, "%s, which stays so, but it is not mounted: %w", setResult.Msg, err)
	}
	return Result{}, err
}

// removeTaken removes the set that this operation took.
func (op *setOperation) removeTaken(ctx context.Context) error {
	plan := op.set.removalPlan(nil)
	if err := op.run.Begin(Kind, op.Set, plan.Groups(), "removing", plan); err != nil {
		return err
	}
	if err := undoAfterFailure(ctx, op.lvm, plan); err != nil {
		return err
	}
	return op.run.Finish("removed", journal.Done, nil)
}

// planMounts returns where each snapshot is to be mounted, and refuses mount points that cannot be used.
func (op *setOperation) planMounts() ([]snapshotMount, error) {
	if len(op.targets) == 0 {
		if err := op.targetSetOrigins(); err != nil {
			return nil, err
		}
	}
	count := map[string]int{}
	for _, t := range op.targets {
		count[t.LV.Name]++
	}
	var out []snapshotMount
	var errs []error
	for i := range op.targets {
		t := &op.targets[i]
		if IsPart(t, op.targets) {
			continue
		}
		m := snapshotMount{snapshot: op.snapshotOf(t.LV), point: t.Mountpoint, options: t.Options}
		switch {
		case m.point != "":
		case op.Mount.Point == "":
			m.point = filepath.Join(MountDir, op.Set, t.LV.VG, t.LV.Name)
		case len(op.targets) == 1:
			m.point = op.Mount.Point
		case count[t.LV.Name] > 1:
			m.point = filepath.Join(op.Mount.Point, t.LV.VG, t.LV.Name)
		default:
			m.point = filepath.Join(op.Mount.Point, t.LV.Name)
		}
		if m.options == "" {
			m.options = op.Mount.Options
		}
		errs = append(errs, op.checkMount(t, m))
		out = append(out, m)
	}
	return out, fault.All(errs...)
}

// checkMount refuses a mount that cannot be made.
func (op *setOperation) checkMount(t *Target, m snapshotMount) error {
	if m.snapshot == nil {
		return fault.New(fault.SetDiffers, "set %s has no snapshot of %s", op.Set, t.LV.FullName())
	}
	if t.Crypt != "" {
		return fault.New(fault.Unsupported, "%s is encrypted (LUKS); its snapshot is not opened for mounting",
			t.LV.FullName()).
			WithHint("by hand: cryptsetup open --readonly %s NAME, then mount -o ro /dev/mapper/NAME", m.snapshot.Path)
	}
	if other, ok := filesystem.At(op.view.Mounts, m.point); ok && other.Dev != devOf(m.snapshot) {
		return fault.New(fault.Busy, "%s: %s is mounted there already", m.point, other.Source).
			WithHint("choose another mountpoint")
	}
	if _, err := os.Stat(m.point); err != nil && !op.Mount.Create {
		return fault.New(fault.NotFound, "mount point %s: %w", m.point, err).WithHint("mountpoint_create=true makes it")
	}
	return nil
}

// mountAll mounts what is not mounted yet, and adds that to the result. If a mount fails, it undoes those before.
func (op *setOperation) mountAll(
	ctx context.Context, result Result, mounts []snapshotMount,
) (Result, error) {
	var missing []snapshotMount
	for _, m := range mounts {
		if other, ok := filesystem.At(op.view.Mounts, m.point); !ok || other.Dev != devOf(m.snapshot) {
			missing = append(missing, m)
		}
	}
	result.Snapshots = op.listWithMountpoints(mounts)
	if len(missing) == 0 {
		return result, nil
	}
	result.Changed = true
	result.Msg = fmt.Sprintf("%s; %s it on %s", result.Msg, op.doneOrWould("mounted", "mount"), joinPoints(missing))
	if op.Check {
		return result, nil
	}
	undoPlan := &Plan{Set: op.Set, Mounted: targetsOf(missing)}
	if err := op.run.Begin(Kind, op.Set, op.set.Groups(), "mounting", undoPlan); err != nil {
		return result, err
	}
	for _, m := range missing {
		if err := op.mountOne(ctx, m); err != nil {
			return result, op.closeFailed(fault.All(err, undoAfterFailure(ctx, op.lvm, undoPlan)))
		}
	}
	return result, op.run.Finish(StepMounted, journal.Done, nil)
}

func (op *setOperation) mountOne(ctx context.Context, m snapshotMount) error {
	if err := os.MkdirAll(m.point, 0o755); err != nil {
		return fault.New(fault.MountFailed, "mount point %s: %w", m.point, err)
	}
	var partOptions []string
	for i := range op.targets {
		if t := &op.targets[i]; t.LV.VG == m.snapshot.VG && t.LV.Name == m.snapshot.Origin {
			partOptions = op.snapshotOptions(t)
		}
	}
	origin := op.view.mainMount(m.snapshot.VG, m.snapshot.Origin)
	spec := filesystem.MountSpec{Source: m.snapshot.Path, Point: m.point, Type: origin.Type}
	if spec.Type == "" {
		fstype, err := filesystem.TypeOf(ctx, op.commands, m.snapshot.Path)
		if err != nil {
			return err
		}
		spec.Type = fstype
	}
	spec.Options = mergeOptions(append(filesystem.SnapshotOptions(spec.Type, origin, false), partOptions...), m.options)
	return filesystem.MountDevice(ctx, op.commands, spec)
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

// makeUnmounted unmounts the set wherever it is mounted.
func (op *setOperation) makeUnmounted(ctx context.Context) (Result, error) {
	if op.set == nil {
		return Result{}, fault.New(fault.NotFound, "%s", None(op.view.Report, op.Set)).
			WithHint("lvm_snapshot_info shows the sets")
	}
	if err := op.checkSameVolumes(); err != nil {
		return Result{}, err
	}
	points := op.mountPoints()
	if len(points) == 0 {
		return existingSetResult(op.set, false, fmt.Sprintf("set %s is not mounted", op.Set)), nil
	}
	msg := fmt.Sprintf("%s set %s from %s", op.doneOrWould("unmounted", "unmount"), op.Set, strings.Join(points, ", "))
	result := existingSetResult(op.set, true, msg)
	if err := op.checkNotInUse(ctx); err != nil || op.Check {
		return result, err
	}
	return result, unmountTargets(ctx, op.setMounts())
}

// mountPoints returns where the set's snapshots are mounted, whoever mounted them.
func (op *setOperation) mountPoints() []string {
	var points []string
	for _, m := range op.setMounts() {
		points = append(points, m.Point)
	}
	return points
}

// setMounts returns all mounts of the set's snapshots.
func (op *setOperation) setMounts() []filesystem.Target {
	var out []filesystem.Target
	for _, v := range op.set.Snapshots {
		for _, m := range filesystem.On(op.view.Mounts, devOf(v)) {
			out = append(out, filesystem.Target{Point: m.Point, Dev: m.Dev})
		}
	}
	return out
}

// unmountTargets unmounts those of the targets that are still mounted, the last one first. It leaves alone what else is
// mounted on their mount points by now, so it can also settle an interrupted mount or removal.
func unmountTargets(ctx context.Context, targets []filesystem.Target) error {
	var errs []error
	for _, t := range slices.Backward(targets) {
		errs = append(errs, filesystem.UnmountOf(ctx, t.Point, t.Dev))
		RemoveMountPoints([]string{t.Point})
	}
	return fault.All(errs...)
}

// targetsOf returns the mount point and the device of each mount.
func targetsOf(mounts []snapshotMount) []filesystem.Target {
	var out []filesystem.Target
	for _, m := range mounts {
		out = append(out, filesystem.Target{Point: m.point, Dev: devOf(m.snapshot)})
	}
	return out
}

// RemoveMountPoints removes those of the mount points that lie below MountDir, and the directories above them that are
// empty then. Mount points that the user named stay.
func RemoveMountPoints(points []string) {
	for _, point := range points {
		for strings.HasPrefix(point, MountDir+"/") && os.Remove(point) == nil {
			point = filepath.Dir(point)
		}
	}
}

// listWithMountpoints lists the set's snapshots with their mount points.
func (op *setOperation) listWithMountpoints(mounts []snapshotMount) []Taken {
	out := listSnapshots(op.set)
	for i := range out {
		for _, m := range mounts {
			if m.snapshot.FullName() == out[i].Snapshot {
				out[i].Mountpoint = m.point
			}
		}
	}
	return out
}

func pointList(mounts []snapshotMount) []string {
	var out []string
	for _, m := range mounts {
		out = append(out, m.point)
	}
	return out
}

func joinPoints(mounts []snapshotMount) string { return strings.Join(pointList(mounts), ", ") }
