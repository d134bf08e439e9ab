package run

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/snapset"
)

// pointDir is where volumes without a mount point of their own are seen by the backend: group/volume below it. It is
// the name they have in the backup.
const pointDir = journey.Run + "/backup"

// removeLimit bounds the removal of the set after the backup, which is done also when the journey is asked to end.
const removeLimit = 5 * time.Minute

// store makes a backup.
func (w *work) store(ctx context.Context) (ansible.Result, error) {
	client, err := w.host.StartApart(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer client.Close()
	description, err := client.Describe(ctx, w.host.Config())
	if err != nil {
		return ansible.Result{}, err
	}
	w.recording = description.Recording
	taken, live := split(w.Volumes)
	if err := Mounted(description, live); err != nil {
		return ansible.Result{}, err
	}
	if w.lacks, err = w.usable(ctx, client); err != nil {
		return ansible.Result{}, err
	}
	if err := fault.All(areDirectories(live), apart(description, live)); err != nil {
		return ansible.Result{}, err
	}
	if len(taken) == 0 {
		return w.storeLive(ctx, client, live)
	}
	planned, err := w.plan(ctx, taken, live, description)
	if err != nil {
		return ansible.Result{}, err
	}
	if w.Check {
		result := planned.Result
		result.Warnings = append(result.Warnings, w.lacks...)
		result.Msg = fmt.Sprintf("would back up %s with %s", strings.Join(append(Roots(planned.Targets), live...), ", "), w.Use.Backend)
		return result, nil
	}
	own, took, err := planned.Take(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	failpoint.Hit("backup.taken")
	stored, err := w.read(ctx, client, own, live)
	failpoint.Hit("backup.stored")
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
	defer cancel()
	lasted := fault.All(own.Look(limited), client.hide(limited))
	stored, err = w.unspoilt(limited, lasted, client, stored, err)
	pause := took.Data["pause_ms"]
	cow := used(own)
	if removed := own.Remove(limited, outcome(err)); removed != nil {
		err = fault.All(err, fault.New(fault.Of(removed).Code, "the set %s could not be removed: %w", w.Set, removed).
			WithHint("the next run of any module removes it"))
	}
	if err == nil {
		stored, err = w.accept(ctx, client, stored)
	}
	result := w.stored(stored, live, err)
	result.Data["pause_ms"], result.Data["cow_used_bytes"] = pause, cow
	return result, err
}

func outcome(err error) journal.Outcome {
	if err != nil {
		return journal.Undone
	}
	return journal.Done
}

func (w *work) plan(ctx context.Context, taken []snapset.Volume, live []string, d backup.Description) (*snapset.Planned, error) {
	trip := w.trip
	if w.Check {
		trip = nil // a check locks nothing
	} else {
		trip.WaitFor(w.LockTimeout)
	}
	planned, err := snapset.PlanOwn(ctx, trip, w.commands, snapset.Request{
		State: snapset.Present, Set: w.Set, Volumes: taken, Size: w.Size, FreezeTimeout: w.FreezeTimeout, Use: snapset.ForBackup,
	})
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	members, paths := Members(planned.Targets), slices.Concat(d.Local, live)
	return planned, fault.All(OnMember(d, mounts, members), beside(live, mounts, members),
		covered(paths, mounts, Roots(planned.Targets)))
}

// Members are the targets' file systems, by device, with the names of their volumes.
func Members(targets []snapset.Target) map[filesystem.Dev]string {
	members := map[filesystem.Dev]string{}
	for _, t := range targets {
		members[t.FS] = t.LV.FullName()
	}
	return members
}

// read shows the set to the backend and has it stored.
func (w *work) read(ctx context.Context, client *Apart, own *snapset.Own, live []string) (stored backup.Stored, err error) {
	var specs []filesystem.MountSpec
	tree := w.tree(own.Time(), live)
	for i := range own.Parts {
		p := &own.Parts[i]
		root := Root(&p.Target)
		spec, err := p.MountSpec(ctx, w.commands, root, false)
		if err != nil {
			return stored, err
		}
		specs, tree.Roots = append(specs, spec), append(tree.Roots, root)
	}
	if err := client.show(ctx, w.commands, specs); err != nil {
		return stored, err
	}
	failpoint.Hit("backup.mounted")
	return w.ask(ctx, client, tree)
}

func (w *work) tree(at time.Time, roots []string) backup.Tree {
	return backup.Tree{Host: w.Use.Host, Set: w.Set, Time: at, Roots: slices.Clone(roots), ReadAll: w.ReadAll}
}

// ask has the client store the tree, and keeps the record of what its files were like.
func (w *work) ask(ctx context.Context, client *Apart, tree backup.Tree) (backup.Stored, error) {
	return record.Storing{
		Backend: client, Config: w.host.Config(), Tree: tree, Recording: w.recording, See: client.space.Do,
		Keeper: w.host.Records(), File: filepath.Join(w.host.dir, "record"),
	}.Store(ctx, w.report("backing up with "+w.Use.Backend))
}

// storeLive backs up what is only read live.
func (w *work) storeLive(ctx context.Context, client *Apart, live []string) (ansible.Result, error) {
	if w.Check {
		msg := "would back up " + strings.Join(live, ", ") + ", read live"
		return ansible.Result{Changed: true, Msg: msg, Data: map[string]any{}, Warnings: w.lacks}, nil
	}
	stored, err := w.ask(ctx, client, w.tree(time.Now(), live))
	if err == nil {
		stored, err = w.accept(ctx, client, stored)
	}
	return w.stored(stored, live, err), err
}

// Root is where the backend sees a volume, and its name in the backup: its mount point, also one where the next look
// mounts it; or for one that is not mounted, and for the root file system, a path of ours.
func Root(t *snapset.Target) string {
	if len(t.Mounts) > 0 && t.Mounts[0].Point != "/" {
		return t.Mounts[0].Point
	}
	if t.Automount != "" {
		return t.Automount
	}
	return filepath.Join(pointDir, t.LV.VG, t.LV.Name)
}

// rootsOf are the names that volumes have in a backup; of those read live their own.
func rootsOf(ctx context.Context, r command.Runner, volumes []Volume) ([]string, error) {
	taken, live := split(volumes)
	if len(taken) == 0 {
		return live, nil
	}
	targets, err := snapset.Resolve(ctx, r, taken)
	return append(Roots(targets), live...), err
}

// OfRoots are the volumes that were stored under these names.
func OfRoots(roots []string) []snapset.Volume {
	var out []snapset.Volume
	for _, root := range roots {
		if name, ok := strings.CutPrefix(root, pointDir+"/"); ok {
			root = name
		}
		out = append(out, snapset.Volume{Name: root})
	}
	return out
}

// Roots are the names that volumes have in a backup; the log of another has none.
func Roots(targets []snapset.Target) []string {
	var out []string
	for i := range targets {
		if !snapset.IsPart(&targets[i], targets) {
			out = append(out, Root(&targets[i]))
		}
	}
	return out
}

// unspoilt fails the backup if a snapshot did not last while it was read, and has the backend forget it: part of what it
// read may have been missing. Where that cannot be found out the backup stays, and fails all the same.
func (w *work) unspoilt(ctx context.Context, spoilt error, client backup.Backend, s backup.Stored, err error) (backup.Stored, error) {
	if spoilt == nil {
		return s, err
	}
	if !lost(spoilt) {
		f := fault.New(fault.Of(spoilt).Code, "whether the set lasted while it was read cannot be found out: %w", spoilt)
		return s, fault.All(f.WithHint("the backup is kept, and may lack what was read after a snapshot overflowed: make another"), err)
	}
	f := fault.New(fault.Of(spoilt).Code, "the set did not last while it was read, so the backup is worth nothing: %w", spoilt)
	f.Hint = "run the same again"
	if errors.Is(spoilt, fault.SnapshotInvalid) {
		f.Hint = "more was written to the volumes than their snapshots hold: give a larger size, or back up when less is written"
	}
	if s.ID == "" {
		return s, f // it is the reason of what else went wrong
	}
	if err := w.host.forget(ctx, client, s.ID); err != nil {
		return s, fault.All(f, fault.New(fault.Of(err).Code, "backup %s, which must not be used, is still in the repository: %w", s.ID, err))
	}
	return backup.Stored{Warnings: s.Warnings}, f
}

// lost tells whether a set's data are gone, from what Look says of it.
func lost(err error) bool {
	codes := []fault.Code{fault.SnapshotInvalid, fault.SetDiffers, fault.NotFound, fault.PoolDamaged}
	return slices.ContainsFunc(codes, func(c fault.Code) bool { return errors.Is(err, c) })
}

// accept believes a backend that it stored something if it lists it, and then removes what is not to be kept.
func (w *work) accept(ctx context.Context, client backup.Backend, s backup.Stored) (backup.Stored, error) {
	list, err := client.List(ctx, w.host.Config(), w.Use.Host)
	if err != nil {
		return s, fault.New(fault.Of(err).Code, "the backup was stored, but the repository cannot be listed: %w", err)
	}
	if !slices.ContainsFunc(list, func(have backup.Stored) bool { return have.ID == s.ID && !have.Incomplete }) {
		return backup.Stored{}, fault.New(fault.BackendFailed, "backend %s says that it stored backup %q, but does not list it", w.Use.Backend, s.ID).
			WithHint("there is no backup: look at the repository, and at the backend")
	}
	s.Warnings = append(s.Warnings, Ahead(list, w.Use.Host, time.Now())...)
	s.Warnings = append(s.Warnings, w.prune(ctx, client, list, s)...)
	return s, nil
}

// stored is the result of a backup.
func (w *work) stored(s backup.Stored, live []string, err error) ansible.Result {
	data := map[string]any{
		"backend": w.Use.Backend, "host": w.Use.Host, "name": w.Set, "duration_ms": time.Since(w.begun).Milliseconds(),
	}
	if len(live) > 0 {
		data["read_live"] = live
	}
	result := ansible.Result{Changed: s.ID != "", Data: data}
	for _, warning := range slices.Concat(w.lacks, s.Warnings) {
		result.Warnings = append(result.Warnings, w.host.hidden.Text(warning))
	}
	if s.ID == "" {
		result.Msg = "nothing was backed up"
		return result
	}
	data["id"], data["time"], data["volumes"] = s.ID, s.Time.UTC().Format(time.RFC3339), s.Roots
	data["files"], data["bytes"], data["stored_bytes"] = s.Files, s.Bytes, s.Added
	result.Msg = fmt.Sprintf("backed up %s as %s: %d files, %s, of which %s were new to the repository",
		strings.Join(s.Roots, ", "), s.ID, s.Files, ansible.Bytes(s.Bytes), ansible.Bytes(s.Added))
	if err != nil {
		result.Msg = "the backup failed"
	}
	if len(live) > 0 {
		result.Warnings = append(result.Warnings, "read live, not of one instant: "+strings.Join(live, ", "))
	}
	return result
}

// used is how full the snapshots were, in bytes by volume.
func used(own *snapset.Own) map[string]int64 {
	out := map[string]int64{}
	for _, p := range own.Parts {
		out[p.Target.LV.FullName()] = p.Snapshot.COWUsed
	}
	return out
}
