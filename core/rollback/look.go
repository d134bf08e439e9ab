package rollback

import (
	"context"
	"encoding/json"
	"sort"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// sight is what was seen of the server for one rollback.
type sight struct {
	view      *snapset.View
	set       *snapset.Set  // nil for snapshots named by hand
	snapshots []*lvm.Volume // the members
}

// look finds the snapshots, takes the locks, and looks again if something may have changed meanwhile. If there is
// nothing left to merge because the journal says it was done, or is being done, it returns that entry.
func (w *walk) look(ctx context.Context) (*sight, *journal.Entry, error) {
	s, err := w.see(ctx)
	if err != nil {
		return nil, nil, err
	}
	if w.trip != nil {
		w.trip.WaitAtMost(w.Timeout)
		locks := w.groupsOf(s)
		if w.Resnapshot {
			locks = append(locks, journey.SetLock(w.Set))
		}
		stale, err := w.trip.Lock(ctx, locks, "lvm_merge "+w.name(), w.begun)
		if err != nil {
			return nil, nil, err
		}
		if stale {
			if s, err = w.see(ctx); err != nil {
				return nil, nil, err
			}
		}
	}
	earlier, err := w.earlier(s)
	if err != nil || earlier != nil {
		return s, earlier, err
	}
	if len(s.snapshots) == 0 {
		return nil, nil, w.notFound(s)
	}
	return s, nil, nil
}

func (w *walk) see(ctx context.Context) (*sight, error) {
	report, err := w.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	s := &sight{view: snapset.NewView(report, mounts)}
	if len(w.Snapshots) > 0 {
		return s, w.seeNamed(s)
	}
	if s.set, err = snapset.Find(report, w.Set); err != nil {
		return nil, err
	}
	if s.set != nil {
		s.snapshots = s.set.Snapshots
	}
	return s, nil
}

// seeNamed finds snapshots by their own names. None of them there is no error yet: the journal may know why.
func (w *walk) seeNamed(s *sight) error {
	var wrong []error
	for _, name := range w.Snapshots {
		v, ok := s.view.Report.ByPath(name)
		if !ok {
			wrong = append(wrong, fault.New(fault.NotFound, "there is no snapshot %s", name).WithHint("lvs -o lv_name,origin lists the snapshots"))
			continue
		}
		if !v.IsSnapshot() {
			wrong = append(wrong, fault.New(fault.BadArguments, "%s is no snapshot", v.FullName()).WithHint("lvs -o lv_name,origin lists the snapshots"))
		}
		s.snapshots = append(s.snapshots, v)
	}
	if len(s.snapshots) == 0 {
		return nil
	}
	return fault.All(wrong...)
}

func (w *walk) groupsOf(s *sight) []string {
	var groups []string
	for _, v := range s.snapshots {
		groups = append(groups, v.VG)
	}
	if len(groups) > 0 {
		return groups
	}
	list, _ := entries(journey.JournalDir) // a damaged one is reported by Lock
	return recordedGroups(list, w.name())
}

// recordedGroups are those of what is still to be settled, which may turn out to be a rollback that took its own record along,
// or else of the newest rollback of that name.
func recordedGroups(entries []*journal.Entry, name string) []string {
	for _, e := range entries {
		if e.Set == name && e.Outcome == journal.Unfinished {
			return e.Groups
		}
	}
	if e := newestOf(entries, name); e != nil {
		return e.Groups
	}
	return nil
}

// newest returns the newest rollback of this name that was not undone.
func (w *walk) newest() *journal.Entry {
	list, _ := entries(journey.JournalDir) // a damaged one is reported by Lock
	return newestOf(list, w.name())
}

// newestOf looks for it in entries, which begin with the newest.
func newestOf(entries []*journal.Entry, name string) *journal.Entry {
	for _, e := range entries {
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

// earlier returns the rollback of what is asked for that was already made, or is on its way. A set of the same name
// that was taken since is another one.
func (w *walk) earlier(s *sight) (*journal.Entry, error) {
	return sameRollback(w.newest(), s.snapshots)
}

// sameRollback returns e if it is a rollback to just these snapshots that is still under way, or one after which none
// is left.
func sameRollback(e *journal.Entry, snapshots []*lvm.Volume) (*journal.Entry, error) {
	if e == nil || len(snapshots) == 0 {
		return e, nil
	}
	if e.Kind == snapset.Kind { // it came back, and knows no more of them than that they were taken
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
		if !st.has(v) {
			return nil, nil
		}
	}
	if e.Outcome == journal.Done {
		return nil, nil // it cannot be done and still there: another hand is at work, so look anew
	}
	return e, nil
}

func (st *State) has(v *lvm.Volume) bool {
	for _, m := range st.Members {
		if m.SnapshotID == v.UUID {
			return true
		}
	}
	return false
}

// cameBack answers for a rollback that took its own record along: that of the volume that holds the journal, such as the
// root file system, deferred to a boot. From here on the journal knows of it again.
func (w *walk) cameBack(ctx context.Context, s *sight, e *journal.Entry) (ansible.Result, error) {
	p, err := snapset.PlanOf(e)
	if err != nil {
		return ansible.Result{}, err
	}
	w.state = &State{Set: p.Set, ID: p.ID, Taken: p.Time, Start: true}
	for _, m := range p.Members {
		member := &Member{VG: m.VG, LV: m.LV, Snapshot: m.Snapshot, DMName: m.DMName, Thin: m.Thin, Pool: m.Pool, COWSize: m.COW}
		if v, ok := s.view.Report.Volume(m.VG, m.Snapshot); ok && v.Merging {
			member.SnapshotDM, member.SnapshotID, member.Used = v.DMName, v.UUID, v.COWUsed
		}
		w.state.Members = append(w.state.Members, member)
	}
	states, _, err := w.survey(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	for _, m := range pick(states, w.state.Members, lost) {
		m.Lost = true
	}
	w.state.Trouble = w.notRolledBack()
	if w.Check {
		return w.result(false, &journal.Entry{Step: StepStarted, Begun: e.Begun}), w.failure()
	}
	if err := w.trip.Begin(Kind, w.name(), w.state.groups(), StepStarted, w.state); err != nil {
		return ansible.Result{}, err
	}
	return w.rest(ctx, false)
}

// again answers for a rollback that was made before. Units that did not start after it are started now; what fails still
// fails this call, too: the call that made it may never have been answered, as after a power cut.
func (w *walk) again(ctx context.Context, e *journal.Entry) (ansible.Result, error) {
	w.state = &State{}
	if err := json.Unmarshal(e.State, w.state); err != nil {
		return ansible.Result{}, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	w.wanted()
	if err := w.forgive(ctx, w.systemd.Active); err != nil {
		return ansible.Result{}, err
	}
	if w.Check {
		return w.wouldRevive(e)
	}
	if err := w.revive(ctx, w.systemd.Start); err != nil {
		return ansible.Result{}, err
	}
	if e.Outcome == journal.Done {
		return w.result(len(w.revived) > 0, e), w.failure()
	}
	w.trip.Resume(e)
	if e.Step == stepMerging {
		e.Step = StepStarted // it was settled just now, and the journal could not be written
	}
	if e.Step == StepDeferred {
		return w.result(false, e), nil
	}
	return w.rest(ctx, len(w.revived) > 0 || e.Updated.After(w.begun)) // changed also if this very call settled it on its way in
}

func (w *walk) notFound(s *sight) error {
	if len(w.Snapshots) > 0 {
		return fault.New(fault.NotFound, "there is no snapshot %s", strings.Join(w.Snapshots, ", ")).
			WithHint("lvs -o lv_name,origin lists the snapshots")
	}
	var alike []string
	for gi := range s.view.Report.Groups {
		for vi := range s.view.Report.Groups[gi].Volumes {
			v := &s.view.Report.Groups[gi].Volumes[vi]
			if _, ours := snapset.LabelOf(v); v.IsSnapshot() && !ours && v.Name == snapset.SnapshotName(v.Origin, w.Set) {
				alike = append(alike, v.FullName())
			}
		}
	}
	f := fault.New(fault.NotFound, "%s", snapset.None(s.view.Report, w.Set))
	if warnings := s.view.Report.Warnings; len(warnings) > 0 {
		return f.With("warnings", warnings).WithHint("LVM could not read everything: see warnings")
	}
	if len(alike) > 0 {
		return f.WithHint("snapshots made by hand are named one by one: lvm_merge snapshots=%s", join(alike))
	}
	return f.WithHint("lvm_snapshot_info lists the sets there are")
}

func join(names []string) string {
	sorted := append([]string(nil), names...)
	sort.Strings(sorted)
	return strings.Join(sorted, ",")
}
