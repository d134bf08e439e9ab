package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/failpoint"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/snapset"
)

// removeLimit is the time limit for the work after the storing, such as the removal of the set. That work is done even
// if the run has been asked to end.
const removeLimit = 5 * time.Minute

// store makes a backup.
func (op *operation) store(ctx context.Context) (ansible.Result, error) {
	client, err := op.host.StartApart(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	defer client.Close()
	description, err := client.Describe(ctx, op.host.Config())
	if err != nil {
		return ansible.Result{}, err
	}
	op.recording = description.Recording
	volumes, live := access.Split(op.Volumes)
	if err := access.RefuseUnmounted(description, live); err != nil {
		return ansible.Result{}, err
	}
	if op.warnings, err = op.checkRepository(ctx, client); err != nil {
		return ansible.Result{}, err
	}
	if err := fault.All(checkLiveDirectories(live), refuseLocalInLive(description, live)); err != nil {
		return ansible.Result{}, err
	}
	if len(volumes) == 0 {
		return op.storeLive(ctx, client, live)
	}
	planned, err := op.planSet(ctx, volumes, live, description)
	if err != nil {
		return ansible.Result{}, err
	}
	if op.Check {
		result := planned.Result.ForAnsible()
		result.Warnings = append(result.Warnings, op.warnings...)
		roots := strings.Join(append(access.Roots(planned.Targets), live...), ", ")
		result.Msg = fmt.Sprintf("would back up %s with %s", roots, op.Use.Backend)
		return result, nil
	}
	set, taken, err := planned.Take(ctx)
	if err != nil {
		return ansible.Result{}, err
	}
	failpoint.Hit("backup.taken")
	stored, err := op.storeSet(ctx, client, set, live)
	failpoint.Hit("backup.stored")
	cleanupCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
	defer cancel()
	setErr := fault.All(set.Look(cleanupCtx), client.UnmountSnapshots(cleanupCtx))
	stored, err = op.discardIfLost(cleanupCtx, setErr, client, stored, err)
	cowBytes := cowUsed(set)
	if removeErr := set.Remove(cleanupCtx, outcome(err)); removeErr != nil {
		err = fault.All(err, fault.New(fault.Of(removeErr).Code, "the set %s could not be removed: %w", op.Set, removeErr).
			WithHint("the next run of any module removes it"))
	}
	if err == nil {
		stored, err = op.confirm(ctx, client, stored)
	}
	result := op.backupResult(stored, live, err)
	result.Data["pause_ms"], result.Data["cow_used_bytes"] = taken.Pause.Milliseconds(), cowBytes
	return result, err
}

func outcome(err error) journal.Outcome {
	if err != nil {
		return journal.Undone
	}
	return journal.Done
}

// planSet plans the set, and refuses places of the backend and directories read live that the set's volumes would hide
// or hold. It warns of what is mounted below them and is not stored. Unless this is a check, it takes the locks.
func (op *operation) planSet(
	ctx context.Context, volumes []snapset.Volume, live []string, d backup.Description,
) (*snapset.Planned, error) {
	lockingRun := op.journeyRun
	if op.Check {
		lockingRun = nil // a check locks nothing
	} else {
		lockingRun.WaitFor(max(0, op.LockTimeout-op.waited))
	}
	planned, err := snapset.PlanOwnedSet(ctx, lockingRun, op.commands, snapset.Request{
		State: snapset.Present, Set: op.Set, Volumes: volumes, Size: op.Size, FreezeTimeout: op.FreezeTimeout,
		Use: snapset.ForBackup,
	})
	if err != nil {
		return nil, err
	}
	mounts, err := filesystem.Mounts()
	if err != nil {
		return nil, err
	}
	members, paths := access.Members(planned.Targets), slices.Concat(d.Local, live)
	op.warnings = slices.Concat(op.warnings, planned.ClusterWarnings(),
		unstoredWarning(mounts, slices.Concat(access.Roots(planned.Targets), live), members))
	return planned, fault.All(access.RefusePlaceOnMember(d, mounts, members), refuseLiveOnMembers(live, mounts, members),
		refuseHidden(paths, mounts, access.Roots(planned.Targets)))
}

// storeSet mounts the set's snapshots for the backend and has it store them and the live directories.
func (op *operation) storeSet(
	ctx context.Context, client *access.IsolatedBackend, set *snapset.OwnedSet, live []string,
) (stored backup.Stored, err error) {
	var specs []filesystem.MountSpec
	tree := op.tree(set.Time(), live)
	for i := range set.Parts {
		p := &set.Parts[i]
		root := access.Root(&p.Target)
		spec, err := p.MountSpec(ctx, op.commands, root, false)
		if err != nil {
			return stored, err
		}
		specs, tree.Roots = append(specs, spec), append(tree.Roots, root)
	}
	if err := client.MountSnapshots(ctx, op.commands, specs); err != nil {
		return stored, err
	}
	failpoint.Hit("backup.mounted")
	return op.storeTree(ctx, client, tree)
}

// tree returns what the backend has to store, with at as the time of the backup.
func (op *operation) tree(at time.Time, roots []string) backup.Tree {
	return backup.Tree{Host: op.Use.Host, Set: op.Set, Time: at, Roots: slices.Clone(roots), ReadAll: op.ReadAll}
}

// storeTree has the backend store the tree, and keeps the record of its files.
func (op *operation) storeTree(
	ctx context.Context, client *access.IsolatedBackend, tree backup.Tree,
) (backup.Stored, error) {
	return record.Storing{
		Backend: client, Config: op.host.Config(), Tree: tree, Recording: op.recording, See: client.InNamespace,
		Keeper: op.host.Records(),
	}.Store(ctx, op.report("backing up with "+op.Use.Backend))
}

// storeLive makes a backup that has no snapshots, only directories that are read live.
func (op *operation) storeLive(
	ctx context.Context, client *access.IsolatedBackend, live []string,
) (ansible.Result, error) {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return ansible.Result{}, err
	}
	op.warnings = append(op.warnings, unstoredWarning(mounts, live, nil)...)
	if op.Check {
		msg := "would back up " + strings.Join(live, ", ") + ", read live"
		return ansible.Result{Changed: true, Msg: msg, Data: map[string]any{}, Warnings: op.warnings}, nil
	}
	stored, err := op.storeTree(ctx, client, op.tree(time.Now(), live))
	if err == nil {
		stored, err = op.confirm(ctx, client, stored)
	}
	return op.backupResult(stored, live, err), err
}

// discardIfLost fails the backup if the snapshots were not valid until the backend had read them. setErr says that, and
// err is the error of the storing. If data of the set are lost, the backend forgets the backup, because part of what it
// read may have been missing. If that cannot be found out, the backup is kept, but counts as failed.
func (op *operation) discardIfLost(
	ctx context.Context, setErr error, client backup.Backend, s backup.Stored, err error,
) (backup.Stored, error) {
	if setErr == nil {
		return s, err
	}
	if !dataLost(setErr) {
		f := fault.New(fault.Of(setErr).Code, "whether the set lasted while it was read cannot be found out: %w", setErr).
			WithHint("the backup is kept, and may lack what was read after a snapshot overflowed: make another")
		return s, fault.All(f, err)
	}
	f := fault.New(fault.Of(setErr).Code, "the set did not last while it was read, so the backup is worth nothing: %w",
		setErr)
	f.Hint = "run the same again"
	if errors.Is(setErr, fault.SnapshotInvalid) {
		f.Hint = "more was written to the volumes than their snapshots hold: give a larger size, " +
			"or back up when less is written"
	}
	if s.ID == "" {
		return s, f // without err, which f explains
	}
	if err := op.host.Forget(ctx, client, s.ID); err != nil {
		const msg = "backup %s, which must not be used, is still in the repository: %w"
		return s, fault.All(f, fault.New(fault.Of(err).Code, msg, s.ID, err))
	}
	return backup.Stored{Warnings: s.Warnings}, f
}

// dataLost reports whether err, which Own.Look or Apart.unmountSnapshots returned, means that data of the set are lost.
func dataLost(err error) bool {
	codes := []fault.Code{fault.SnapshotInvalid, fault.SetDiffers, fault.NotFound, fault.PoolDamaged}
	return slices.ContainsFunc(codes, func(c fault.Code) bool { return errors.Is(err, c) })
}

// confirm makes sure that the backend lists the backup that it says it has stored, and then removes the backups that
// are not to be kept.
func (op *operation) confirm(ctx context.Context, client backup.Backend, s backup.Stored) (backup.Stored, error) {
	list, err := client.List(ctx, op.host.Config(), op.Use.Host)
	if err != nil {
		return s, fault.New(fault.Of(err).Code, "the backup was stored, but the repository cannot be listed: %w", err)
	}
	if !slices.ContainsFunc(list, func(listed backup.Stored) bool { return listed.ID == s.ID && !listed.Incomplete }) {
		const msg = "backend %s says that it stored backup %q, but does not list it"
		return backup.Stored{}, fault.New(fault.BackendFailed, msg, op.Use.Backend, s.ID).
			WithHint("there is no backup: look at the repository, and at the backend")
	}
	s.Warnings = append(s.Warnings, access.FutureWarning(list, op.Use.Host, time.Now())...)
	s.Warnings = append(s.Warnings, access.DamagedWarnings(list, op.Use.Host)...)
	s.Warnings = append(s.Warnings, namesakeWarning(list, s)...)
	s.Warnings = append(s.Warnings, op.prune(ctx, client, list, s)...)
	return s, nil
}

// backupResult returns the result of a backup.
func (op *operation) backupResult(s backup.Stored, live []string, err error) ansible.Result {
	data := map[string]any{
		"backend": op.Use.Backend, "host": op.Use.Host, "name": op.Set, "duration_ms": time.Since(op.begun).Milliseconds(),
	}
	if len(live) > 0 {
		data["read_live"] = live
	}
	result := ansible.Result{Changed: s.ID != "", Data: data}
	for _, warning := range slices.Concat(op.warnings, s.Warnings) {
		result.Warnings = append(result.Warnings, op.host.MaskText(warning))
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

// cowUsed returns how much COW space the snapshots have used, in bytes, by volume.
func cowUsed(set *snapset.OwnedSet) map[string]int64 {
	out := map[string]int64{}
	for _, p := range set.Parts {
		out[p.Target.LV.FullName()] = p.Snapshot.COWUsed
	}
	return out
}
