package snapset

import (
	"context"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// replace removes an overflowed set and takes it again: of the named volumes, or of the same ones if none are named.
func (op *operation) replace(ctx context.Context) (Result, error) {
	if err := op.set.checkRemovable(op.view.Report); err != nil {
		return Result{}, err
	}
	if err := op.targetSetOrigins(); err != nil {
		return Result{}, err
	}
	before := listSnapshots(op.set)
	if op.Check {
		removeFromReport(op.view.Report, op.set)
	} else if err := op.removeAndReadAgain(ctx); err != nil {
		return Result{}, err
	}
	result, err := op.takeNew(ctx)
	if err != nil && !op.Check && !result.Took {
		var names []string
		for _, v := range op.Volumes {
			names = append(names, v.Name)
		}
		err = fault.New(fault.Of(err).Code, "set %s had overflowed and was removed, and volumes=%s was not taken again: %w",
			op.Set, strings.Join(names, ","), err)
	}
	if err == nil {
		result.Msg += "; before that, " + op.doneOrWould("removed", "remove") + " the set of that name, which had overflowed"
	}
	if result.Diff != nil {
		result.Diff.Before = before
	}
	return result, err
}

// removeAndReadAgain removes the set, and reads the state of the server without it.
func (op *operation) removeAndReadAgain(ctx context.Context) error {
	if err := removeSet(ctx, op.run, op.lvm, op.set, op.view.Mounts); err != nil {
		return err
	}
	_, err := op.readState(ctx)
	return err
}

// removeFromReport removes the set's snapshots from the report, so that a check can plan what would be done after their
// removal.
func removeFromReport(r *lvm.Report, s *Set) {
	for _, snapshot := range s.Snapshots {
		group, _ := r.Group(snapshot.VG)
		if snapshot.Kind == lvm.Snapshot { // a thin one takes no space of the group
			group.Free += snapshot.Size
		}
		var others []lvm.Volume
		for _, v := range group.Volumes {
			if v.UUID != snapshot.UUID {
				others = append(others, v)
			}
		}
		group.Volumes = others
	}
}
