package rollback

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// undoLimit bounds the undoing of a rollback, until the services run again. undoReserve is the part of it that is kept
// for what follows the mounts: a mount may hang on a disk that does not answer.
const undoLimit, undoReserve = 10 * time.Minute, time.Minute

// stopReserve is the part of the timeout that is kept for the steps after the stop of the services.
const stopReserve = 30 * time.Second

// stopAndUnmount takes the steps from the boot guard to the point of no return: it stops the services, unmounts the
// volumes, and checks everything again.
func (rb *rollback) stopAndUnmount(ctx context.Context, toEnd []processToEnd) error {
	if err := rb.installGuard(); err != nil {
		return err
	}
	rb.run.Progress("stopping services", -1)
	rb.findQuotas()
	rb.state.Stopped = time.Now()
	if err := rb.record(stepStopping, rb.state); err != nil {
		return err
	}
	end := func(ctx context.Context) error { return endProcesses(ctx, toEnd) }
	if err := rb.systemd.StopAndEnd(ctx, rb.state.Services, rb.stopLimit(ctx), end); err != nil {
		return err
	}
	rb.systemd.Disconnect()
	rb.run.Progress("unmounting", -1)
	if err := rb.record(stepUnmounting, nil); err != nil {
		return err
	}
	if err := rb.unmount(ctx); err != nil {
		return err
	}
	failpoint.Hit("rollback.unmounted")
	// An lvconvert that waits for LVM's lock could begin to merge at any later time, and the services could not start
	// before then.
	if err := rb.lvm.AwaitUnlocked(ctx, rb.state.groups(), closeLimit); err != nil {
		return err
	}
	return rb.awaitClosed(ctx)
}

// stopLimit returns how long the services may take to stop.
func (rb *rollback) stopLimit(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return rb.Timeout
	}
	return max(time.Until(deadline)-stopReserve, time.Until(deadline)/2)
}

// recheck repeats the checks that can have changed while the services stopped: a snapshot may have overflowed, somebody
// may have removed it, and something may have opened a volume. It asks the kernel, which is exact and quick, and LVM
// only about thin snapshots.
func (rb *rollback) recheck(ctx context.Context) error {
	status, err := rb.lvm.Status(ctx)
	if err != nil {
		return err
	}
	info, err := rb.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range rb.state.Members {
		if info[m.DMName].Open > 0 || info[m.SnapshotDM].Open > 0 {
			errs = append(errs, fault.New(fault.Busy, "%s or its snapshot is still open after the unmount", m.origin()).
				WithHint("dmsetup info -c -o name,open %s %s; lsof /dev/%s", m.DMName, m.SnapshotDM, m.origin()))
		}
		if m.Thin {
			continue
		}
		if i, ok := info[m.SnapshotDM]; ok && !strings.HasSuffix(i.UUID, strings.ReplaceAll(m.SnapshotID, "-", "")) {
			errs = append(errs, removedFault(m))
			continue
		}
		targets := status[m.SnapshotDM]
		if len(targets) != 1 {
			errs = append(errs, fault.New(fault.SnapshotInvalid, "%s is not active any more", m.snapshot()).
				WithHint("lvs -a %s; lvchange -ay %s", m.VG, m.snapshot()))
			continue
		}
		snap, ok := targets[0].Snapshot()
		if !ok || snap.Lost() {
			errs = append(errs, fault.New(fault.SnapshotInvalid, "%s overflowed while the services stopped", m.snapshot()).
				With("snapshots", []map[string]any{{"snapshot": m.snapshot(), "volume": m.origin(), "state": "invalid"}}).
				WithHint("what it held is lost, so nothing was rolled back; a set: lvm_snapshot state=absent removes it; "+
					"by itself: lvremove %s", m.snapshot()))
			continue
		}
		m.Used = snap.UsedBytes()
		errs = append(errs, m.recheckSiblings(status))
	}
	err = fault.All(errs...)
	if err == nil { // LVM takes longer than the kernel, and awaitClosed repeats the checks again and again
		err = rb.recheckThin(ctx)
	}
	rb.readyToMerge = err == nil
	return err
}

// recheckThin refuses to merge thin snapshots that somebody has removed (snapshot_invalid). The kernel does not tell:
// most thin snapshots have no device.
func (rb *rollback) recheckThin(ctx context.Context) error {
	isThin := func(m *Member) bool { return m.Thin }
	if !slices.ContainsFunc(rb.state.Members, isThin) {
		return nil
	}
	report, err := rb.lvm.Report(ctx)
	errs := []error{err}
	for _, m := range rb.state.Members {
		if err != nil || !m.Thin {
			continue
		}
		if v, exists := report.ByUUID(m.SnapshotID); !exists || v.Name != m.Snapshot {
			errs = append(errs, removedFault(m))
		}
	}
	return fault.All(errs...)
}

// abort undoes what was done before the point of no return, and returns cause together with what failed while undoing.
func (rb *rollback) abort(ctx context.Context, cause error) error {
	rb.run.Progress("undoing", -1)
	if err := rb.undo(context.WithoutCancel(ctx)); err != nil {
		return fault.All(cause, err)
	}
	return cause
}

// undo mounts and starts everything again, even if the journal cannot be written. Each part of it may have been done
// before. No boot merges anything after undo, whatever step the journal shows, because LVM's metadata shows that no
// merge has begun.
func (rb *rollback) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	rb.enterStep(stepUndoing)
	err := rb.resumeSuspended(ctx) // nothing can mount what a killed lvconvert has left suspended
	if err == nil {
		err = rb.unprotect(ctx)
	}
	if err == nil {
		mountCtx, cancel := context.WithTimeout(ctx, undoLimit-undoReserve)
		err = rb.openAndMount(mountCtx, rb.state.Mounts)
		cancel()
	}
	if err != nil {
		err = fault.All(err, rb.releaseOtherHolds(ctx, true), rb.notMountedFault())
	} else {
		rb.enforceQuotas(ctx)
		rb.mountSet(ctx)
		err = rb.releaseOtherHolds(ctx, false)
		err = fault.All(err, rb.startPlan(ctx, rb.state.Services))
	}
	if err != nil {
		return fault.New(fault.Of(err).Code, "and undoing the rollback failed: %w", fault.All(err, rb.journalErr))
	}
	return rb.closeUndone(ctx)
}

// closeUndone removes the boot guard and closes the entry of a rollback that is undone. If the entry cannot be written,
// it is removed instead, which needs no disk space: a rollback without an entry is not continued.
func (rb *rollback) closeUndone(ctx context.Context) error {
	rb.dropMetadata()
	if err := rb.removeGuard(ctx); err != nil {
		return err
	}
	err := rb.run.Finish(stepUndone, journal.Undone, rb.state)
	rb.journalErr = nil
	if err == nil {
		return nil
	}
	if removeErr := rb.run.Journal.Forget(rb.entry()); removeErr != nil {
		return fault.New(fault.Of(rb.journalFault(err)).Code,
			"everything is as before the rollback, but that cannot be written to the journal: %w; %w", err, removeErr).
			WithHint("every later run tries it again; or remove %s/%s.json", rb.server.JournalDir, rb.entry().ID)
	}
	rb.entry().Step, rb.entry().Outcome = stepUndone, journal.Undone
	return nil
}

// startPlan starts the units that were active when the plan was made. A unit that fails to start is an error.
func (rb *rollback) startPlan(ctx context.Context, p service.Plan) error {
	failures, err := rb.systemd.Start(ctx, p)
	errs := []error{err}
	for _, f := range failures {
		errs = append(errs, f)
	}
	return fault.All(errs...)
}

// notMountedFault names what undo could not mount. Without these mounts the services stay stopped, because they would
// write into the directories below the mount points, where nobody looks for the data.
func (rb *rollback) notMountedFault() error {
	var notMounted []string
	mounts, err := rb.server.Host.Mounts()
	for _, spec := range rb.state.Mounts {
		if err != nil || !isMounted(mounts, spec) {
			notMounted = append(notMounted, spec.Point)
		}
	}
	hint := "run the same task again, which tries again"
	if len(notMounted) > 0 {
		hint += ", or mount " + strings.Join(notMounted, ", ") + " by hand"
	}
	if active := rb.state.Services.Active; len(active) > 0 {
		hint += "; once all is mounted: systemctl start " + strings.Join(active, " ")
	}
	if len(notMounted) == 0 { // a LUKS mapping or an automount failed, and every mount is there
		notMounted = originNames(rb.state.Members)
	}
	return fault.New(fault.MountFailed, "the services stay stopped, because they would miss %s",
		strings.Join(notMounted, ", ")).WithHint("%s", hint)
}

// mergeAndStart takes all steps from the merge to the start of the services. Each part looks at what is left to do.
// Once the merges have begun, it goes on even if the journal cannot be written: the next run then reads from LVM's
// metadata what the journal does not say.
func (rb *rollback) mergeAndStart(ctx context.Context) error {
	// An interruption up to here undoes the rollback. From here on it would only leave the rollback unfinished.
	ctx = context.WithoutCancel(ctx)
	defer rb.awaitLvconvert()
	if err := rb.merge(ctx); err != nil {
		return err
	}
	rb.dropMetadata()
	rb.enterStep(stepMounting)
	rb.state.Trouble = rb.notRolledBack() // this drops what failed in an earlier run
	if rb.Resnapshot || rb.state.Resnapshot {
		if err := rb.retake(ctx); err != nil {
			f := fault.New(fault.Of(err).Code, "set %s was not taken again: %w", rb.state.Set, err)
			f.Hint = cmp.Or(f.Hint, "lvm_snapshot takes it, with what the services have written since")
			rb.state.Trouble = append(rb.state.Trouble, f)
		}
	}
	snapset.RemoveMountPoints(mountPoints(rb.state.SetMounts))
	rb.run.Progress("mounting", -1)
	if err := rb.openAndMount(ctx, rb.state.Mounts); err != nil {
		err = fault.All(err, rb.releaseOtherHolds(ctx, true))
		f := fault.New(fault.MountFailed, "the volumes are rolled back, but not mounted: %w", err)
		return f.WithHint("%s; the same task again mounts them and starts the services", cmp.Or(f.Hint, "mend the cause"))
	}
	rb.enforceQuotas(ctx)
	rb.enterStep(stepStarting)
	if err := rb.startServices(ctx); err != nil {
		return err
	}
	rb.enterStep(StepStarted)
	return nil
}

// notRolledBack returns one fault that names all members that are lost, and keeps the services from being started: the
// volumes now hold data of different times, and only people can know whether that is usable. It returns nil if no
// member is lost.
func (rb *rollback) notRolledBack() []*fault.Error {
	var lostOrigins []string
	for _, m := range rb.state.Members {
		if m.Lost {
			lostOrigins = append(lostOrigins, m.origin())
		}
	}
	if len(lostOrigins) == 0 {
		return nil
	}
	rb.state.Start = false
	hint := "what the volumes hold is of different times: restore " + strings.Join(lostOrigins, ", ") + " from a backup"
	if active := rb.state.Services.Active; len(active) > 0 {
		hint += ", or start the services as it is: systemctl start " + strings.Join(active, " ")
	}
	return []*fault.Error{fault.New(fault.SnapshotInvalid,
		"%s is not rolled back: its snapshot was lost before its merge began; the services are left stopped",
		strings.Join(lostOrigins, ", ")).WithHint("%s", hint)}
}

// startServices starts the services that were active, unless they are to stay stopped, and ends the hold of their
// units.
func (rb *rollback) startServices(ctx context.Context) error {
	if err := rb.releaseOtherHolds(ctx, !rb.state.Start); err != nil {
		return fault.New(fault.ServiceFailed, "the volumes are rolled back and mounted, but %w", err)
	}
	if rb.state.Start {
		rb.run.Progress("starting services", -1)
		ctx, cancel := context.WithTimeout(ctx, max(rb.Timeout, undoLimit))
		defer cancel()
		failures, err := rb.systemd.Start(ctx, rb.state.Services)
		if err != nil {
			return fault.New(fault.ServiceFailed,
				"the volumes are rolled back and mounted, but the services did not start: %w", err).
				WithHint("systemctl start %s", strings.Join(rb.state.Services.Active, " "))
		}
		rb.state.Failures = failures
	}
	if !rb.state.Stopped.IsZero() {
		rb.state.Downtime = time.Since(rb.state.Stopped)
	}
	return nil
}
