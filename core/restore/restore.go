// Package restore puts a backup into a new set of snapshots while the server goes on working, and leaves the set to a
// rollback: the restore takes as long as it takes, the services stop only for the rollback.
//
// What is promised: the origins are not touched before the merge; what differs is written, nothing else; the snapshots
// are extended before they fill, and if there is no room left everything is undone; and whatever happens to the journey,
// a half-filled set is removed and a filled one can be told from it.
package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// Kind is the kind of journey that restores. It has no records of its own in the journal: those of the set and of the
// rollback say all there is to settle.
const Kind = "restore"

// StepFilled ends the journal's record of a set that holds a backup.
const StepFilled = "filled"

// Request is a restore as the user asks for it.
type Request struct {
	Volumes       []run.Volume     `json:"volumes"` // of those that are in the backup; empty: all
	Set           string           `json:"set"`
	Size          string           `json:"size,omitempty"` // empty: by the need
	ID            string           `json:"id"`
	ReadAll       bool             `json:"read_all,omitempty"` // compare the content of every file
	FreezeTimeout time.Duration    `json:"freeze_timeout"`
	Use           run.Use          `json:"use"`
	Merge         bool             `json:"merge"`
	Rollback      rollback.Request `json:"rollback"` // with Merge
	Check         bool             `json:"check"`
}

// Handler makes journeys of this kind with the backends that are built in.
func Handler(b run.Backends) journey.Handler {
	return run.Journey(b, func(r Request) run.Use { return r.Use }, func(ctx context.Context, t *journey.Trip, h *run.Host, r Request) (ansible.Result, error) {
		commands := command.NewRecorder(command.Local{})
		w := &work{Request: r, trip: t, commands: commands, lvm: lvm.New(commands), host: h, begun: time.Now()}
		return w.restore(ctx)
	})
}

// work is one restore under way.
type work struct {
	Request
	trip     *journey.Trip
	commands *command.Recorder
	lvm      *lvm.LVM
	host     *run.Host
	begun    time.Time

	stored   backup.Stored
	backend  string                // its name
	flags    map[string]tree.Flags // of what is in the backup, by the path on the host; nil: they are not known
	warnings []string              // of the backups that there are
	record   *record.Record        // of that backup; nil: there is none, or it is not to be believed
	planned  *snapset.Planned
	needs    []tree.Need // of the targets
	own      *snapset.Own
	touched  bool        // something may have been written into the set
	done     []tree.Done // of the targets
}

// restore fills the set, and goes on to the rollback if that is asked for.
func (w *work) restore(ctx context.Context) (ansible.Result, error) {
	if err := w.fill(ctx); err != nil {
		err = fault.All(w.told(err), w.undo())
		return ansible.Result{Msg: "nothing was restored", Data: map[string]any{}, Commands: w.commands.Commands()}, err
	}
	if w.Check {
		return w.plan(), nil
	}
	if w.nothingWritten() && !(w.planned.Existing && w.Merge) {
		return w.same(ctx)
	}
	if err := w.keep(ctx); err != nil {
		return ansible.Result{}, err
	}
	failpoint.Hit("restore.filled")
	result := w.result()
	if !w.Merge {
		return result, nil
	}
	w.trip.Beside(result)
	w.trip.Extend(rollback.Limit(w.Rollback))
	rolled, err := rollback.Apply(ctx, w.trip, w.Rollback)
	if err != nil && !rolled.Changed {
		err = fault.New(fault.Of(err).Code, "set %s holds backup %s, but is not merged: %w", w.Set, w.stored.ID, err)
	}
	return rolled, err
}

// fill does everything that needs the backend. It sees no mounts but its own.
func (w *work) fill(ctx context.Context) error {
	client, err := w.host.StartApart(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if !w.Check {
		run.Settle(ctx, w.trip, w.host, client, w.Set)
	}
	description, list, err := w.ask(ctx, client, func() error {
		if len(w.Volumes) == 0 {
			return nil // the backup names them
		}
		return w.planSet(ctx)
	})
	if err != nil {
		return err
	}
	if w.stored, err = run.Pick(list, w.ID, w.Use.Host, w.roots(), w.begun); err != nil {
		return err
	}
	w.warnings = run.Ahead(list, w.stored.Host, w.begun)
	if w.stored.Incomplete {
		return fault.New(fault.NotFound, "backup %s of %s is incomplete: files are missing in it", w.stored.ID, w.stored.Time.Format(time.RFC3339)).
			WithHint("restore a complete one (snap_backup_info lists them), or take single files out of this one by hand")
	}
	if w.planned == nil {
		if err := w.planSet(ctx); err != nil {
			return err
		}
	}
	if err := fault.All(w.holdsAll(), w.apart(description), w.mergeable(ctx)); err != nil {
		return err
	}
	w.backend = description.Name
	recorded := w.host.Records().Open(w.stored)
	defer recorded.Close()
	w.flags = recorded.Flags()
	if !w.ReadAll {
		w.record = recorded
	}
	label := "reading backup " + w.stored.ID
	return client.Present(ctx, w.host.Config(), w.stored.ID, run.Report(w.trip, w.host, label), w.take)
}

// take estimates, takes the set, and has it filled.
func (w *work) take(ctx context.Context, p backup.Presented) error {
	if err := w.readFlags(p); err != nil {
		return err
	}
	if err := w.estimate(ctx, p); err != nil {
		return err
	}
	if err := w.size(); err != nil || w.Check {
		return err
	}
	own, _, err := w.planned.Take(ctx)
	if err != nil {
		return err
	}
	w.own = own
	failpoint.Hit("restore.taken")
	return filesystem.Private(func() error { return w.write(ctx, p) })
}

// options are those of the comparison of a target. What is, by its inode and times, what was recorded when the backup
// was made, is taken as it is. Other roots below this one are volumes of their own, though a backup may show them as
// directories.
func (w *work) options(root string) tree.Options {
	o := tree.Options{OneFileSystem: true}
	o.Unchanged = func(rel string, st *unix.Statx_t) bool { return w.record.Same(filepath.Join(root, rel), st) }
	for _, other := range w.stored.Roots {
		if below, ok := strings.CutPrefix(other, root+"/"); ok {
			o.Skip = append(o.Skip, below)
		}
	}
	return o
}

// estimate compares the backup with the volumes as they are now, by their metadata.
func (w *work) estimate(ctx context.Context, p backup.Presented) error {
	for i := range w.planned.Targets {
		t := &w.planned.Targets[i]
		root := run.Root(t)
		if len(t.Mounts) == 0 {
			w.needs = append(w.needs, tree.Need{Most: t.LV.Size}) // nothing to compare with: it may be all
			continue
		}
		need, err := tree.Estimate(ctx, p.Roots[root], t.Mounts[0].Point, w.telling("comparing "+t.Name, w.options(root)))
		if err != nil {
			return fault.New(fault.Of(err).Code, "comparing backup %s with %s: %w", w.stored.ID, t.Name, err)
		}
		w.needs = append(w.needs, need)
	}
	return nil
}

// write mounts the snapshots, on the calling thread, writes into each what differs, and unmounts them.
func (w *work) write(outer context.Context, p backup.Presented) error {
	points, err := w.mount(outer)
	if err != nil {
		return err
	}
	defer points.close()
	space, ctx := watch(outer, w.lvm, w.own, points)
	defer space.stop()
	for i := range w.own.Parts {
		t := &w.own.Parts[i].Target
		root := run.Root(t)
		o := w.telling("restoring "+t.Name, w.options(root))
		o.NoDevices, o.Direct, o.Unlock = p.NoDevices, p.Direct, true
		if w.flags != nil {
			o.Flags = func(rel string) tree.Flags { return w.flags[filepath.Join(root, rel)] }
		}
		o.Gate = func(n int64) error {
			err := space.gate(ctx, i, n)
			w.touched = w.touched || err == nil
			return err
		}
		failpoint.Hit("restore.writing")
		done, err := tree.Sync(ctx, p.Roots[root], points.path(i), o)
		w.done = append(w.done, done)
		if err == nil && len(done.Unreadable) > 0 {
			err = fault.New(fault.BackendFailed, "%d files of the backup cannot be read, such as %s", len(done.Unreadable), done.Unreadable[0]).
				With("paths", done.Unreadable).WithHint("check the repository with the backend's own tool")
		}
		if err == nil {
			report := run.Report(w.trip, w.host, "writing out "+t.Name)
			err = points.flush(ctx, i, func() { report(backup.Progress{}) })
		}
		if err != nil {
			err = readable(space.cause(ctx, err), p.Roots[root], "backup:"+root, points.path(i), "snapshot:"+root)
			return fault.New(fault.Of(err).Code, "restoring backup %s into the snapshot of %s: %w", w.stored.ID, t.Name, err)
		}
	}
	space.stop()
	return fault.All(points.unmount(), w.own.Look(outer))
}

// telling has the user told, under a label, how far a comparison is.
func (w *work) telling(label string, o tree.Options) tree.Options {
	report := run.Report(w.trip, w.host, label)
	o.Report = func(p tree.Progress) { report(backup.Progress{Done: p.Done, Total: p.Total, Files: p.Files}) }
	return o
}

// readable names paths in an error as people know them, not as this process reached them: pairs of old and new.
func readable(err error, names ...string) error {
	f := *fault.Of(err)
	r := strings.NewReplacer(names...)
	f.Msg, f.Hint = r.Replace(f.Msg), r.Replace(f.Hint)
	return &f
}

// undoLimit bounds the removal of a set that was not filled.
const undoLimit = 5 * time.Minute

// nothingWritten tells, after all went well, whether the set is what it was when it was taken, or taken again. After a
// failure only touched tells: what was written of a file that was not finished counts nowhere.
func (w *work) nothingWritten() bool {
	return !slices.ContainsFunc(w.done, func(d tree.Done) bool { return !d.Same() })
}

// told adds to an error without a next step what becomes of the set.
func (w *work) told(err error) error {
	f := *fault.Of(err)
	if f.Hint != "" && f.Code != fault.BackendFailed { // the others say what is as it was
		return &f
	}
	is := "nothing was changed"
	switch {
	case w.own == nil:
	case w.planned.Existing && !w.touched:
		is = "set " + w.Set + " is as it was, and the volumes are untouched"
	default:
		is = "set " + w.Set + " is removed again, and the volumes are untouched"
	}
	f.Hint = is + "; " + cmp.Or(f.Hint, "run the same again")
	return &f
}

// undo removes the set, if it was taken. One that was there before and is as it was stays.
func (w *work) undo() error {
	if w.own == nil {
		return nil
	}
	if w.planned.Existing && !w.touched {
		return w.own.Keep(StepFilled)
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	return w.own.Remove(ctx, journal.Undone)
}

// same is the result where nothing differs: the set, unless it was there before, is of no use.
func (w *work) same(ctx context.Context) (ansible.Result, error) {
	result := w.result()
	result.Changed = false
	if w.planned.Existing {
		result.Msg = fmt.Sprintf("set %s holds backup %s already", w.Set, w.stored.ID)
		err := w.keep(ctx)
		result.Warnings = w.warnings
		return result, err
	}
	result.Msg = fmt.Sprintf("%s hold what backup %s of %s holds; nothing to do",
		strings.Join(names(w.planned.Targets), ", "), w.stored.ID, w.stored.Time.Format(time.RFC3339))
	delete(result.Data, "discarded_since")
	return result, w.undo()
}

// keep leaves the set to whoever wants it, with a note of the backup that it holds.
func (w *work) keep(ctx context.Context) error {
	err := w.own.Holds(ctx, snapset.Restored{ID: w.stored.ID, Time: w.stored.Time})
	if errors.Is(err, fault.SnapshotInvalid) {
		return err
	}
	if err != nil {
		w.warnings = append(w.warnings, fmt.Sprintf("which backup set %s holds could not be written on it: %v", w.Set, err))
	}
	return w.own.Keep(StepFilled)
}

func names(targets []snapset.Target) []string {
	var out []string
	for _, t := range targets {
		out = append(out, t.Name)
	}
	return out
}

// pointDir is where the snapshots are mounted in a namespace of their own, each below its number.
const pointDir = journey.Run + "/restore"

func point(i int) string { return filepath.Join(pointDir, fmt.Sprint(i)) }
