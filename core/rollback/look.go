package rollback

import (
	"context"
	"encoding/json"
	"sort"
	"strings"

	"go.pcc.com/rewind/core/ansible"
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
func (rb *rollback) selectAndLock(ctx context.Context) (*selection, *journal.Entry, error) {
	sel, err := rb.selectSnapshots(ctx)
	if err != nil {
		return nil, nil, err
	}
	if rb.run != nil {
		rb.run.WaitAtMost(rb.Timeout)
		locks := rb.groupsToLock(sel)
		if rb.Resnapshot {
			locks = append(locks, journey.SetLock(rb.Set))
		}
		stale, err := rb.run.Lock(ctx, locks, "lvm_merge "+rb.name(), rb.startedAt)
		if err != nil {
			return nil, nil, err
		}
		if stale {
			if sel, err = rb.selectSnapshots(ctx); err != nil {
				return nil, nil, err
			}
		}
	}
	earlier, err := rb.earlierRollback(sel)
	if err != nil || earlier != nil {
		return sel, earlier, err
	}
	if len(sel.snapshots) == 0 {
		return nil, nil, rb.notFound(sel)
	}
	return sel, nil, nil
}

// selectSnapshots finds the snapshots of the request. If there are none, that is no fault yet: the journal may explain
// why.
func (rb *rollback) selectSnapshots(ctx context.Context) (*selection, error) {
	report, err := rb.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := rb.server.Host.Mounts()
	if err != nil {
		return nil, err
	}
	sel := &selection{view: rb.server.Sets.View(report, mounts)}
	if len(rb.Snapshots) > 0 {
		return sel, rb.selectNamed(sel)
	}
	if sel.set, err = snapset.Find(report, rb.Set); err != nil {
		return nil, err
	}
	if sel.set != nil {
		sel.snapshots = sel.set.Snapshots
	}
	return sel, nil
}

// selectNamed finds the snapshots that the request names one by one. If none of them exists, that is no fault yet: the
// journal may explain why.
func (rb *rollback) selectNamed(sel *selection) error {
	var errs []error
	for _, name := range rb.Snapshots {
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
func (rb *rollback) groupsToLock(sel *selection) []string {
	var groups []string
	for _, v := range sel.snapshots {
		groups = append(groups, v.VG)
	}
	if len(groups) > 0 {
		return groups
	}
	list, _ := journalEntries(rb.server.JournalDir) // Lock reports a damaged entry
	return recordedGroups(list, rb.name())
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

// newestEntry returns the newest rollback of this name that was not undone; nil if there is none.
func (rb *rollback) newestEntry() *journal.Entry {
	list, _ := journalEntries(rb.server.JournalDir) // Lock reports a damaged entry
	return newestOf(list, rb.name())
}

// newestOf is newestEntry for a list of entries that begins with the newest.
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
func (rb *rollback) earlierRollback(sel *selection) (*journal.Entry, error) {
	return sameRollback(rb.newestEntry(), sel.snapshots)
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

// hasSnapshot is true if v is the snapshot of a member.
func (st *State) hasSnapshot(v *lvm.Volume) bool {
	for _, m := range st.Members {
		if m.SnapshotID == v.UUID {
			return true
		}
	}
	return false
}

// answerRevertedJournal answers for a rollback that also rolled back the journal, and with it its own entry: a
// rollback, deferred to a boot, of the volume that holds the journal, such as the root file system. e is the entry of
// the set, which is what the journal shows then. The new entry that is written here makes the rollback known to the
// journal again.
func (rb *rollback) answerRevertedJournal(
	ctx context.Context, sel *selection, e *journal.Entry,
) (ansible.Result, error) {
	p, err := snapset.PlanOf(e)
	if err != nil {
		return ansible.Result{}, err
	}
	rb.state = &State{Set: p.Set, ID: p.ID, Taken: p.Time, Start: true}
	for _, m := range p.Members {
		member := &Member{
			VG: m.VG, LV: m.LV, Snapshot: m.Snapshot, DMName: m.DMName, Thin: m.Thin, Pool: m.Pool, COWSize: m.COW,
		}
		if v, ok := sel.view.Report.Volume(m.VG, m.Snapshot); ok && v.Merging {
			member.SnapshotDM, member.SnapshotID, member.Used = v.DMName, v.UUID, v.COWUsed
		}
		rb.state.Members = append(rb.state.Members, member)
	}
	states, _, err := rb.survey(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	for _, m := range membersIn(states, rb.state.Members, stateLost) {
		m.Lost = true
	}
	rb.state.Trouble = rb.notRolledBack()
	if rb.Check {
		return rb.result(false, &journal.Entry{Step: StepStarted, Begun: e.Begun}), rb.failure()
	}
	if err := rb.run.Begin(Kind, rb.name(), rb.state.groups(), StepStarted, rb.state); err != nil {
		return ansible.Result{}, err
	}
	return rb.answerAndFinish(ctx, false)
}

// answerEarlier answers for a rollback that was made before. It starts the units that did not start after that
// rollback. What failed then and still fails is a failure of this call too, because the earlier call may never have
// been answered, as after a power cut.
func (rb *rollback) answerEarlier(ctx context.Context, e *journal.Entry) (ansible.Result, error) {
	rb.state = &State{}
	if err := json.Unmarshal(e.State, rb.state); err != nil {
		return ansible.Result{}, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	rb.addLeftStopped()
	if err := rb.dropRunning(ctx, rb.systemd.Active); err != nil {
		return ansible.Result{}, err
	}
	if rb.Check {
		return rb.answerEarlierCheck(e)
	}
	if err := rb.startFailed(ctx, rb.systemd.Start); err != nil {
		return ansible.Result{}, err
	}
	if e.Outcome == journal.Done {
		return rb.result(len(rb.unitsStartedNow) > 0, e), rb.failure()
	}
	rb.run.Resume(e)
	if e.Step == stepMerging {
		e.Step = StepStarted // this run has just settled it, and could not write that to the journal
	}
	if e.Step == StepDeferred {
		return rb.result(false, e), nil
	}
	settledNow := e.Updated.After(rb.startedAt) // this run has settled it while it took the locks
	return rb.answerAndFinish(ctx, len(rb.unitsStartedNow) > 0 || settledNow)
}

// notFound returns the fault for a set or for snapshots that do not exist. Its hint names snapshots that were made by
// hand with the names that the snapshots of the set would have.
func (rb *rollback) notFound(sel *selection) error {
	if len(rb.Snapshots) > 0 {
		return fault.New(fault.NotFound, "there is no snapshot %s", strings.Join(rb.Snapshots, ", ")).
			WithHint("lvs -o lv_name,origin lists the snapshots")
	}
	var byHand []string
	for gi := range sel.view.Report.Groups {
		for vi := range sel.view.Report.Groups[gi].Volumes {
			v := &sel.view.Report.Groups[gi].Volumes[vi]
			if _, ours := snapset.LabelOf(v); v.IsSnapshot() && !ours && v.Name == snapset.SnapshotName(v.Origin, rb.Set) {
				byHand = append(byHand, v.FullName())
			}
		}
	}
	f := fault.New(fault.NotFound, "%s", snapset.None(sel.view.Report, rb.Set))
	if warnings := sel.view.Report.Warnings; len(warnings) > 0 {
		return f.With("warnings", warnings).WithHint("LVM could not read everything: see warnings")
	}
	if len(byHand) > 0 {
		return f.WithHint("snapshots made by hand are named one by one: lvm_merge snapshots=%s", joinSorted(byHand))
	}
	return f.WithHint("lvm_snapshot_info lists the sets there are")
}

// joinSorted returns the names in alphabetical order, separated by commas.
func joinSorted(names []string) string {
	sorted := append([]string(nil), names...)
	sort.Strings(sorted)
	return strings.Join(sorted, ",")
}
