package snapset

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Kind is the kind of journey that changes sets.
const Kind = "snapshot"

// The steps that end the journal's entry of a journey that only mounted a set, and of one whose set was rolled back together
// with the journal.
const (
	StepMounted    = "mounted"
	StepRolledBack = "rolled back"
)

// The states a set can be asked to be in.
const (
	Present   = "present"
	Absent    = "absent"
	Mounted   = "mounted"
	Unmounted = "unmounted"
)

// Request is what lvm_snapshot asks of a set.
type Request struct {
	State         string        `json:"state"`
	Set           string        `json:"set"`
	Volumes       []Volume      `json:"volumes"`
	Size          string        `json:"size"`
	Each          bool          `json:"each"`
	FreezeTimeout time.Duration `json:"freeze_timeout"`
	Replace       bool          `json:"replace"` // an overflowed set is taken anew
	Mount         MountOptions  `json:"mount"`
	Check         bool          `json:"check"`
	Use           Use           `json:"use,omitempty"`
}

// what is what others read who wait for the locks.
func (r Request) what() string {
	switch r.Use {
	case ForBackup:
		return "snap_backup action=backup name=" + r.Set
	case ForRestore:
		return "snap_backup action=restore name=" + r.Set
	}
	return "lvm_snapshot " + r.State + " " + r.Set
}

// Handler makes and settles journeys of this kind.
func Handler() journey.Handler {
	return journey.Handler{Do: do, Settle: settle, Release: release}
}

func do(ctx context.Context, t *journey.Trip, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	return Apply(ctx, t, command.Local{}, req)
}

// Apply brings a set into the wanted state, or with Check says what that would change. trip is nil with Check.
func Apply(ctx context.Context, trip *journey.Trip, r command.Runner, req Request) (ansible.Result, error) {
	w, err := look(ctx, trip, r, req)
	if err != nil {
		return ansible.Result{Commands: w.commands.Commands()}, err
	}
	var result ansible.Result
	switch {
	case req.State == Absent:
		result, err = w.absent(ctx)
	case req.State == Unmounted:
		result, err = w.unmounted(ctx)
	case w.set == nil:
		result, err = w.create(ctx)
	default:
		result, err = w.keep(ctx)
	}
	if err == nil && req.State == Mounted {
		result, err = w.mounted(ctx, result)
	}
	result.Commands = w.commands.Commands()
	return result, err
}

// work is one request with all that was seen for it.
type work struct {
	Request
	trip     *journey.Trip
	commands *command.Recorder
	lvm      *lvm.LVM
	view     *View
	targets  []Target
	set      *Set   // nil: there is none of that name
	made     string // the id of the set that this run took
}

// look looks at everything, takes the locks, and looks again if something may have changed meanwhile.
func look(ctx context.Context, trip *journey.Trip, r command.Runner, req Request) (*work, error) {
	commands := command.NewRecorder(r)
	w := &work{Request: req, trip: trip, commands: commands, lvm: lvm.New(commands)}
	begun := time.Now()
	groups, err := w.see(ctx)
	if err != nil || trip == nil {
		return w, err
	}
	stale, err := trip.Lock(ctx, groups, req.what(), begun)
	if err != nil || !stale {
		return w, err
	}
	_, err = w.see(ctx)
	return w, err
}

func (w *work) see(ctx context.Context) (groups []string, err error) {
	report, err := w.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	w.view = NewView(report, mounts)
	w.view.TakeParts = w.Use == ForRestore // a backup has the names of file systems, and nothing of their logs
	if w.set, err = Find(report, w.Set); err != nil {
		return nil, err
	}
	if w.targets, err = w.view.Resolve(w.Volumes); err != nil {
		return nil, err
	}
	// Two sets of one name must not be taken at once in two groups.
	groups = []string{journey.SetLock(w.Set)}
	if w.set != nil {
		groups = append(groups, w.set.Groups()...)
	}
	for _, t := range w.targets {
		groups = append(groups, t.LV.VG)
	}
	return unique(groups), nil
}

// canLock refuses a set of which a thin volume cannot be made ready, because LVM's commands cannot be held back.
func (w *work) canLock(ctx context.Context) error {
	thin := func(t Target) bool { return t.LV.Kind == lvm.Thin }
	if len(w.targets) < 2 || w.Each || !slices.ContainsFunc(w.targets, thin) {
		return nil
	}
	return w.lvm.LocksHere(ctx)
}

// create takes the set, which does not exist.
func (w *work) create(ctx context.Context) (ansible.Result, error) {
	if len(w.targets) == 0 {
		none := None(w.view.Report, w.Set)
		return ansible.Result{}, fault.New(fault.NotFound, "%s, and volumes names nothing to take it of", none).
			WithHint("volumes=/dat,/pccehr takes it")
	}
	want := Want{Set: w.Set, Volumes: w.Volumes, Size: w.Size, Each: w.Each}
	plan, err := w.view.New(want, journal.NewID(), w.targets)
	if err := fault.All(err, w.canLock(ctx)); err != nil {
		return ansible.Result{}, err
	}
	if err := checkRoom(); err != nil {
		return ansible.Result{}, err
	}
	if w.Check {
		return w.warned(created(plan, nil, "would take")), nil
	}
	result, err := w.takePlanned(ctx, plan, func() error { return w.trip.Finish("taken", journal.Done, nil) })
	if w.made == "" {
		return ansible.Result{}, err
	}
	return w.warned(result), err
}

// takePlanned takes the planned set, and has it recorded. After an error nothing of it is left, unless only its record failed:
// then made says that it is there.
func (w *work) takePlanned(ctx context.Context, plan *Plan, record func() error) (result ansible.Result, err error) {
	room := journalRoom(plan.ID)
	defer func() { giveBack(room, err) }()
	if err := setAside(room); err != nil {
		return ansible.Result{}, err
	}
	if err := w.trip.Begin(Kind, w.Set, plan.Groups(), "taking", plan); err != nil {
		return ansible.Result{}, err
	}
	w.trip.Progress("taking set "+w.Set, -1)
	pause, err := take(ctx, w.lvm, plan, w.FreezeTimeout)
	if err == nil {
		err = w.verify(ctx, plan)
	}
	if err != nil {
		return ansible.Result{}, w.failed(err)
	}
	w.made = plan.ID
	return took(plan, pause, w.FreezeTimeout), inRoom(room, record)
}

// mayHold says that after this error a volume may still be held.
func mayHold(err error) bool {
	return errors.Is(err, filesystem.ErrFreezing) || errors.Is(err, lvm.ErrSuspending)
}

// failed closes the record of what failed, if nothing of it is left. Otherwise the record stays open: it is settled when
// this process has ended, and before anything else is done in these volume groups.
func (w *work) failed(err error) error {
	if errors.Is(err, errLeft) || mayHold(err) {
		return err
	}
	return fault.All(err, w.trip.Finish("undone", journal.Undone, nil))
}

// verify looks once more when nothing is frozen: LVM must know every member, and none may have overflowed already.
func (w *work) verify(ctx context.Context, p *Plan) error {
	report, err := w.lvm.Report(ctx)
	if err == nil {
		w.view.Report = report
		w.set, err = Find(report, p.Set)
	}
	if err == nil && (w.set == nil || w.set.ID != p.ID || !w.set.Complete()) {
		err = fault.New(fault.CommandFailed, "LVM took the snapshots of set %q but does not list all of them", p.Set)
	}
	if err == nil {
		err = w.set.Check()
	}
	if err == nil {
		return nil
	}
	return fault.All(err, undone(ctx, w.lvm, p))
}

// settle undoes a set that was not finished. One whose last step was lost is not worth guessing about: nobody was told
// that it exists.
func settle(ctx context.Context, t *journey.Trip, e *journal.Entry) error {
	p, err := PlanOf(e)
	if err != nil {
		return err
	}
	_ = os.Remove(journalRoom(p.ID))
	l := lvm.New(command.Local{})
	rest, back, err := cameBack(ctx, t, l, e, p)
	switch {
	case err != nil:
		return err
	case back != nil && AllMerging(rest):
		return endMerges(ctx, t, l, rest, back)
	case back != nil:
		return t.Finish("taken", journal.Done, nil)
	}
	if err := Undo(ctx, l, p); err != nil {
		return err
	}
	return t.Finish("undone", journal.Undone, nil)
}

// release lets writes go on at once that wait for a set which cannot be finished any more.
func release(e *journal.Entry) error {
	p, err := PlanOf(e)
	if err != nil {
		return err
	}
	return p.letGo(lvm.New(command.Local{}))
}

// PlanOf reads how a set was to be taken from the journal's entry of that. Fault: journal_damaged.
func PlanOf(e *journal.Entry) (*Plan, error) {
	var p Plan
	if err := json.Unmarshal(e.State, &p); err != nil {
		return nil, fault.New(fault.JournalDamaged, "journal entry %s: %w", e.ID, err)
	}
	return &p, nil
}

// AllMerging says that there is nothing among the snapshots but what LVM merges, or has marked to be merged.
func AllMerging(snapshots []*lvm.Volume) bool {
	return !slices.ContainsFunc(snapshots, func(v *lvm.Volume) bool { return !v.Merging })
}

// endMerges has LVM end merges that began when the server booted. That of a root file system began before there was anything
// that could watch it: seen on Debian 12, LVM does not learn by itself that the kernel is done. home is the volume that holds
// the journal.
func endMerges(ctx context.Context, t *journey.Trip, l *lvm.LVM, merging []*lvm.Volume, home *lvm.Volume) error {
	var origins []string
	for _, v := range merging {
		origins = append(origins, v.VG+"/"+v.Origin)
	}
	if err := l.Poll(ctx, origins...); err != nil {
		return err
	}
	if err := t.Finish(StepRolledBack, journal.Done, nil); err != nil {
		return err
	}
	if id, ok := home.Tag(tagBack); ok {
		return l.DelTags(ctx, []string{BackTag(id)}, home.FullName())
	}
	return nil
}

// cameBack returns what is left of the set, and the volume that holds the journal, if the record was found in a
// volume that has itself been rolled back to it: the journal is what it was at the set's instant then, when the set
// was being taken. Its members were taken, and are nobody's to remove. A set that was not finished is never rolled
// back to, and its snapshots lack the tag with their number. The snapshot of the volume that holds the journal is
// made first and removed last, so that without it there is either such a rollback or no snapshot of the set at all.
// When no snapshot is left, BackTag tells the two apart.
func cameBack(ctx context.Context, t *journey.Trip, l *lvm.LVM, e *journal.Entry, p *Plan) (rest []*lvm.Volume, home *lvm.Volume, err error) {
	if p.ID == "" || t.Journal.ThisBoot(e) {
		return nil, nil, nil
	}
	report, err := l.Report(ctx)
	if err != nil {
		return nil, nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, nil, err
	}
	at, err := filesystem.Holding(mounts, journey.State)
	if err != nil {
		return nil, nil, err
	}
	rest, home = p.cameBack(report, at.Point)
	return rest, home, nil
}

// cameBack is cameBack with the journal below the mount point at.
func (p *Plan) cameBack(r *lvm.Report, at string) (rest []*lvm.Volume, home *lvm.Volume) {
	rest = p.snapshots(r)
	if slices.ContainsFunc(rest, func(s *lvm.Volume) bool { label, _ := LabelOf(s); return label.Count == 0 }) {
		return nil, nil
	}
	for _, m := range p.Members {
		there := func(s *lvm.Volume) bool { return s.VG == m.VG && s.Name == m.Snapshot && !s.Merging }
		home, found := r.Volume(m.VG, m.LV)
		if !found || !slices.Contains(m.Points, at) || slices.ContainsFunc(rest, there) {
			continue
		}
		if len(rest) > 0 || slices.Contains(home.Tags, BackTag(p.ID)) {
			return rest, home
		}
	}
	return nil, nil
}
