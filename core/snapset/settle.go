package snapset

import (
	"context"
	"encoding/json"
	"os"
	"slices"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// settle undoes a set that was not finished. If only the last step is missing from the journal, the set is undone too:
// nobody was told that it exists.
func (s Server) settle(ctx context.Context, run *journey.Run, e *journal.Entry) error {
	p, err := PlanOf(e)
	if err != nil {
		return err
	}
	_ = os.Remove(s.journalReserve(p.ID))
	l := s.LVM(s.Runner)
	remaining, journalVolume, err := s.findJournalRollback(ctx, run, l, e, p)
	switch {
	case err != nil:
		return err
	case journalVolume != nil && AllMerging(remaining):
		return finishMerges(ctx, run, l, remaining, journalVolume)
	case journalVolume != nil:
		return run.Finish("taken", journal.Done, nil)
	}
	// An lvcreate of the killed run, or one that outlived its limit, may still be about to make a snapshot.
	if err := journey.AwaitCommands(ctx, e); err != nil {
		return err
	}
	if err := Undo(ctx, l, p); err != nil {
		return err
	}
	return run.Finish("undone", journal.Undone, nil)
}

// release immediately lets writes go on that wait for a set which cannot be finished any more.
func (s Server) release(e *journal.Entry) error {
	p, err := PlanOf(e)
	if err != nil {
		return err
	}
	return p.resumeWrites(s.LVM(s.Runner))
}

// PlanOf reads the plan of a set from its journal entry. Fault: journal_damaged.
func PlanOf(e *journal.Entry) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(e.State, &p); err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	return &p, nil
}

// AllMerging says that LVM merges all of the snapshots, or has marked them to be merged. It is true if there are none.
func AllMerging(snapshots []*lvm.Volume) bool {
	return !slices.ContainsFunc(snapshots, func(v *lvm.Volume) bool { return !v.Merging })
}

// finishMerges has LVM finish merges that began when the server booted, closes the journal entry, and removes
// RollbackTag's tag from journalVolume, the volume that holds the journal. The merge of a root file system begins
// before any program that could watch it: seen on Debian 12, LVM does not learn by itself that the kernel is done.
func finishMerges(
	ctx context.Context, run *journey.Run, l *lvm.LVM, merging []*lvm.Volume, journalVolume *lvm.Volume,
) error {
	var origins []string
	for _, v := range merging {
		origins = append(origins, v.VG+"/"+v.Origin)
	}
	if err := l.Poll(ctx, origins...); err != nil {
		return err
	}
	if err := run.Finish(StepRolledBack, journal.Done, nil); err != nil {
		return err
	}
	if id, ok := journalVolume.Tag(tagRollback); ok {
		return l.DelTags(ctx, []string{RollbackTag(id)}, journalVolume.FullName())
	}
	return nil
}

// findJournalRollback recognizes that the journal itself was rolled back to the set that its entry e says is being
// taken. That happens if the volume that holds the journal is a member: a rollback brings the journal back as it was at
// the set's instant, while the set was being taken. The set was finished all the same, so its snapshots must not be
// removed. findJournalRollback returns the snapshots that remain of the set, and the volume that holds the journal; nil
// if there was no such rollback.
//
// A set that was not finished is never rolled back to, and its snapshots lack the tag with the number of members. The
// snapshot of the volume that holds the journal is made first and removed last. So if it is missing, either there was
// such a rollback, or there is no snapshot of the set at all. If no snapshot remains, RollbackTag tells these two cases
// apart. While LVM does not see one of the set's volume groups, it cannot be told (not_found).
func (s Server) findJournalRollback(
	ctx context.Context, run *journey.Run, l *lvm.LVM, e *journal.Entry, p *Plan,
) (remaining []*lvm.Volume, journalVolume *lvm.Volume, err error) {
	if p.ID == "" || run.Journal.ThisBoot(e) {
		return nil, nil, nil
	}
	report, err := l.Report(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := p.checkVisible(report); err != nil {
		return nil, nil, err
	}
	mounts, err := s.Mounts()
	if err != nil {
		return nil, nil, err
	}
	journalMount, err := filesystem.Holding(mounts, s.View(report, mounts).Journal)
	if err != nil {
		return nil, nil, err
	}
	remaining, journalVolume = p.journalRollback(report, journalMount.Point)
	return remaining, journalVolume, nil
}

// journalRollback is findJournalRollback for a journal that lies on the mount point journalPoint.
func (p *Plan) journalRollback(
	r *lvm.Report, journalPoint string,
) (remaining []*lvm.Volume, journalVolume *lvm.Volume) {
	remaining = p.snapshots(r)
	isUnfinished := func(s *lvm.Volume) bool {
		label, _ := LabelOf(s)
		return label.Count == 0
	}
	if slices.ContainsFunc(remaining, isUnfinished) {
		return nil, nil
	}
	for _, m := range p.Members {
		isOfMember := func(s *lvm.Volume) bool { return s.VG == m.VG && s.Name == m.Snapshot && !s.Merging }
		journalVolume, found := r.Volume(m.VG, m.LV)
		if !found || !slices.Contains(m.Points, journalPoint) || slices.ContainsFunc(remaining, isOfMember) {
			continue
		}
		if len(remaining) > 0 || slices.Contains(journalVolume.Tags, RollbackTag(p.ID)) {
			return remaining, journalVolume
		}
	}
	return nil, nil
}
