package snapset

import (
	"context"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
)

// Apply is Server.Apply for the server that the program runs on, with programs that r starts.
func Apply(ctx context.Context, run *journey.Run, r command.Runner, req Request) (Result, error) {
	s := ThisServer()
	s.Runner = r
	return s.Apply(ctx, run, req)
}

// Apply brings a set into the requested state, or with Check says what that would change. run is nil with Check.
// Faults: those of View.Resolve, View.New, Find and Set.Check; locked, not_found, set_differs, merging, busy, no_space,
// freeze_timeout, interrupted, mount_failed, command_failed.
func (s Server) Apply(ctx context.Context, run *journey.Run, req Request) (Result, error) {
	op, err := s.readAndLock(ctx, run, req)
	if err != nil {
		return Result{Commands: op.commands.Commands()}, err
	}
	result, err := op.perform(ctx)
	result.Commands = op.commands.Commands()
	return result, err
}

// operation is one request under way, and the state of the server that was read for it. Its methods decide what is done
// and in which order. What changes the server are the functions and types that they call: newSet takes a set, mounter
// mounts it, and extendSnapshots, unmountTargets and removeSet do what their names say.
type operation struct {
	Request
	server   Server
	run      *journey.Run // nil with Check
	commands *command.Recorder
	lvm      *lvm.LVM
	view     *View
	targets  []Target // the named volumes
	set      *Set     // the set of that name; nil: there is none
}

// readAndLock reads the state of the server, takes the locks, and reads the state again if another run may have changed
// it meanwhile. Without a run it takes no locks.
func (s Server) readAndLock(ctx context.Context, run *journey.Run, req Request) (*operation, error) {
	commands := command.NewRecorder(s.Runner)
	op := &operation{Request: req, server: s, run: run, commands: commands, lvm: s.LVM(commands)}
	start := time.Now()
	locks, err := op.readState(ctx)
	if err != nil || run == nil {
		return op, err
	}
	stale, err := run.Lock(ctx, locks, req.description(), start)
	if err != nil || !stale {
		return op, err
	}
	_, err = op.readState(ctx)
	return op, err
}

// readState reads the state of LVM and the mounts, and finds the set and the volumes in it. It returns the names of the
// locks that the operation needs.
func (op *operation) readState(ctx context.Context) (locks []string, err error) {
	report, err := op.lvm.Report(ctx)
	if err != nil {
		return nil, err
	}
	mounts, err := op.server.Mounts()
	if err != nil {
		return nil, err
	}
	op.view = op.server.View(report, mounts)
	op.view.TakeParts = op.Use == ForRestore // a backup names file systems, but not the volumes of their logs
	if op.set, err = Find(report, op.Set); err != nil {
		return nil, err
	}
	if op.targets, err = op.view.Resolve(op.Volumes); err != nil {
		return nil, err
	}
	// Two sets of one name must not be taken at the same time in two groups.
	locks = []string{journey.SetLock(op.Set)}
	if op.set != nil {
		locks = append(locks, op.set.Groups()...)
	}
	for _, t := range op.targets {
		locks = append(locks, t.LV.VG)
	}
	return sortedUnique(locks), nil
}

// perform brings the set into the requested state.
func (op *operation) perform(ctx context.Context) (Result, error) {
	switch op.State {
	case Absent:
		return op.makeAbsent(ctx)
	case Unmounted:
		return op.makeUnmounted(ctx)
	}
	result, err := op.makePresent(ctx)
	if err == nil && op.State == Mounted {
		return op.makeMounted(ctx, result)
	}
	return result, err
}

// makePresent takes the set if there is none. One that exists and is what is asked for stays: snapshots that are
// smaller than asked for are extended, and an overflowed set is taken again if Replace says so.
func (op *operation) makePresent(ctx context.Context) (Result, error) {
	if op.set == nil {
		if err := op.checkMountPoints(); err != nil {
			return Result{}, err
		}
		return op.takeNew(ctx)
	}
	replace, err := op.set.checkWanted(op.Request, op.targets)
	if err == nil {
		err = op.checkMountPoints()
	}
	switch {
	case err != nil:
		return Result{}, err
	case replace:
		return op.replace(ctx)
	}
	return op.extend(ctx)
}

// checkMountPoints refuses mount points that cannot be used before anything is taken, extended or replaced.
func (op *operation) checkMountPoints() error {
	if op.State != Mounted || op.set == nil && len(op.targets) == 0 {
		return nil // without a set and volumes to take, takeNew says what is missing
	}
	_, err := op.planMounts()
	return err
}

// targetSetOrigins makes the set's origins the targets, unless the user named volumes.
func (op *operation) targetSetOrigins() (err error) {
	if len(op.targets) > 0 {
		return nil
	}
	op.Volumes = op.set.volumes()
	op.targets, err = op.view.Resolve(op.Volumes)
	return err
}
