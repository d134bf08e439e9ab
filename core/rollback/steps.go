package rollback

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/snapset"
)

// undoLimit bounds the undoing of a rollback, until the services run again. undoReserve is the part of it that is kept
// for what follows the mounts: a mount may hang on a disk that does not answer.
const undoLimit, undoReserve = 10 * time.Minute, time.Minute

// stopReserve is the part of the timeout that is kept for the steps after the stop of the services.
const stopReserve = 30 * time.Second

// writeOut has the members' file systems write dirty pages out while the services still run. Otherwise the unmount
// would write them while the services are stopped. If that takes longer than half of the timeout, the rollback is not
// begun (timeout).
func (rb *rollback) writeOut(ctx context.Context) error {
	half := rb.Timeout / 2
	rb.run.Progress("writing out", -1)
	notWritten := rb.server.Host.WriteOut(ctx, mountPoints(rb.state.Mounts), half)
	if len(notWritten) == 0 {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Interrupted, "no service was stopped: %w", ctx.Err())
	}
	return fault.New(fault.Timeout,
		"what is in memory of %s was not written to disk in %s, half of the timeout, so no service was stopped",
		strings.Join(notWritten, ", "), half).
		WithHint("what is written stays so: the same again with a longer timeout=SECONDS, once this run has ended, " +
			"which waits for the disk, too (lvm_snapshot_info, under_way); if nothing is written: `dmesg | tail` says whether " +
			"the disk answers, `dmsetup info -c` whether a device is suspended, `lvs -a` whether a thin pool is full")
}

// stopAndUnmount takes the steps from the boot guard to the point of no return: it activates inactive members, stops
// the services, unmounts the volumes, and checks everything again.
func (rb *rollback) stopAndUnmount(ctx context.Context, toEnd []processToEnd) error {
	if err := rb.guard.install(); err != nil {
		return err
	}
	if err := rb.volumes.activateInactive(ctx); err != nil {
		return err
	}
	rb.run.Progress("stopping services", -1)
	rb.volumes.findQuotas()
	rb.state.Stopped = time.Now()
	if err := rb.steps.record(stepStopping, rb.state); err != nil {
		return err
	}
	end := func(ctx context.Context) error { return endProcesses(ctx, toEnd) }
	if err := rb.systemd.StopAndEnd(ctx, rb.state.Services, stopLimit(ctx, rb.Timeout), end); err != nil {
		return err
	}
	rb.systemd.Disconnect()
	rb.run.Progress("unmounting", -1)
	if err := rb.steps.record(stepUnmounting, nil); err != nil {
		return err
	}
	if err := rb.volumes.unmount(ctx); err != nil {
		return err
	}
	failpoint.Hit("rollback.unmounted")
	// An lvconvert that waits for LVM's lock could begin to merge at any later time, and the services could not start
	// before then.
	if err := rb.lvm.AwaitUnlocked(ctx, rb.state.groups(), closeLimit); err != nil {
		return err
	}
	err := rb.volumes.awaitClosed(ctx)
	rb.merges.ready = err == nil
	return err
}

// stopLimit returns how long the services may take to stop, of what is left of the timeout.
func stopLimit(ctx context.Context, timeout time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return timeout
	}
	return max(time.Until(deadline)-stopReserve, time.Until(deadline)/2)
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
	rb.steps.enter(stepUndoing)
	err := rb.merges.resumeSuspended(ctx) // nothing can mount what a killed lvconvert has left suspended
	if err == nil {
		err = rb.volumes.unprotect(ctx)
	}
	if err == nil {
		mountCtx, cancel := context.WithTimeout(ctx, undoLimit-undoReserve)
		err = rb.volumes.openAndMount(mountCtx, rb.state.Mounts)
		cancel()
	}
	if err != nil {
		err = fault.All(err, rb.holds.releaseOthers(ctx, true), notMountedFault(rb.server.Host, rb.state))
	} else {
		rb.volumes.enforceQuotas(ctx)
		rb.volumes.mountSet(ctx)
		err = rb.holds.releaseOthers(ctx, false)
		err = fault.All(err, rb.startPlan(ctx, rb.state.Services))
	}
	if err != nil {
		return fault.New(fault.Of(err).Code, "and undoing the rollback failed: %w", fault.All(err, rb.steps.journalErr))
	}
	return rb.closeUndone(ctx)
}

// closeUndone removes the boot guard and closes the entry of a rollback that is undone. If the entry cannot be written,
// it is removed instead, which needs no disk space: a rollback without an entry is not continued.
func (rb *rollback) closeUndone(ctx context.Context) error {
	rb.merges.dropMetadata()
	if err := rb.guard.remove(ctx); err != nil {
		return err
	}
	err := rb.run.Finish(stepUndone, journal.Undone, rb.state)
	rb.steps.journalErr = nil
	if err == nil {
		return nil
	}
	if removeErr := rb.run.Journal.Forget(rb.entry()); removeErr != nil {
		return fault.New(fault.Of(rb.steps.journalFault(err)).Code,
			"everything is as before the rollback, but that cannot be written to the journal: %w; %w", err, removeErr).
			WithHint("every later run tries it again; or remove %s/%s.json", rb.server.JournalDir, rb.entry().ID)
	}
	rb.entry().Step, rb.entry().Outcome = stepUndone, journal.Undone
	return nil
}

// notMountedFault names what undo could not mount. Without these mounts the services stay stopped, because they would
// write into the directories below the mount points, where nobody looks for the data.
func notMountedFault(host filesystem.Host, st *State) error {
	var notMounted []string
	mounts, err := host.Mounts()
	for _, spec := range st.Mounts {
		if err != nil || !isMounted(mounts, spec) {
			notMounted = append(notMounted, spec.Point)
		}
	}
	hint := "run the same task again, which tries again"
	if len(notMounted) > 0 {
		hint += ", or mount " + strings.Join(notMounted, ", ") + " by hand"
	}
	if active := st.Services.Active; len(active) > 0 {
		hint += "; once all is mounted: systemctl start " + strings.Join(active, " ")
	}
	if len(notMounted) == 0 { // a LUKS mapping or an automount failed, and every mount is there
		notMounted = originNames(st.Members)
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
	defer rb.merges.awaitLvconvert()
	if err := rb.merges.begin(ctx); err != nil {
		return err
	}
	rb.merges.dropMetadata()
	rb.steps.enter(stepMounting)
	rb.state.Trouble = rb.state.notRolledBack() // this drops what failed in an earlier run
	if rb.Resnapshot || rb.state.Resnapshot {
		if err := rb.retake(ctx); err != nil {
			f := fault.New(fault.Of(err).Code, "set %s was not taken again: %w", rb.state.Set, err)
			f.Hint = cmp.Or(f.Hint, "lvm_snapshot takes it, with what the services have written since")
			rb.state.Trouble = append(rb.state.Trouble, f)
		}
	}
	snapset.RemoveMountPoints(mountPoints(rb.state.SetMounts))
	rb.run.Progress("mounting", -1)
	if err := rb.volumes.openAndMount(ctx, rb.state.Mounts); err != nil {
		err = fault.All(err, rb.holds.releaseOthers(ctx, true))
		f := fault.New(fault.MountFailed, "the volumes are rolled back, but not mounted: %w", err)
		return f.WithHint("%s; the same task again mounts them and starts the services", cmp.Or(f.Hint, "mend the cause"))
	}
	rb.volumes.enforceQuotas(ctx)
	rb.steps.enter(stepStarting)
	if err := rb.startServices(ctx); err != nil {
		return err
	}
	rb.steps.enter(StepStarted)
	return nil
}

// retake takes the same set again, for rehearsals. LVM takes no thick snapshot of a volume that is merging, so for
// thick members the services wait until the merge is finished. Thin members are already merged here.
func (rb *rollback) retake(ctx context.Context) error {
	if err := rb.merges.wait(ctx); err != nil {
		return err
	}
	var volumes []snapset.Volume
	for _, m := range rb.state.Members {
		v := snapset.Volume{Name: m.origin()}
		if m.COWSize > 0 {
			v.Size = sizeInBytes(m.COWSize)
		}
		volumes = append(volumes, v)
	}
	ownEntry := rb.run.Entry()
	defer rb.run.Resume(ownEntry)
	sets := rb.server.Sets
	sets.Runner = rb.commands
	_, err := sets.Apply(ctx, rb.run, snapset.Request{
		State: snapset.Present, Set: rb.state.Set, Volumes: volumes, FreezeTimeout: time.Minute, NoPostgreSQL: true,
	})
	return err
}

// startServices starts the services that were active, unless they are to stay stopped, and ends the hold of their
// units.
func (rb *rollback) startServices(ctx context.Context) error {
	if err := rb.holds.releaseOthers(ctx, !rb.state.Start); err != nil {
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
