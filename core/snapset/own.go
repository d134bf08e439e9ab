package snapset

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Own is a set that a journey takes for its own use and removes again, such as the one a backup reads. Until Keep, the
// journal says that it is to be removed, whatever happens to the journey; it is known by its id, so that no other set
// is ever touched.
type Own struct {
	Parts []Part // without the logs and real-time devices of others, which are no file systems of their own
	work  *work
	plan  *Plan
}

// Part is one volume of an Own, with its snapshot.
type Part struct {
	Target   Target
	Snapshot *lvm.Volume
	options  []string // by which the snapshot finds those of what its file system needs
}

// Planned is what Own would take: for a check, and for a look at the targets before.
type Planned struct {
	Targets  []Target // as in Own.Parts
	Existing bool     // the set is there already, taken for the same use
	Result   ansible.Result
	work     *work
	plan     *Plan
}

// PlanOwn looks, locks the volume groups unless trip is nil, and plans the set. A set of that name that was taken for a
// restore is taken again for one; any other is a fault, exists.
func PlanOwn(ctx context.Context, trip *journey.Trip, r command.Runner, req Request) (*Planned, error) {
	w, err := look(ctx, trip, r, req)
	if err != nil {
		return nil, err
	}
	if err := w.canBeMounted(); err != nil {
		return nil, err
	}
	n := w.logsLast()
	if w.set != nil && w.set.Use == ForRestore && req.Use == ForRestore {
		return w.existing(n)
	}
	if w.set != nil {
		return nil, fault.New(fault.Exists, "there is a set %s already: %s", w.Set, strings.Join(names(w.set.Snapshots), ", ")).
			WithHint("choose another name, or remove it: lvm_snapshot name=%s state=absent", w.Set)
	}
	if err := w.canLock(ctx); err != nil {
		return nil, err
	}
	p := &Planned{Targets: w.targets[:n], work: w}
	return p, p.Resize()
}

// Resolve finds the volumes that are named; it locks and changes nothing.
func Resolve(ctx context.Context, r command.Runner, volumes []Volume) ([]Target, error) {
	report, err := lvm.New(r).Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	view := NewView(report, mounts)
	return view.Resolve(volumes)
}

// canBeMounted refuses targets whose snapshots cannot be looked into.
func (w *work) canBeMounted() error {
	var wrong []error
	for i := range w.targets {
		t := &w.targets[i]
		if t.Crypt != "" {
			wrong = append(wrong, fault.New(fault.Unsupported, "%s is encrypted (LUKS); its snapshot is not opened for mounting", t.LV.FullName()).
				WithHint("leave it out; a directory on it can be backed up as it is: {path: /dir, snapshot: false}"))
		}
	}
	return fault.All(wrong...)
}

// logsLast moves the targets that are parts of others to the end, and returns how many the others are. While a set is
// filled nothing looks after the parts: their snapshots hold all that can be written.
func (w *work) logsLast() int {
	var files, logs []Target
	for _, t := range w.targets {
		if !IsPart(&t, w.targets) {
			files = append(files, t)
			continue
		}
		if w.Use == ForRestore {
			t.Size = fmt.Sprintf("%db", lvm.MaxCOW(t.LV.Size, lvm.Chunk, t.Group.ExtentSize))
		}
		logs = append(logs, t)
	}
	w.targets = append(files, logs...)
	return len(files)
}

// Reserved is what the snapshots of the parts take, in bytes by volume group.
func (p *Planned) Reserved() map[string]int64 {
	reserved := map[string]int64{}
	for i, t := range p.work.targets {
		if m := p.plan.Members[i]; i >= len(p.Targets) {
			reserved[t.LV.VG] += m.COW
		}
	}
	return reserved
}

// existing plans to use a set of n file systems again, if it is of the same volumes and can be relied on.
func (w *work) existing(n int) (*Planned, error) {
	if err := fault.All(w.same(), w.set.Check()); err != nil {
		f := fault.New(fault.Of(err).Code, "set %s cannot be used again: %w", w.Set, err)
		if f.Code == fault.Merging { // it goes away by itself, and cannot be removed
			return nil, f
		}
		return nil, f.WithHint("remove it, and restore again: lvm_snapshot name=%s state=absent", w.Set)
	}
	if merging := w.merging(); merging != "" {
		return nil, fault.New(fault.Merging, "set %s is being rolled back: %s is merging", w.Set, merging).
			WithHint("lvm_merge name=%s wait=true waits for it", w.Set)
	}
	for _, v := range w.set.Snapshots {
		if mounts := filesystem.On(w.view.Mounts, devOf(v)); len(mounts) > 0 {
			return nil, fault.New(fault.Busy, "%s of set %s is mounted at %s", v.FullName(), w.Set, mounts[0].Point).
				WithHint("lvm_snapshot name=%s state=unmounted", w.Set)
		}
	}
	plan := w.set.removal(nil)
	result := describe(w.set, false, "would use set "+w.Set+" again")
	return &Planned{Targets: w.targets[:n], Existing: true, Result: result, work: w, plan: plan}, nil
}

// Resize plans anew, with the sizes that the Targets say now.
func (p *Planned) Resize() (err error) {
	w := p.work
	p.plan, err = w.view.New(Want{Set: w.Set, Volumes: w.Volumes, Size: w.Size, Use: w.Use}, journal.NewID(), w.targets)
	if err == nil {
		p.Result = created(p.plan, nil, "would take")
		err = checkRoom()
	}
	return err
}

// Take takes the planned set. After an error nothing of it is left.
func (p *Planned) Take(ctx context.Context) (*Own, ansible.Result, error) {
	w := p.work
	if p.Existing {
		return w.own(p.plan), p.Result, w.trip.Begin(Kind, w.Set, w.set.Groups(), "in use", p.plan)
	}
	result, err := w.takePlanned(ctx, p.plan, func() error { return w.trip.Record("in use", p.plan) })
	if w.made == "" {
		return nil, ansible.Result{}, err
	}
	return w.own(p.plan), result, err
}

func (w *work) own(p *Plan) *Own {
	own := &Own{work: w, plan: p}
	for i := range w.targets {
		t := &w.targets[i]
		if !IsPart(t, w.targets) {
			own.Parts = append(own.Parts, Part{Target: *t, Snapshot: w.snapshotOf(t.LV), options: w.snapshotOptions(t)})
		}
	}
	return own
}

// Time is the set's instant.
func (o *Own) Time() time.Time { return o.plan.Time }

// MountSpec says how to mount a part's snapshot at point, for reading or for writing.
func (p *Part) MountSpec(ctx context.Context, r command.Runner, point string, write bool) (filesystem.MountSpec, error) {
	spec := filesystem.MountSpec{Source: p.Snapshot.Path, Point: point}
	var origin filesystem.Mount
	if len(p.Target.Mounts) > 0 {
		origin = p.Target.Mounts[0]
		spec.Type = origin.Type
	} else {
		fstype, err := filesystem.TypeOf(ctx, r, p.Snapshot.Path)
		if err != nil {
			return spec, err
		}
		spec.Type = fstype
	}
	options := ""
	if write {
		options = "rw"
	}
	inert := filesystem.Inert(filesystem.SnapshotOptions(spec.Type, origin, false))
	spec.Options = mergeOptions(append(inert, p.options...), options)
	return spec, nil
}

// Look reads the set anew and says what became of it: its parts' fill, and snapshot_invalid if one has overflowed.
func (o *Own) Look(ctx context.Context) error {
	report, err := o.work.lvm.Report(ctx)
	if err != nil {
		return err
	}
	set, err := Find(report, o.plan.Set)
	if err != nil {
		return err
	}
	if set == nil || set.ID != o.plan.ID {
		return fault.New(fault.NotFound, "set %s was removed while it was in use", o.plan.Set)
	}
	o.work.set = set
	for i := range o.Parts {
		if v := o.work.snapshotOf(o.Parts[i].Target.LV); v != nil {
			o.Parts[i].Snapshot = v
		}
		if g, ok := report.Group(o.Parts[i].Target.LV.VG); ok {
			o.Parts[i].Target.Group = g
		}
	}
	return set.Check()
}

// Remove removes the set, and closes its record: done if the set has served its purpose.
func (o *Own) Remove(ctx context.Context, outcome journal.Outcome) error {
	if err := Undo(ctx, o.work.lvm, o.plan); err != nil {
		return err
	}
	return o.work.trip.Finish("removed", outcome, nil)
}

// Keep leaves the set to whoever wants it: it is one like any other from now on.
func (o *Own) Keep(step string) error { return o.work.trip.Finish(step, journal.Done, o.plan) }

// closeLimit bounds the wait for a device to be closed. What a program of a private mount namespace had mounted is
// unmounted by the kernel some time after the last of its processes has ended.
var closeLimit = 30 * time.Second

// awaitClosed waits until none of the devices is open. Past the limit it leaves it to LVM to say that one is.
func awaitClosed(ctx context.Context, l *lvm.LVM, devices []string) error {
	until := time.Now().Add(closeLimit)
	for {
		info, err := l.Info(ctx)
		if err != nil {
			return err
		}
		open := false
		for _, name := range devices {
			open = open || info[name].Open > 0
		}
		if !open || time.Now().After(until) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond): // device-mapper tells nobody
		}
	}
}
