package rollback

import (
	"context"
	"errors"
	"strings"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
)

// deferMerges has LVM merge the members at their next activation, which for most is the next boot. journalMember is the
// member that holds the journal; nil if none does.
func (rb *rollback) deferMerges(ctx context.Context, journalMember *Member) (Result, error) {
	rb.state.Services = service.Plan{}
	if journalMember != nil {
		rb.state.Home = journalMember.origin()
	}
	if err := rb.steps.reserveSpace(); err != nil {
		return Result{}, err
	}
	defer rb.steps.releaseSpace()
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), stepChecked, rb.state); err != nil {
		return Result{}, rb.steps.journalFault(err)
	}
	if err := rb.guard.install(); err != nil {
		return Result{}, rb.abort(ctx, err)
	}
	if err := rb.steps.record(StepDeferred, rb.state); err != nil {
		return Result{}, rb.abort(ctx, err)
	}
	if err := rb.volumes.activateInactive(ctx); err != nil {
		return Result{}, rb.abort(ctx, err)
	}
	devices, err := rb.merges.openMembers()
	if err != nil {
		return Result{}, rb.abort(ctx, err)
	}
	defer devices.close()
	rb.run.Extend(2*lvm.ChangeLimit + undoLimit)
	if err := rb.merges.deferAll(ctx, rb.state.membersExcept(journalMember), journalMember); err != nil {
		return rb.afterRefusedDefer(ctx, err)
	}
	return rb.answers.result(true, rb.entry()), nil
}

// afterRefusedDefer decides what becomes of a deferred rollback after LVM refused a merge. If LVM refused all members,
// the rollback is undone. Otherwise the members that LVM took are merged at their next activation, and nothing can undo
// that. While LVM's command is still running nothing is decided: settle does that.
func (rb *rollback) afterRefusedDefer(ctx context.Context, cause error) (Result, error) {
	if errors.Is(cause, lvm.ErrUnfinished) {
		return rb.answers.result(true, rb.entry()), fault.New(fault.Of(cause).Code,
			"whether LVM merges the volumes at the next boot cannot be found out yet: %w", cause).
			WithHint("wait for that command and run the same task again before the next boot: it finds out, and has LVM " +
				"defer the merges that are missing")
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultLimit)
	defer cancel()
	states, lostErr, err := rb.survey.look(limited)
	if err != nil {
		return rb.answers.result(true, rb.entry()), fault.All(cause, err)
	}
	var refused, taken []*Member
	for _, m := range rb.state.Members {
		if states[m] == stateWaiting || states[m] == stateLost {
			refused = append(refused, m)
		} else {
			taken = append(taken, m)
		}
	}
	switch {
	case len(taken) == 0:
		err := rb.abort(ctx, cause)
		return rb.answers.result(false, rb.entry()), err
	case len(refused) == 0: // LVM has recorded all merges, and only that counts
		return rb.answers.result(true, rb.entry()), nil
	}
	err = fault.New(fault.Of(cause).Code,
		"LVM did not take %s, but %s is merged all the same, at the latest at the next boot, and nothing takes that back: %w",
		strings.Join(snapshotNames(refused), ", "), strings.Join(snapshotNames(taken), ", "), cause).
		WithHint("mend the cause before the next boot, which tries the others again: " +
			"until all are merged it mounts none of the volumes")
	return rb.answers.result(true, rb.entry()), fault.All(err, lostErr)
}

// settleDeferred settles a deferred rollback. In the boot in which it was deferred, it has LVM defer the merges that
// are missing. In a later boot, when no merge is waiting or deferred any more, it records that the rollback was made.
func (rb *rollback) settleDeferred(ctx context.Context) error {
	states, err := rb.survey.states(ctx)
	if err != nil {
		return err
	}
	notBegun := membersIn(states, rb.state.Members, stateWaiting)
	if len(notBegun) > 0 && rb.run.Journal.ThisBoot(rb.entry()) {
		if err := rb.merges.deferRemaining(ctx, notBegun); err != nil {
			journey.LogError(err) // the boot guard tries it again
		}
		return nil
	}
	if len(membersIn(states, rb.state.Members, stateDeferred))+len(notBegun) > 0 {
		return nil
	}
	rb.state.Trouble = rb.state.notRolledBack()
	rb.steps.enter(StepStarted)
	return rb.closeIfMerged(ctx)
}

// mergeAndReboot continues, at boot, a deferred rollback during whose preparation the power failed: LVM had deferred
// the merges of the other members, but not that of the member that holds the journal. It has the other members merged.
// The member that holds the journal is in use, so LVM defers its merge to one more boot. mergeAndReboot requests that
// reboot, because no other member may be mounted before it, unless LVM has merged the member at once. A boot that finds
// the merge already deferred does not come here.
func (rb *rollback) mergeAndReboot(ctx context.Context, journalMember *Member) error {
	allMembers := rb.state.Members
	rb.state.Members = rb.state.membersExcept(journalMember)
	err := rb.merges.begin(ctx)
	rb.merges.awaitLvconvert()
	rb.state.Members = allMembers
	if err != nil {
		return err
	}
	if err := rb.merges.tagJournalMember(ctx, journalMember); err != nil {
		return err
	}
	if err := rb.lvm.Merge(ctx, journalMember.snapshot()); err != nil {
		return err
	}
	states, err := rb.survey.states(ctx)
	if err != nil || states[journalMember] != stateDeferred {
		return err // nothing holds it open, so LVM merges it at once
	}
	reboot := command.Cmd{Argv: []string{"systemctl", "--no-block", "reboot"}, Changes: true}
	if _, err := rb.commands.Run(ctx, reboot); err != nil {
		return fault.New(fault.Busy, "%s is merged at the next boot, and no volume of the set is mounted before: %w",
			journalMember.origin(), err).WithHint("systemctl reboot")
	}
	return fault.New(fault.Busy, "%s is merged at the next boot, and this server reboots now: "+
		"its rollback with %s was interrupted",
		journalMember.origin(), strings.Join(originNames(rb.state.membersExcept(journalMember)), ", "))
}
