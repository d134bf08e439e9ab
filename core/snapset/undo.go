package snapset

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Undo brings the server back to the state without the planned set, however much of it was done: it lets writes to the
// origins go on, repairs their devices if an LVM command did not finish with them, unmounts what the plan had mounted,
// and removes the snapshots. It goes by what LVM and the kernel say, not by the plan, touches no snapshot with another
// set's ID, and may be called again. A plan without an ID removes no snapshot. A snapshot that somebody has renamed is
// kept: see keepRenamed. Fault: not_found if LVM does not see one of the volume groups, after what lies in the others
// was removed; the next call does the rest.
func Undo(ctx context.Context, l *lvm.LVM, p *Plan) error {
	err := fault.All(p.resumeWrites(l), p.repairOrigins(ctx, l))
	if len(p.Mounted) > 0 {
		err = fault.All(err, unmountTargets(ctx, p.Mounted))
	}
	if err != nil || p.ID == "" && len(p.Members) == 0 {
		return err
	}
	if p.ID != "" {
		_ = os.Remove(lvmReserve(l, p.ID))
	}
	report, err := l.Report(ctx)
	if err != nil {
		return err
	}
	p = p.withCurrentNames(report)
	if err = p.repairOrigins(ctx, l); err != nil || p.ID == "" {
		return err
	}
	snapshots := p.snapshots(report)
	if len(snapshots) == 0 {
		return p.checkVisible(report)
	}
	err = p.removeSnapshots(ctx, l, report, snapshots)
	// A half-made snapshot may have used its origin's devices. They can be repaired once it is removed.
	return fault.All(err, p.repairOrigins(ctx, l))
}

// removeSnapshots removes these snapshots of the set, but for what was renamed, and for what other snapshots were taken
// of (busy). If there may be more of them that LVM does not see, the fault is not_found.
func (p *Plan) removeSnapshots(
	ctx context.Context, l *lvm.LVM, report *lvm.Report, snapshots []*lvm.Volume,
) (err error) {
	// The snapshot of the volume that holds the journal goes last, when no other is left: see findJournalRollback.
	var first, last, renamed []*lvm.Volume
	err = p.checkVisible(report)
	for _, v := range snapshots {
		busy := checkNoThickSnapshots(report, v)
		switch {
		case p.isRenamed(v):
			renamed = append(renamed, v)
		case busy != nil:
			err = fault.All(err, busy)
		case p.isJournalSnapshot(v):
			last = append(last, v)
		default:
			first = append(first, v)
		}
	}
	if err = fault.All(err, p.remove(ctx, l, first)); err == nil {
		err = p.remove(ctx, l, last)
	}
	if err == nil {
		err = p.keepRenamed(ctx, l, renamed)
	}
	return err
}

// isRenamed says whether somebody has given a snapshot of the set another name than the set gave it. The plan of a
// removal does not have the names of the snapshots, which all end in that of the set.
func (p *Plan) isRenamed(snapshot *lvm.Volume) bool {
	isNamed := func(m *Member) bool { return m.Snapshot != "" }
	if !slices.ContainsFunc(p.Members, isNamed) {
		return !strings.HasSuffix(snapshot.Name, SnapshotName("", p.Set))
	}
	return !slices.ContainsFunc(p.Members, func(m *Member) bool { return m.snapshot() == snapshot.FullName() })
}

// keepRenamed takes renamed snapshots out of the set, and logs that they were kept: whoever renames a snapshot wants to
// keep it. If it stayed in the set, no other set of that name could be taken. The rest of the set must be gone: without
// the snapshot of the volume that holds the journal it would look like what findJournalRollback recognizes.
func (p *Plan) keepRenamed(ctx context.Context, l *lvm.LVM, renamed []*lvm.Volume) error {
	if len(renamed) == 0 {
		return nil
	}
	tag := tagID + p.ID
	if err := l.DelTags(ctx, []string{tag}, fullNames(renamed)...); err != nil {
		return err
	}
	for _, v := range renamed {
		journey.LogError(fault.New(fault.SetDiffers, "%s was renamed, so it is kept, though the rest of set %s is removed",
			v.FullName(), p.Set).WithHint("it no longer belongs to the set (it lost the tag %s); lvremove %s removes it",
			tag, v.FullName()))
	}
	return nil
}

// withCurrentNames returns the plan with the names that its origins have now. Somebody may have renamed one since, and
// an LVM command that was killed afterwards has left the device of that name suspended.
func (p *Plan) withCurrentNames(r *lvm.Report) *Plan {
	current := *p
	current.Members = nil
	for _, m := range p.Members {
		now := *m
		if g, ok := r.Group(m.VG); ok && m.UUID != "" {
			for _, v := range g.Volumes {
				if v.UUID == m.UUID {
					now.LV, now.DMName = v.Name, v.DMName
				}
			}
		}
		current.Members = append(current.Members, &now)
	}
	return &current
}

// snapshots returns what there is of the set in the volume groups of its members. Other groups are left out, because a
// copy of a volume group has the same tags.
func (p *Plan) snapshots(r *lvm.Report) []*lvm.Volume {
	var found []*lvm.Volume
	groups := p.Groups()
	for _, v := range r.ByTag(tagID + p.ID) {
		if len(groups) == 0 || slices.Contains(groups, v.VG) {
			found = append(found, v)
		}
	}
	return found
}

// repairOrigins repairs the origins' devices if an LVM command that failed or was killed left them suspended or with a
// prepared table: see lvm.Unsuspend.
func (p *Plan) repairOrigins(ctx context.Context, l *lvm.LVM) error {
	if len(p.Members) == 0 {
		return nil
	}
	return l.Unsuspend(ctx, p.originsByDevice())
}

// remove removes snapshots, when nothing holds them open any more.
func (p *Plan) remove(ctx context.Context, l *lvm.LVM, snapshots []*lvm.Volume) error {
	if len(snapshots) == 0 {
		return nil
	}
	var devices []string
	for _, v := range snapshots {
		devices = append(devices, v.DMName)
	}
	if len(p.Members) > 0 {
		if err := l.DropPrepared(devices...); err != nil {
			return err
		}
	}
	if err := awaitClosed(ctx, l, devices); err != nil {
		return err
	}
	return l.Remove(ctx, snapshots...)
}

// resumeWrites lets writes to the members go on that wait for this set. It starts no program, so it does not have to
// wait.
func (p *Plan) resumeWrites(l *lvm.LVM) error {
	var held, logs []string
	var errs []error
	for _, m := range p.Members {
		switch {
		case m.Method != Held:
		case m.Log: // thawing the file system writes to it, so it is resumed first
			logs = append(logs, m.DMName)
		default:
			held = append(held, m.DMName)
		}
	}
	held = append(logs, held...)
	if len(held) > 0 {
		errs = append(errs, l.Release(held...))
	}
	for _, m := range p.Members {
		if m.Target == nil {
			continue
		}
		// not_found: it was unmounted meanwhile, and is not frozen any more.
		if err := filesystem.ThawMount(*m.Target); !errors.Is(err, fault.NotFound) {
			errs = append(errs, err)
		}
	}
	return fault.All(errs...)
}

// originsByDevice returns the origins, vg/lv, by the names of their devices.
func (p *Plan) originsByDevice() map[string]string {
	out := map[string]string{}
	for _, m := range p.Members {
		out[m.DMName] = m.origin()
	}
	return out
}

// isJournalSnapshot says whether the snapshot is of the volume that holds the journal.
func (p *Plan) isJournalSnapshot(snapshot *lvm.Volume) bool {
	for _, m := range p.Members {
		if m.Home && m.VG == snapshot.VG && m.Snapshot == snapshot.Name {
			return true
		}
	}
	return false
}
