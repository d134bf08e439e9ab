package rollback

import (
	"context"
	"encoding/json"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// selection is what the request selects: the members' snapshots, with the view of the server in which they were found.
type selection struct {
	view      *snapset.View
	set       *snapset.Set  // nil if the request names single snapshots
	snapshots []*lvm.Volume // one for each member
}

// selectAndLock finds the snapshots, takes the locks of their volume groups, and finds the snapshots again if another
// run may have changed something before the locks were taken. If the journal shows that this rollback was made before,
// or is under way, it also returns the journal entry.
func (p *planner) selectAndLock(ctx context.Context) (*selection, *journal.Entry, error) {
	sel, err := p.selectSnapshots(ctx)
	if err != nil {
		return nil, nil, err
	}
	if p.run != nil {
		p.run.WaitAtMost(p.Timeout)
		locks := p.groupsToLock(sel)
		if p.Resnapshot {
			locks = append(locks, journey.SetLock(p.Set))
		}
		stale, err := p.run.Lock(ctx, locks, "lvm_merge "+p.name(), p.startedAt)
		if err != nil {
			return nil, nil, err
		}
		if stale {
			if sel, err = p.selectSnapshots(ctx); err != nil {
				return nil, nil, err
			}
		}
	}
	earlier, err := p.earlierRollback(sel)
	if err != nil || earlier != nil {
		return sel, earlier, err
	}
	if len(sel.snapshots) == 0 {
		return nil, nil, p.notFound(sel)
	}
	return sel, nil, nil
}

// selectSnapshots finds the snapshots of the request. If there are none, that is no fault yet: the journal may explain
// why.
func (p *planner) selectSnapshots(ctx context.Context) (*selection, error) {
	report, err := p.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := p.server.Host.Mounts()
	if err != nil {
		return nil, err
	}
	sel := &selection{view: p.server.Sets.View(report, mounts)}
	if len(p.Snapshots) > 0 {
		return sel, p.selectNamed(sel)
	}
	if sel.set, err = snapset.Find(report, p.Set); err != nil {
		return nil, err
	}
	if sel.set != nil {
		sel.snapshots = sel.set.Snapshots
	}
	return sel, nil
}

// selectNamed finds the snapshots that the request names one by one. If none of them exists, that is no fault yet: the
// journal may explain why.
func (p *planner) selectNamed(sel *selection) error {
	var errs []error
	for _, name := range p.Snapshots {
		v, ok := sel.view.Report.ByPath(name)
		if !ok {
			errs = append(errs, fault.New(fault.NotFound, "there is no snapshot %s", name).
				WithHint("lvs -o lv_name,origin lists the snapshots"))
			continue
		}
		if !v.IsSnapshot() {
			errs = append(errs, fault.New(fault.BadArguments, "%s is no snapshot", v.FullName()).
				WithHint("lvs -o lv_name,origin lists the snapshots"))
		}
		sel.snapshots = append(sel.snapshots, v)
	}
	if len(sel.snapshots) == 0 {
		return nil
	}
	return fault.All(errs...)
}

// groupsToLock returns the volume groups of the selected snapshots, or, if there are none, those that the journal has
// for this rollback.
func (p *planner) groupsToLock(sel *selection) []string {
	var groups []string
	for _, v := range sel.snapshots {
		groups = append(groups, v.VG)
	}
	if len(groups) > 0 {
		return groups
	}
	list, _ := journal.Read(p.server.JournalDir) // Lock reports a damaged entry
	return recordedGroups(list, p.name())
}

// recordedGroups returns the volume groups of the unfinished entry of that name. Settling it may show that it is a
// rollback whose own entry was rolled back. If no entry is unfinished, recordedGroups returns the groups of the newest
// rollback of that name.
func recordedGroups(list []*journal.Entry, name string) []string {
	for _, e := range list {
		if e.Set == name && e.Outcome == journal.Unfinished {
			return e.Groups
		}
	}
	if e := newestOf(list, name); e != nil {
		return e.Groups
	}
	return nil
}

// newestOf returns the newest rollback of this name that was not undone, of a list of entries that begins with the
// newest; nil if there is none.
func newestOf(list []*journal.Entry, name string) *journal.Entry {
	for _, e := range list {
		if e.Set != name || e.Outcome == journal.Undone {
			continue
		}
		if e.Kind == Kind || e.Step == snapset.StepRolledBack {
			return e
		}
		if e.Kind == snapset.Kind && e.Outcome == journal.Done && e.Step != snapset.StepMounted {
			return nil // a set of that name was taken or removed since
		}
	}
	return nil
}

// earlierRollback returns the entry of the same rollback if it was already made or is under way, otherwise nil. A
// rollback to an older set with the same name is not the same rollback.
func (p *planner) earlierRollback(sel *selection) (*journal.Entry, error) {
	list, _ := journal.Read(p.server.JournalDir) // Lock reports a damaged entry
	return sameRollback(newestOf(list, p.name()), sel.snapshots)
}

// sameRollback returns e if no snapshot is left, or if e is a rollback under way that all these snapshots are members
// of. Otherwise it returns nil.
func sameRollback(e *journal.Entry, snapshots []*lvm.Volume) (*journal.Entry, error) {
	if e == nil || len(snapshots) == 0 {
		return e, nil
	}
	if e.Kind == snapset.Kind { // the entry was rolled back to when the set was being taken, and names no snapshot UUIDs
		if snapset.AllMerging(snapshots) {
			return e, nil
		}
		return nil, nil
	}
	var st State
	if err := json.Unmarshal(e.State, &st); err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	for _, v := range snapshots {
		if !st.hasSnapshot(v) {
			return nil, nil
		}
	}
	if e.Outcome == journal.Done {
		return nil, nil // its snapshots cannot be here any more: somebody else has changed the volumes since
	}
	return e, nil
}

// notFound returns the fault for a set or for snapshots that do not exist. Its hint names snapshots that were made by
// hand with the names that the snapshots of the set would have.
func (p *planner) notFound(sel *selection) error {
	if len(p.Snapshots) > 0 {
		return fault.New(fault.NotFound, "there is no snapshot %s", strings.Join(p.Snapshots, ", ")).
			WithHint("lvs -o lv_name,origin lists the snapshots")
	}
	var byHand []string
	for gi := range sel.view.Report.Groups {
		for vi := range sel.view.Report.Groups[gi].Volumes {
			v := &sel.view.Report.Groups[gi].Volumes[vi]
			if _, ours := snapset.LabelOf(v); v.IsSnapshot() && !ours && v.Name == snapset.SnapshotName(v.Origin, p.Set) {
				byHand = append(byHand, v.FullName())
			}
		}
	}
	f := fault.New(fault.NotFound, "%s", snapset.None(sel.view.Report, p.Set))
	if warnings := sel.view.Report.Warnings; len(warnings) > 0 {
		return f.With("warnings", warnings).WithHint("LVM could not read everything: see warnings")
	}
	if len(byHand) > 0 {
		return f.WithHint("snapshots made by hand are named one by one: lvm_merge snapshots=%s", joinSorted(byHand))
	}
	return f.WithHint("lvm_snapshot_info lists the sets there are")
}
