package restore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/run"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

// ask has the backend say what it is and what it has, which may take long, while fn looks at this host. It returns when
// both have ended; if fn fails the list is not waited for, but what is wrong with the backend's options is said too.
func (w *work) ask(ctx context.Context, client backup.Backend, fn func() error) (d backup.Description, all []backup.Stored, err error) {
	listing, cancel := context.WithCancel(ctx)
	defer cancel()
	var wrong, unlisted error
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		if d, wrong = client.Describe(ctx, w.host.Config()); wrong == nil {
			wrong = run.Mounted(d, nil)
		}
		if wrong == nil {
			all, unlisted = client.List(listing, w.host.Config(), "")
		}
	}()
	err = fn()
	if err != nil {
		cancel()
	}
	<-asked
	if err = fault.All(err, wrong); err != nil {
		return d, nil, err
	}
	return d, all, unlisted
}

// planSet finds the volumes and plans the set.
func (w *work) planSet(ctx context.Context) error {
	volumes, err := w.volumes()
	if err != nil {
		return err
	}
	trip := w.trip
	if w.Check {
		trip = nil // a check locks nothing
	}
	w.planned, err = snapset.PlanOwn(ctx, trip, w.commands, snapset.Request{
		State: snapset.Present, Set: w.Set, Volumes: volumes, Size: w.Size, FreezeTimeout: w.FreezeTimeout, Use: snapset.ForRestore,
	})
	if errors.Is(err, fault.BadArguments) && len(w.Volumes) == 0 {
		f := fault.New(fault.BadArguments, "not all that backup %s has can be restored into snapshots: %w", w.stored.ID, err)
		return f.WithHint("name the volumes, of %s; what was read live is restored with the backend's own tool", strings.Join(w.stored.Roots, ", "))
	}
	return err
}

// apart refuses a repository that lies on one of the volumes.
func (w *work) apart(d backup.Description) error {
	mounts, err := filesystem.Mounts()
	if err != nil {
		return err
	}
	return run.OnMember(d, mounts, run.Members(w.planned.Targets))
}

// mergeable says, before anything is written, what would keep the rollback that is to follow from beginning.
func (w *work) mergeable(ctx context.Context) error {
	if !w.Merge {
		return nil
	}
	err := rollback.CheckVolumes(ctx, w.Rollback, w.planned.Targets)
	if err == nil {
		return nil
	}
	f := *fault.Of(err)
	f.Msg = "a rollback to what is restored would fail: " + f.Msg
	return &f
}

// roots are the names that the planned volumes have in a backup.
func (w *work) roots() []string {
	if w.planned == nil {
		return nil
	}
	return run.Roots(w.planned.Targets)
}

// holdsAll fails if the backup lacks a volume.
func (w *work) holdsAll() error {
	var wrong []error
	for _, root := range w.roots() {
		if !slices.Contains(w.stored.Roots, root) {
			wrong = append(wrong, fault.New(fault.NotFound, "backup %s has no %s; it has %s", w.stored.ID, root, strings.Join(w.stored.Roots, ", ")).
				WithHint("name volumes that are in it, mounted where they were then"))
		}
	}
	return fault.All(wrong...)
}

// volumes are those that the user named, or all that are in the backup.
func (w *work) volumes() ([]snapset.Volume, error) {
	if len(w.Volumes) == 0 {
		return run.OfRoots(w.stored.Roots), nil
	}
	var out []snapset.Volume
	for _, v := range w.Volumes {
		if v.Live {
			return nil, fault.New(fault.BadArguments, "volumes: %s has no snapshot to restore into", v.Name).
				WithHint("leave it out; what was read live is restored with the backend's own tool")
		}
		out = append(out, v.Volume)
	}
	return out, nil
}
