package snapset

import (
	"context"
	"slices"
	"time"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// takeNew takes the set, which does not exist yet.
func (op *operation) takeNew(ctx context.Context) (Result, error) {
	if len(op.targets) == 0 {
		none := None(op.view.Report, op.Set)
		return Result{}, fault.New(fault.NotFound, "%s, and volumes names nothing to take it of", none).
			WithHint("volumes=/dat,/pccehr takes it")
	}
	want := SetSpec{
		Set: op.Set, Volumes: op.Volumes, Size: op.Size, Each: op.Each, NoPostgreSQL: op.NoPostgreSQL,
	}
	plan, err := op.view.New(want, journal.NewID(), op.targets)
	if err := fault.All(err, op.checkLocking(ctx)); err != nil {
		return Result{}, err
	}
	if err := checkReserveSpace(op.lvm.Dir(), op.server.StateDir); err != nil {
		return Result{}, err
	}
	var result Result
	if op.Check {
		result = newSetResult(plan, nil, "would take")
	} else {
		result, err = op.takePlanned(ctx, plan, func() error { return op.run.Finish("taken", journal.Done, nil) })
		if !result.Took {
			return Result{}, err
		}
	}
	result.Warnings = append(result.Warnings, rollbackWarnings(op.targets)...)
	return result, err
}

// checkLocking refuses a set with a thin volume if the program cannot make LVM's commands wait, as the common instant
// of a thin volume requires.
func (op *operation) checkLocking(ctx context.Context) error {
	thin := func(t Target) bool { return t.LV.Kind == lvm.Thin }
	if len(op.targets) < 2 || op.Each || !slices.ContainsFunc(op.targets, thin) {
		return nil
	}
	return op.lvm.CheckLockDir(ctx)
}

// takePlanned takes the planned set, which is the set of the operation from then on, and calls record to write that
// into the journal. After an error nothing of the set is left, unless only record failed: then the result says that the
// set was taken.
func (op *operation) takePlanned(ctx context.Context, plan *Plan, record func() error) (Result, error) {
	n := newSet{
		plan: plan, limit: op.FreezeTimeout, run: op.run, lvm: op.lvm, reserve: op.server.journalReserve(plan.ID),
	}
	result, err := n.take(ctx, record)
	if result.Took {
		op.set, op.view.Report = n.set, n.report
	}
	return result, err
}

// newSet is a set that is being taken.
type newSet struct {
	plan    *Plan
	limit   time.Duration // how long writes may wait
	run     *journey.Run
	lvm     *lvm.LVM
	reserve string // the path of the journal's reserve file

	// What LVM says when the set has been taken.
	report *lvm.Report
	set    *Set
}

// take takes the set and calls record, as takePlanned does.
func (n *newSet) take(ctx context.Context, record func() error) (result Result, err error) {
	// The entry comes first: if this process is killed, whoever settles it removes the reserve file.
	if err := n.run.Begin(Kind, n.plan.Set, n.plan.Groups(), "taking", n.plan); err != nil {
		return Result{}, err
	}
	defer func() { removeReserve(n.reserve, err) }()
	if err := createReserve(n.reserve); err != nil {
		return Result{}, closeFailed(n.run, err)
	}
	n.run.Progress("taking set "+n.plan.Set, -1)
	pause, err := take(ctx, n.lvm, n.plan, n.limit)
	if err == nil {
		err = n.verify(ctx)
	}
	if err != nil {
		return Result{}, closeFailed(n.run, err)
	}
	return takenResult(n.plan, pause, n.limit), runWithReserve(n.reserve, record)
}

// verify reads LVM's state again when nothing is frozen any more. LVM must list every member, and none may have
// overflowed already. It undoes the set otherwise.
func (n *newSet) verify(ctx context.Context) (err error) {
	n.report, err = n.lvm.Report(ctx)
	if err == nil {
		n.set, err = Find(n.report, n.plan.Set)
	}
	if err == nil && (n.set == nil || n.set.ID != n.plan.ID || !n.set.Complete()) {
		err = fault.New(fault.CommandFailed, "LVM took the snapshots of set %q but does not list all of them", n.plan.Set)
	}
	if err == nil {
		err = fault.All(n.set.Check(), n.set.checkActive(n.report))
	}
	if err == nil {
		return nil
	}
	return fault.All(err, undoAfterFailure(ctx, n.lvm, n.plan))
}
