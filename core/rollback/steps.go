package rollback

import (
	"cmp"
	"context"
	"strings"
	"time"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// backLimit bounds the way back to running services after a rollback that did not reach its point of no return; of it,
// backKeep is kept back for what follows the mounts, which may hang on a disk that does not answer.
const backLimit, backKeep = 10 * time.Minute, time.Minute

// stopKeep is how much of the time for everything is kept back for the steps after the services' stop.
const stopKeep = 30 * time.Second

// descend goes down to the point of no return: nothing runs, nothing is mounted, and everything is checked again.
func (w *walk) descend(ctx context.Context, kill []condemned) error {
	if err := w.installGuard(); err != nil {
		return err
	}
	w.trip.Progress("stopping services", -1)
	w.state.Stopped = time.Now()
	if err := w.record(stepStopping, w.state); err != nil {
		return err
	}
	if err := w.systemd.Stop(ctx, w.state.Services, w.stopLimit(ctx)); err != nil {
		return err
	}
	if err := end(ctx, kill); err != nil {
		return err
	}
	w.systemd.Rest()
	w.trip.Progress("unmounting", -1)
	if err := w.record(stepUnmounting, nil); err != nil {
		return err
	}
	if err := w.unmount(ctx); err != nil {
		return err
	}
	failpoint.Hit("rollback.unmounted")
	// A merge that waits for LVM's lock could begin at any later time, and services could not start until then.
	if err := w.lvm.AwaitUnlocked(ctx, w.state.groups(), lookLimit); err != nil {
		return err
	}
	return w.closed(ctx)
}

func (w *walk) stopLimit(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return w.Timeout
	}
	return max(time.Until(deadline)-stopKeep, time.Until(deadline)/2)
}

// recheck looks once more when nothing writes any more: while the services stopped, a COW may have filled, and somebody
// may have opened a volume. It asks the kernel, which is exact and quick.
func (w *walk) recheck(ctx context.Context) error {
	status, err := w.lvm.Status(ctx)
	if err != nil {
		return err
	}
	info, err := w.lvm.Info(ctx)
	if err != nil {
		return err
	}
	var wrong []error
	for _, m := range w.state.Members {
		if info[m.DMName].Open > 0 || info[m.SnapshotDM].Open > 0 {
			wrong = append(wrong, fault.New(fault.Busy, "%s or its snapshot is still open after the unmount", m.origin()).
				WithHint("dmsetup info -c -o name,open %s %s; lsof /dev/%s", m.DMName, m.SnapshotDM, m.origin()))
		}
		if m.Thin {
			continue
		}
		targets := status[m.SnapshotDM]
		if len(targets) != 1 {
			wrong = append(wrong, fault.New(fault.SnapshotInvalid, "%s is not active any more", m.snapshot()).
				WithHint("lvs -a %s; lvchange -ay %s", m.VG, m.snapshot()))
			continue
		}
		snap, ok := targets[0].Snapshot()
		if !ok || snap.Lost() {
			wrong = append(wrong, fault.New(fault.SnapshotInvalid, "%s overflowed while the services stopped", m.snapshot()).
				With("snapshots", []map[string]any{{"snapshot": m.snapshot(), "volume": m.origin(), "state": "invalid"}}).
				WithHint("what it held is lost, so nothing was rolled back; a set: lvm_snapshot state=absent removes it; by itself: lvremove %s", m.snapshot()))
			continue
		}
		m.Used = snap.UsedBytes()
		wrong = append(wrong, m.stillSpares(status))
	}
	err = fault.All(wrong...)
	w.ready = err == nil
	return err
}

// back undoes what was done before the point of no return and reports why.
func (w *walk) back(ctx context.Context, because error) error {
	w.trip.Progress("undoing", -1)
	if err := w.undo(context.WithoutCancel(ctx)); err != nil {
		return fault.All(because, err)
	}
	return because
}

// undo mounts and starts everything again, also where the journal cannot be written. Each part of it may have been done
// before. No boot merges after it, whatever step the journal has: LVM's metadata shows that no merge has begun.
func (w *walk) undo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backLimit)
	defer cancel()
	w.reached(stepUndoing)
	err := w.unprotect(ctx)
	if err == nil {
		mounting, cancel := context.WithTimeout(ctx, backLimit-backKeep)
		err = w.bringUp(mounting, w.state.Mounts)
		cancel()
	}
	if err != nil {
		err = fault.All(err, w.letOthersGo(ctx, true), w.leftDown())
	} else {
		w.mountSet(ctx)
		err = w.letOthersGo(ctx, false)
		err = fault.All(err, w.startAll(ctx, w.state.Services))
	}
	if err != nil {
		return fault.New(fault.Of(err).Code, "and on the way back: %w", fault.All(err, w.unwritten))
	}
	return w.undone(ctx)
}

// undone closes the entry of a rollback of which nothing is left. A record that cannot be written is removed, which
// takes no room: without one no rollback is known.
func (w *walk) undone(ctx context.Context) error {
	w.dropMetadata()
	if err := w.removeGuard(ctx); err != nil {
		return err
	}
	err := w.trip.Finish(stepUndone, journal.Undone, w.state)
	w.unwritten = nil
	if err == nil {
		return nil
	}
	if stays := w.trip.Journal.Forget(w.entry()); stays != nil {
		return fault.New(fault.Of(unwritten(err)).Code, "all is as it was, but the journal does not say so: %w; %w",
			err, stays).
			WithHint("every later run tries it again; or remove %s/%s.json", journalDir, w.entry().ID)
	}
	w.entry().Step, w.entry().Outcome = stepUndone, journal.Undone
	return nil
}

// startAll starts what was active of a plan; a unit that fails is an error.
func (w *walk) startAll(ctx context.Context, p service.Plan) error {
	failures, err := w.systemd.Start(ctx, p)
	errs := []error{err}
	for _, f := range failures {
		errs = append(errs, f)
	}
	return fault.All(errs...)
}

// leftDown says what is not mounted on the way back. Services that started all the same would write into the directories
// below the mount points, where nobody looks for it.
func (w *walk) leftDown() error {
	var lack []string
	mounts, err := filesystem.Mounts()
	for _, spec := range w.state.Mounts {
		if err != nil || !isMounted(mounts, spec) {
			lack = append(lack, spec.Point)
		}
	}
	hint := "run the same task again, which tries again"
	if len(lack) > 0 {
		hint += ", or mount " + strings.Join(lack, ", ") + " by hand"
	}
	if active := w.state.Services.Active; len(active) > 0 {
		hint += "; once all is mounted: systemctl start " + strings.Join(active, " ")
	}
	if len(lack) == 0 { // a crypt device that is not mounted, or an automount
		lack = origins(w.state.Members)
	}
	return fault.New(fault.MountFailed, "the services stay stopped, because they would miss %s", strings.Join(lack, ", ")).WithHint("%s", hint)
}

// ascend merges, and goes on until the volumes are in use again. Each part looks at what is left to do. Once the
// merges have begun, nothing waits for the journal: whoever comes next finds in LVM's metadata what it does not say.
func (w *walk) ascend(ctx context.Context) error {
	// Before this point an interruption turns back; from here it would only stop half-way.
	ctx = context.WithoutCancel(ctx)
	defer w.join()
	if err := w.merge(ctx); err != nil {
		return err
	}
	w.dropMetadata()
	w.reached(stepMounting)
	w.state.Trouble = w.notRolledBack() // not of a way that was interrupted
	if w.Resnapshot || w.state.Resnapshot {
		if err := w.retake(ctx); err != nil {
			w.state.Trouble = append(w.state.Trouble, fault.New(fault.Of(err).Code, "set %s was not taken again: %w", w.state.Set, err))
		}
	}
	snapset.Tidy(points(w.state.SetMounts))
	w.trip.Progress("mounting", -1)
	if err := w.bringUp(ctx, w.state.Mounts); err != nil {
		err = fault.All(err, w.letOthersGo(ctx, true))
		f := fault.New(fault.MountFailed, "the volumes are rolled back, but not mounted: %w", err)
		return f.WithHint("%s; the same task again mounts them and starts the services", cmp.Or(f.Hint, "mend the cause"))
	}
	w.reached(stepStarting)
	if err := w.start(ctx); err != nil {
		return err
	}
	w.reached(StepStarted)
	return nil
}

// notRolledBack says which members are not rolled back because they were lost. Services are not started on such a
// mix: whether that can be wanted, only people know.
func (w *walk) notRolledBack() []*fault.Error {
	var left []string
	for _, m := range w.state.Members {
		if m.Lost {
			left = append(left, m.origin())
		}
	}
	if len(left) == 0 {
		return nil
	}
	w.state.Start = false
	hint := "what the volumes hold is of different times: restore " + strings.Join(left, ", ") + " from a backup"
	if active := w.state.Services.Active; len(active) > 0 {
		hint += ", or start the services as it is: systemctl start " + strings.Join(active, " ")
	}
	return []*fault.Error{fault.New(fault.SnapshotInvalid, "%s is not: its snapshot was lost before its merge began; the services are left stopped",
		strings.Join(left, ", ")).WithHint("%s", hint)}
}

// start starts the services that were active, unless they are to stay down for a look.
func (w *walk) start(ctx context.Context) error {
	if err := w.letOthersGo(ctx, !w.state.Start); err != nil {
		return fault.New(fault.ServiceFailed, "the volumes are rolled back and mounted, but %w", err)
	}
	if w.state.Start {
		w.trip.Progress("starting services", -1)
		ctx, cancel := context.WithTimeout(ctx, max(w.Timeout, backLimit))
		defer cancel()
		failures, err := w.systemd.Start(ctx, w.state.Services)
		if err != nil {
			return fault.New(fault.ServiceFailed, "the volumes are rolled back and mounted, but the services did not start: %w", err).
				WithHint("systemctl start %s", strings.Join(w.state.Services.Active, " "))
		}
		w.state.Failures = failures
	}
	if !w.state.Stopped.IsZero() {
		w.state.Downtime = time.Since(w.state.Stopped)
	}
	return nil
}
