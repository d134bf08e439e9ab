// Package restore writes a backup into a new set of snapshots while the server goes on working. A rollback to that set
// then puts it in place, so the services stop only for the rollback, however long the restore takes.
//
// The package promises: it does not touch the origins before the merge; it writes only what differs; it extends the
// snapshots before they fill, and undoes everything if there is no space left. If a run is interrupted, its half-filled
// set is removed. A tag tells a filled set from a half-filled one.
package restore

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
	"go.pcc.com/rewind/core/tree"
)

// Kind is the kind of run that restores. Such a run has no entries of its own in the journal: those of the set and of
// the rollback say all that settling needs.
const Kind = "restore"

// StepFilled is the last step in the journal entry of a set that holds a backup.
const StepFilled = "filled"

// Request is a restore as the user asks for it, passed to the run as JSON.
type Request struct {
	Volumes       []access.Volume  `json:"volumes"` // a selection from the backup; empty: all of its volumes
	Set           string           `json:"set"`
	Size          string           `json:"size,omitempty"`     // of each snapshot's COW space; empty: from the estimate
	ID            string           `json:"id"`                 // of the backup, or access.Latest
	ReadAll       bool             `json:"read_all,omitempty"` // compare the content of every file
	FreezeTimeout time.Duration    `json:"freeze_timeout"`
	Use           access.Use       `json:"use"`
	Merge         bool             `json:"merge"`    // roll back to the filled set in the same run
	Rollback      rollback.Request `json:"rollback"` // used if Merge is set
	Check         bool             `json:"check"`    // only say what would be done
}

// Handler returns the handler of runs of this Kind. b are the built-in backends.
func Handler(b access.Backends) journey.Handler {
	use := func(request Request) access.Use { return request.Use }
	do := func(
		ctx context.Context, thisRun *journey.Run, host *access.Host, request Request,
	) (ansible.Result, error) {
		commands := command.NewRecorder(command.Local{})
		r := &restoreRun{
			Request: request, thisRun: thisRun, commands: commands, lvm: lvm.New(commands), host: host,
			started: time.Now(),
		}
		return r.restore(ctx)
	}
	return access.BackendHandler(b, use, do)
}

// restoreRun is one restore under way, or a check of one.
type restoreRun struct {
	Request
	thisRun  *journey.Run
	commands *command.Recorder
	lvm      *lvm.LVM
	host     *access.Host
	started  time.Time

	backup       backup.Stored // the one that is restored
	backendName  string
	flags        map[string]tree.Flags // inode flags of the backup's files, by path on this server; nil: not known
	warnings     []string
	record       *record.Record // what the files were like at the backup; nil: compare every file's content
	planned      *snapset.Planned
	needs        []tree.Need // the estimate, one for each target
	ownSet       *snapset.OwnedSet
	maybeWritten bool        // something may have been written into the set
	synced       []tree.Done // what was written, one for each target that was begun
}

// restore fills the set, and goes on to the rollback if Merge asks for it.
func (r *restoreRun) restore(ctx context.Context) (ansible.Result, error) {
	if err := r.fill(ctx); err != nil {
		err = fault.All(r.withHint(err), r.undo())
		return ansible.Result{Msg: "nothing was restored", Data: map[string]any{}, Commands: r.commands.Commands()}, err
	}
	if r.Check {
		return answers{r}.check(), nil
	}
	if r.nothingWritten() && !(r.planned.Existing && r.Merge) {
		return r.finishUnchanged(ctx)
	}
	if err := r.keep(ctx); err != nil {
		return ansible.Result{}, err
	}
	failpoint.Hit("restore.filled")
	result := answers{r}.result()
	if !r.Merge {
		return result, nil
	}
	r.thisRun.AddToAnswers(result)
	r.thisRun.Extend(rollback.Limit(r.Rollback))
	rollbackResult, err := rollback.Apply(ctx, r.thisRun, r.Rollback)
	if err != nil && !rollbackResult.Changed {
		err = fault.New(fault.Of(err).Code, "set %s holds backup %s, but is not merged: %w", r.Set, r.backup.ID, err)
	}
	return rollbackResult.ForAnsible(), err
}

// fill does everything that needs the backend, whose process has mounts of its own.
func (r *restoreRun) fill(ctx context.Context) error {
	client, err := r.host.StartApart(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	if !r.Check {
		access.Settle(ctx, r.thisRun, r.host, client, r.Set)
	}
	description, backups, err := r.queryBackend(ctx, client, func() error {
		if len(r.Volumes) == 0 {
			return nil // the backup names them
		}
		return r.planSet(ctx)
	})
	if err != nil {
		return err
	}
	if r.backup, err = access.Pick(backups, r.ID, r.Use.Host, r.plannedRoots(), r.started); err != nil {
		return err
	}
	r.warnings = append(access.FutureWarning(backups, r.backup.Host, r.started),
		access.DamagedWarnings(backups, r.backup.Host)...)
	r.warnings = append(r.warnings, access.ForeignWarning(backups, r.backup)...)
	if r.backup.Incomplete && r.backup.Damaged == "" { // the backend presents a damaged one if it can, or says why not
		return fault.New(fault.NotFound, "backup %s of %s is incomplete: files are missing in it",
			r.backup.ID, r.backup.Time.Format(time.RFC3339)).
			WithHint("restore a complete one (snap_backup_info lists them), or take single files out of this one by hand")
	}
	if r.planned == nil {
		if err := r.planSet(ctx); err != nil {
			return err
		}
	}
	err = fault.All(r.checkBackupHasVolumes(), r.checkRepositoryApart(description), checkNotOwnState(r.planned.Targets),
		r.checkRollback(ctx))
	if err != nil {
		return err
	}
	r.backendName = description.Name
	recorded := r.host.Records().Open(r.backup)
	defer recorded.Close()
	r.flags = recorded.Flags()
	if !r.ReadAll {
		r.record = recorded
	}
	label := "reading backup " + r.backup.ID
	return client.Present(ctx, r.host.Config(), r.backup.ID, access.Report(r.thisRun, r.host, label), r.takeAndFill)
}

// takeAndFill estimates how much will be written, takes the set, and fills it. A check ends after the estimate.
func (r *restoreRun) takeAndFill(ctx context.Context, presented backup.Presented) error {
	if err := r.readFlags(presented); err != nil {
		return err
	}
	if err := r.estimate(ctx, presented); err != nil {
		return err
	}
	if err := fault.All(r.checkPools(ctx), r.sizeSnapshots()); err != nil || r.Check {
		return err
	}
	own, _, err := r.planned.Take(ctx)
	if err != nil {
		return err
	}
	r.ownSet = own
	failpoint.Hit("restore.taken")
	return filesystem.InPrivateNamespace(func() error { return r.writeSnapshots(ctx, presented) })
}

// compareOptions returns the options for comparing the target that has this root. A file whose inode and times are
// those recorded when the backup was made counts as unchanged and is not read. Other roots below this one are skipped:
// they are volumes of their own, though some backends show them as directories of this one.
func (r *restoreRun) compareOptions(root string) tree.Options {
	o := tree.Options{OneFileSystem: true, Skip: rootsBelow(root, r.backup.Roots)}
	o.Unchanged = func(rel string, st *unix.Statx_t) bool { return r.record.Same(filepath.Join(root, rel), st) }
	return o
}

// rootsBelow returns those of the roots of a backup that lie below one of them, relative to that one.
func rootsBelow(root string, roots []string) (all []string) {
	for _, other := range roots {
		if below, ok := strings.CutPrefix(other, root+"/"); ok {
			all = append(all, below)
		}
	}
	return all
}

// ownState returns where Rewind's own state, the directory state, lies on a target, relative to it, if it lies there. A
// restore leaves it alone: with the journal of the backup's time a rollback that ends at the next boot would not know
// of itself, and its program might be gone.
func ownState(mounts []filesystem.Mount, state string, t *snapset.Target) []string {
	m, err := filesystem.Holding(mounts, state)
	if err != nil || m.Dev != t.FS {
		return nil
	}
	dir, err := filepath.EvalSymlinks(state)
	rel, isBelow := strings.CutPrefix(dir, strings.TrimSuffix(m.Point, "/")+"/")
	if err != nil || !isBelow {
		return nil // checkNotOwnState refuses a volume that holds nothing else
	}
	return []string{strings.TrimPrefix(filepath.Join(m.Root, rel), "/")}
}

// estimate compares the metadata of the backup with that of the volumes as they are now.
func (r *restoreRun) estimate(ctx context.Context, presented backup.Presented) error {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	for i := range r.planned.Targets {
		t := &r.planned.Targets[i]
		root := access.Root(t)
		if len(t.Mounts) == 0 || t.Mounts[0].Root != "/" {
			r.needs = append(r.needs, tree.Need{Most: t.LV.Size}) // nothing to compare with: all of it may differ
			continue
		}
		o := r.withProgress("comparing "+t.Name, r.compareOptions(root))
		o.Skip = append(o.Skip, ownState(mounts, journey.StateDir, t)...)
		need, err := estimateMounted(ctx, presented.Roots[root], t.Mounts[0], o)
		if err != nil {
			return fault.New(fault.Of(err).Code, "comparing backup %s with %s: %w", r.backup.ID, t.Name, err)
		}
		covered := coveredWarnings(mounts, presented.Roots[root], t.Mounts[0].Point, r.backup.Roots)
		r.warnings = append(r.warnings, covered...)
		r.needs = append(r.needs, need)
	}
	return nil
}

// estimateMounted compares a root of the backup with the file system that is mounted there. What else is mounted in it
// is not looked at if that can be avoided: root may have no access to it, or wait for its server.
func estimateMounted(ctx context.Context, from string, m filesystem.Mount, o tree.Options) (tree.Need, error) {
	to := m.Point
	if alone, err := filesystem.OpenAlone(m); err == nil { // an unbindable mount cannot be opened so
		defer alone.Close()
		to = fmt.Sprintf("/proc/self/fd/%d", alone.Fd())
	}
	need, err := tree.Estimate(ctx, from, to, o)
	if err != nil {
		err = replacePaths(err, to, m.Point)
	}
	return need, err
}

// writeSnapshots mounts the snapshots in the mount namespace of the calling thread, writes into each what differs from
// the backup, and unmounts them.
func (r *restoreRun) writeSnapshots(outer context.Context, presented backup.Presented) error {
	mounted, err := r.mount(outer)
	if err != nil {
		return err
	}
	defer mounted.close()
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	report := access.Report(r.thisRun, r.host, "writing out what was restored")
	flush := func(ctx context.Context, i int) error {
		return mounted.flush(ctx, i, func() { report(backup.Progress{}) })
	}
	guard, ctx := watchSpace(outer, r.lvm, r.ownSet, flush)
	defer guard.stop()
	w := writer{r, presented, mounts, mounted, guard}
	for i := range r.ownSet.Parts {
		if err := w.writeSnapshot(ctx, i); err != nil {
			return err
		}
	}
	guard.stop()
	return fault.All(mounted.unmount(), r.ownSet.Look(outer))
}

// writer writes the backup into the mounted snapshots.
type writer struct {
	*restoreRun
	presented backup.Presented
	mounts    []filesystem.Mount
	mounted   *mountedSnapshots
	guard     *spaceGuard
}

// writeSnapshot writes into snapshot i what differs from the backup, and writes it out.
func (w writer) writeSnapshot(ctx context.Context, i int) error {
	t := &w.ownSet.Parts[i].Target
	root := access.Root(t)
	from, to, o := w.presented.Roots[root], w.mounted.path(i), w.writeOptions(ctx, i, root)
	failpoint.Hit("restore.writing")
	done, err := tree.Sync(ctx, from, to, o)
	userPaths := []string{from, "backup:" + root, to, "snapshot:" + root}
	done.Warnings, done.Unreadable = replaceInAll(done.Warnings, userPaths), replaceInAll(done.Unreadable, userPaths)
	done.Warnings = append(done.Warnings, leftAloneWarnings(w.mounts, to, root, rootsBelow(root, w.backup.Roots))...)
	w.synced = append(w.synced, done)
	if err == nil {
		err = unreadableFault(done.Unreadable)
	}
	if err == nil {
		err = w.guard.flush(ctx, i)
	}
	if err != nil {
		err = replacePaths(fullHint(w.guard.cause(ctx, err), t), userPaths...)
		return fault.New(fault.Of(err).Code, "restoring backup %s into the snapshot of %s: %w", w.backup.ID, t.Name, err)
	}
	return nil
}

// writeOptions returns the options for writing into snapshot i, whose root in the backup this is.
func (w writer) writeOptions(ctx context.Context, i int, root string) tree.Options {
	t := &w.ownSet.Parts[i].Target
	o := w.withProgress("restoring "+t.Name, w.compareOptions(root))
	o.Skip = append(o.Skip, ownState(w.mounts, journey.StateDir, t)...)
	o.NoDevices, o.Direct, o.Unlock = w.presented.NoDevices, w.presented.Direct, true
	if w.flags != nil {
		o.Flags = func(rel string) tree.Flags { return w.flags[filepath.Join(root, rel)] }
	}
	o.Gate = func(n int64) error {
		err := w.guard.reserve(ctx, i, n)
		w.maybeWritten = w.maybeWritten || err == nil
		return err
	}
	return o
}

// withProgress adds to the options a report of progress to the user, under the label.
func (r *restoreRun) withProgress(label string, o tree.Options) tree.Options {
	report := access.Report(r.thisRun, r.host, label)
	o.Report = func(p tree.Progress) { report(backup.Progress{Done: p.Done, Total: p.Total, Files: p.Files}) }
	return o
}

// mountDir is where the snapshots are mounted, in a private mount namespace. Each has a subdirectory named by its
// number.
const mountDir = journey.RuntimeDir + "/restore"

func mountPoint(i int) string { return filepath.Join(mountDir, fmt.Sprint(i)) }
