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
	"go.pcc.com/rewind/core/lvm"
)

// makeUnmounted unmounts the set wherever it is mounted.
func (op *operation) makeUnmounted(ctx context.Context) (Result, error) {
	if op.set == nil {
		return Result{}, fault.New(fault.NotFound, "%s", None(op.view.Report, op.Set)).
			WithHint("lvm_snapshot_info shows the sets")
	}
	if err := op.set.checkSameVolumes(op.targets, op.State); err != nil {
		return Result{}, err
	}
	mounted := op.set.mountsAmong(op.view.Mounts)
	if len(mounted) == 0 {
		return existingSetResult(op.set, false, fmt.Sprintf("set %s is not mounted", op.Set)), nil
	}
	msg := fmt.Sprintf("%s set %s from %s", op.doneOrWould("unmounted", "unmount"), op.Set,
		strings.Join(pointsOf(mounted), ", "))
	result := existingSetResult(op.set, true, msg)
	if err := op.set.checkNotInUse(ctx, op.view.Mounts); err != nil || op.Check {
		return result, err
	}
	return result, unmountTargets(ctx, mounted)
}

// mountsAmong returns those of the mounts that are of the set's snapshots, whoever made them, in the order of the mount
// table: what is mounted in another one comes after it. A snapshot that is merging is mounted nowhere: LVM shows its
// origin's device as its own.
func (s *Set) mountsAmong(mounts []filesystem.Mount) []filesystem.Target {
	var out []filesystem.Target
	for _, m := range mounts {
		isMounted := func(v *lvm.Volume) bool { return !v.Merging && devOf(v) == m.Dev }
		if slices.ContainsFunc(s.Snapshots, isMounted) {
			out = append(out, filesystem.Target{Point: m.Point, Dev: m.Dev})
		}
	}
	return out
}

// pointsOf returns the mount points of the targets.
func pointsOf(targets []filesystem.Target) []string {
	var points []string
	for _, t := range targets {
		points = append(points, t.Point)
	}
	return points
}

// checkNotInUse fails with busy, before anything is changed, and names everything that holds a snapshot of the set
// open.
func (s *Set) checkNotInUse(ctx context.Context, mounts []filesystem.Mount) error {
	var devs []filesystem.Dev
	for _, v := range s.Snapshots {
		if v.Active && v.Open && !v.Merging {
			devs = append(devs, devOf(v))
		}
	}
	if len(devs) == 0 {
		return nil
	}
	var own []filesystem.Mount
	for _, dev := range devs {
		own = append(own, filesystem.On(mounts, dev)...)
	}
	holders, err := filesystem.Holders(ctx, devs, own)
	if err != nil || len(holders) == 0 {
		return err
	}
	return fault.New(fault.Busy, "set %s is held open by %s", s.Set, filesystem.Describe(holders)).
		With("holders", holders).
		WithHint("end what uses the snapshots, then run this again")
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

// RemoveMountPoints removes those of the mount points that lie below MountDir, and the directories above them that are
// empty then. Mount points that the user named stay.
func RemoveMountPoints(points []string) {
	for _, point := range points {
		for strings.HasPrefix(point, MountDir+"/") && os.Remove(point) == nil {
			point = filepath.Dir(point)
		}
	}
}
