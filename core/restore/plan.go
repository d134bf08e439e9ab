package restore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/access"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

// queryBackend asks the backend for its description and its list of backups, which may take long, while lookAtHost
// runs. It returns when both have ended. If lookAtHost fails, queryBackend does not wait for the list, but the error
// also names what is wrong with the backend's options.
func (r *restoreRun) queryBackend(
	ctx context.Context, client backup.Backend, lookAtHost func() error,
) (description backup.Description, backups []backup.Stored, err error) {
	listCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	var describeErr, listErr error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if description, describeErr = client.Describe(ctx, r.host.Config()); describeErr == nil {
			describeErr = access.RefuseUnmounted(description, nil)
		}
		if describeErr == nil {
			backups, listErr = client.List(listCtx, r.host.Config(), "")
		}
	}()
	err = lookAtHost()
	if err != nil {
		cancel()
	}
	<-answered
	if err = fault.All(err, describeErr); err != nil {
		return description, nil, err
	}
	return description, backups, listErr
}

// planSet resolves the volumes and plans the set.
func (r *restoreRun) planSet(ctx context.Context) error {
	volumes, err := r.requestedVolumes()
	if err != nil {
		return err
	}
	lockingRun := r.thisRun
	if r.Check {
		lockingRun = nil // a check locks nothing
	}
	r.planned, err = snapset.PlanOwnedSet(ctx, lockingRun, r.commands, snapset.Request{
		State: snapset.Present, Set: r.Set, Volumes: volumes, Size: r.Size,
		FreezeTimeout: r.FreezeTimeout, Use: snapset.ForRestore,
	})
	if errors.Is(err, fault.BadArguments) && len(r.Volumes) == 0 {
		return fault.New(fault.BadArguments, "not all that backup %s has can be restored into snapshots: %w",
			r.backup.ID, err).
			WithHint("name the volumes, of %s; what was read live is restored with the backend's own tool",
				strings.Join(r.backup.Roots, ", "))
	}
	return err
}

// checkRepositoryApart refuses a repository that lies on one of the volumes.
func (r *restoreRun) checkRepositoryApart(description backup.Description) error {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	return access.RefusePlaceOnMember(description, mounts, access.Members(r.planned.Targets))
}

// checkNotOwnState refuses a volume that holds Rewind's own state and nothing else: a restore leaves that alone.
func checkNotOwnState(targets []snapset.Target) error {
	for i := range targets {
		for _, m := range targets[i].Mounts {
			if m.Point == journey.StateDir {
				return fault.New(fault.BadArguments, "%s, on %s, holds the state of Rewind itself, which a restore leaves alone",
					targets[i].LV.FullName(), m.Point).WithHint("leave it out")
			}
		}
	}
	return nil
}

// checkRollback returns, before anything is written, what would keep the following rollback from beginning.
func (r *restoreRun) checkRollback(ctx context.Context) error {
	if !r.Merge {
		return nil
	}
	err := rollback.CheckVolumes(ctx, r.Rollback, r.planned.Targets)
	if err == nil {
		return nil
	}
	f := *fault.Of(err)
	f.Msg = "a rollback to what is restored would fail: " + f.Msg
	return &f
}

// plannedRoots returns the names that the planned volumes have in a backup; none before the set is planned.
func (r *restoreRun) plannedRoots() []string {
	if r.planned == nil {
		return nil
	}
	return access.Roots(r.planned.Targets)
}

// checkBackupHasVolumes fails with not_found if the backup lacks a planned volume.
func (r *restoreRun) checkBackupHasVolumes() error {
	var errs []error
	for _, root := range r.plannedRoots() {
		if !slices.Contains(r.backup.Roots, root) {
			errs = append(errs, fault.New(fault.NotFound, "backup %s has no %s; it has %s",
				r.backup.ID, root, strings.Join(r.backup.Roots, ", ")).
				WithHint("name volumes that are in it, mounted where they were then"))
		}
	}
	return fault.All(errs...)
}

// requestedVolumes returns the volumes that the user named, or all that are in the backup if the user named none.
func (r *restoreRun) requestedVolumes() ([]snapset.Volume, error) {
	if len(r.Volumes) == 0 {
		return access.VolumesOfRoots(r.backup.Roots), nil
	}
	var out []snapset.Volume
	for _, v := range r.Volumes {
		if v.Live {
			return nil, fault.New(fault.BadArguments, "volumes: %s has no snapshot to restore into", v.Name).
				WithHint("leave it out; what was read live is restored with the backend's own tool")
		}
		out = append(out, v.Volume)
	}
	return out, nil
}
