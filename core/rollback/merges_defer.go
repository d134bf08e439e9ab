package rollback

import (
	"context"
	"io"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/snapset"
)

// deferAll has LVM defer the merges of the members. LVM commits one merge after the other, and the power may fail
// between two of them. Therefore the member that holds the journal comes last, when LVM shows all others as deferred.
// If it were merged without them, the journal would be rolled back with it, and nobody would know that the others are
// to be merged.
func (mg *merges) deferAll(ctx context.Context, others []*Member, journalMember *Member) error {
	if err := mg.lvm.Merge(ctx, snapshotNames(others)...); err != nil || journalMember == nil {
		return err
	}
	states, err := mg.survey.states(ctx)
	if err != nil {
		return err
	}
	if len(membersIn(states, others, stateDeferred)) < len(others) {
		return fault.New(fault.MergeFailed, "LVM did not defer the merge of %s, and reports no error",
			strings.Join(snapshotNames(others), ", "))
	}
	failpoint.Hit("rollback.deferred.others")
	if err := mg.tagJournalMember(ctx, journalMember); err != nil {
		return err
	}
	return mg.lvm.Merge(ctx, journalMember.snapshot())
}

// openDevices are devices that are held open.
type openDevices []io.Closer

// openMembers opens the devices of all members while LVM is told to merge them. Without that LVM would begin at once to
// merge those that are closed, and they would be rolled back while the others still wait.
func (mg *merges) openMembers() (openDevices, error) {
	var devices openDevices
	for _, m := range mg.state.Members {
		f, err := mg.server.Host.Open("/dev/" + m.origin())
		if err != nil {
			devices.close()
			return nil, fault.New(fault.Busy, "open %s, so that its merge waits as the others do: %w", m.origin(), err).
				WithHint("lvchange -ay %s", m.origin())
		}
		devices = append(devices, f)
	}
	return devices, nil
}

func (devices openDevices) close() {
	for _, f := range devices {
		_ = f.Close()
	}
}

// tagJournalMember tags the member that holds the journal, so that the tag tells of the rollback after the journal has
// been rolled back: see snapset.RollbackTag.
func (mg *merges) tagJournalMember(ctx context.Context, journalMember *Member) error {
	if mg.state.ID == "" { // of snapshots made by hand the journal has no entry
		return nil
	}
	return mg.lvm.AddTags(ctx, []string{snapset.RollbackTag(mg.state.ID)}, journalMember.origin())
}

// deferRemaining has LVM defer the merges that a killed run had not come to.
func (mg *merges) deferRemaining(ctx context.Context, notBegun []*Member) error {
	devices, err := mg.openMembers()
	if err != nil {
		return err
	}
	defer devices.close()
	var journalMember *Member
	others := slices.DeleteFunc(slices.Clone(notBegun), func(m *Member) bool {
		if m.origin() == mg.state.Home {
			journalMember = m
		}
		return m == journalMember
	})
	return mg.deferAll(ctx, others, journalMember)
}

// waitingJournalMember returns the member that holds the journal, if LVM was not told to merge it while the others
// merge; otherwise nil.
func (mg *merges) waitingJournalMember(ctx context.Context) (*Member, error) {
	for _, m := range mg.state.Members {
		if mg.entry().Step != StepDeferred || m.origin() != mg.state.Home {
			continue
		}
		states, err := mg.survey.states(ctx)
		if err != nil || states[m] != stateWaiting {
			return nil, err
		}
		return m, nil
	}
	return nil, nil
}
