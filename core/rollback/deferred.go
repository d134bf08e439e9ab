package rollback

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// deferMerges has LVM merge the members at their next activation, which for most is the next boot. journalMember is the
// member that holds the journal; nil if none does.
func (rb *rollback) deferMerges(ctx context.Context, journalMember *Member) (ansible.Result, error) {
	rb.state.Services = service.Plan{}
	if journalMember != nil {
		rb.state.Home = journalMember.origin()
	}
	if err := rb.reserveSpace(); err != nil {
		return ansible.Result{}, err
	}
	defer rb.releaseSpace()
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), stepChecked, rb.state); err != nil {
		return ansible.Result{}, rb.journalFault(err)
	}
	if err := rb.installGuard(); err != nil {
		return ansible.Result{}, rb.abort(ctx, err)
	}
	if err := rb.record(StepDeferred, rb.state); err != nil {
		return ansible.Result{}, rb.abort(ctx, err)
	}
	devices, err := rb.openMembers()
	if err != nil {
		return ansible.Result{}, rb.abort(ctx, err)
	}
	defer devices.close()
	rb.run.Extend(2*lvm.ChangeLimit + undoLimit)
	if err := rb.tellLVMToDefer(ctx, rb.membersExcept(journalMember), journalMember); err != nil {
		return rb.afterRefusedDefer(ctx, err)
	}
	return rb.result(true, rb.entry()), nil
}

// tellLVMToDefer has LVM defer the merges of the members. LVM commits one merge after the other, and the power may fail
// between two of them. Therefore the member that holds the journal comes last, when LVM shows all others as deferred.
// If it were merged without them, the journal would be rolled back with it, and nobody would know that the others are
// to be merged.
func (rb *rollback) tellLVMToDefer(ctx context.Context, others []*Member, journalMember *Member) error {
	if err := rb.lvm.Merge(ctx, snapshotNames(others)...); err != nil || journalMember == nil {
		return err
	}
	states, err := rb.memberStates(ctx)
	if err != nil {
		return err
	}
	if len(membersIn(states, others, stateDeferred)) < len(others) {
		return fault.New(fault.MergeFailed, "LVM did not defer the merge of %s, and reports no error",
			strings.Join(snapshotNames(others), ", "))
	}
	failpoint.Hit("rollback.deferred.others")
	if err := rb.tagJournalMember(ctx, journalMember); err != nil {
		return err
	}
	return rb.lvm.Merge(ctx, journalMember.snapshot())
}

// membersExcept returns all members but one.
func (rb *rollback) membersExcept(excluded *Member) []*Member {
	return slices.DeleteFunc(slices.Clone(rb.state.Members), func(m *Member) bool { return m == excluded })
}

// findJournalMember returns the member whose file system holds the journal, in most cases the root volume; nil if none
// does.
func (rb *rollback) findJournalMember(f *findings) (*Member, error) {
	view := f.selection.view
	journalMount, err := filesystem.Holding(view.Mounts, view.Journal)
	if err != nil {
		return nil, err
	}
	for i := range f.targets {
		if f.targets[i].FS == journalMount.Dev {
			return rb.state.Members[i], nil
		}
	}
	return nil, nil
}

// openDevices are devices that are held open.
type openDevices []io.Closer

// openMembers opens the devices of all members while LVM is told to merge them. Without that LVM would begin at once to
// merge those that are closed, and they would be rolled back while the others still wait.
func (rb *rollback) openMembers() (openDevices, error) {
	var devices openDevices
	for _, m := range rb.state.Members {
		f, err := rb.server.Host.Open("/dev/" + m.origin())
		if err != nil {
			devices.close()
			return nil, fault.New(fault.Busy, "open %s, so that its merge waits as the others do: %w", m.origin(), err).
				WithHint("lvchange -ay %s", m.origin())
		}
		devices = append(devices, f)
	}
	return devices, nil
}

// tagJournalMember tags the member that holds the journal, so that the tag tells of the rollback after the journal has
// been rolled back: see snapset.RollbackTag.
func (rb *rollback) tagJournalMember(ctx context.Context, journalMember *Member) error {
	if rb.state.ID == "" { // of snapshots made by hand the journal has no entry
		return nil
	}
	return rb.lvm.AddTags(ctx, []string{snapset.RollbackTag(rb.state.ID)}, journalMember.origin())
}

func (devices openDevices) close() {
	for _, f := range devices {
		_ = f.Close()
	}
}

// afterRefusedDefer decides what becomes of a deferred rollback after LVM refused a merge. If LVM refused all members,
// the rollback is undone. Otherwise the members that LVM took are merged at their next activation, and nothing can undo
// that. While LVM's command is still running nothing is decided: settle does that.
func (rb *rollback) afterRefusedDefer(ctx context.Context, cause error) (ansible.Result, error) {
	if errors.Is(cause, lvm.ErrUnfinished) {
		return rb.result(true, rb.entry()), fault.New(fault.Of(cause).Code,
			"whether LVM merges the volumes at the next boot cannot be found out yet: %w", cause).
			WithHint("wait for that command and run the same task again before the next boot: it finds out, and has LVM " +
				"defer the merges that are missing")
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), resultLimit)
	defer cancel()
	states, lostErr, err := rb.survey(limited)
	if err != nil {
		return rb.result(true, rb.entry()), fault.All(cause, err)
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
		return rb.result(false, rb.entry()), err
	case len(refused) == 0: // LVM has recorded all merges, and only that counts
		return rb.result(true, rb.entry()), nil
	}
	err = fault.New(fault.Of(cause).Code,
		"LVM did not take %s, but %s is merged all the same, at the latest at the next boot, and nothing takes that back: %w",
		strings.Join(snapshotNames(refused), ", "), strings.Join(snapshotNames(taken), ", "), cause).
		WithHint("mend the cause before the next boot, which tries the others again: " +
			"until all are merged it mounts none of the volumes")
	return rb.result(true, rb.entry()), fault.All(err, lostErr)
}

// settleDeferred settles a deferred rollback. In the boot in which it was deferred, it has LVM defer the merges that
// are missing. In a later boot, when no merge is waiting or deferred any more, it records that the rollback was made.
func (rb *rollback) settleDeferred(ctx context.Context) error {
	states, err := rb.memberStates(ctx)
	if err != nil {
		return err
	}
	notBegun := membersIn(states, rb.state.Members, stateWaiting)
	if len(notBegun) > 0 && rb.run.Journal.ThisBoot(rb.entry()) {
		if err := rb.deferRemaining(ctx, notBegun); err != nil {
			journey.LogError(err) // the boot guard tries it again
		}
		return nil
	}
	if len(membersIn(states, rb.state.Members, stateDeferred))+len(notBegun) > 0 {
		return nil
	}
	rb.state.Trouble = rb.notRolledBack()
	rb.enterStep(StepStarted)
	return rb.closeIfMerged(ctx)
}

// deferRemaining has LVM defer the merges that a killed run had not come to.
func (rb *rollback) deferRemaining(ctx context.Context, notBegun []*Member) error {
	devices, err := rb.openMembers()
	if err != nil {
		return err
	}
	defer devices.close()
	var journalMember *Member
	others := slices.DeleteFunc(slices.Clone(notBegun), func(m *Member) bool {
		if m.origin() == rb.state.Home {
			journalMember = m
		}
		return m == journalMember
	})
	return rb.tellLVMToDefer(ctx, others, journalMember)
}

// mergeAndReboot continues, at boot, a deferred rollback during whose preparation the power failed: LVM had deferred
// the merges of the other members, but not that of the member that holds the journal. It has the other members merged.
// The member that holds the journal is in use, so LVM defers its merge to one more boot. mergeAndReboot requests that
// reboot, because no other member may be mounted before it, unless LVM has merged the member at once. A boot that finds
// the merge already deferred does not come here.
func (rb *rollback) mergeAndReboot(ctx context.Context, journalMember *Member) error {
	allMembers := rb.state.Members
	rb.state.Members = rb.membersExcept(journalMember)
	err := rb.merge(ctx)
	rb.awaitLvconvert()
	rb.state.Members = allMembers
	if err != nil {
		return err
	}
	if err := rb.tagJournalMember(ctx, journalMember); err != nil {
		return err
	}
	if err := rb.lvm.Merge(ctx, journalMember.snapshot()); err != nil {
		return err
	}
	states, err := rb.memberStates(ctx)
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
		journalMember.origin(), strings.Join(originNames(rb.membersExcept(journalMember)), ", "))
}

// waitingJournalMember returns the member that holds the journal, if LVM was not told to merge it while the others
// merge; otherwise nil.
func (rb *rollback) waitingJournalMember(ctx context.Context) (*Member, error) {
	for _, m := range rb.state.Members {
		if rb.entry().Step != StepDeferred || m.origin() != rb.state.Home {
			continue
		}
		states, err := rb.memberStates(ctx)
		if err != nil || states[m] != stateWaiting {
			return nil, err
		}
		return m, nil
	}
	return nil, nil
}
