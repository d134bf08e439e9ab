package snapset

import (
	"context"
	"encoding/json"
	"errors"
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

// Kind is the kind of run that changes sets.
const Kind = "snapshot"

// The last steps in the journal entry of a run that only mounted a set, and of one whose set was rolled back together
// with the journal.
const (
	StepMounted    = "mounted"
	StepRolledBack = "rolled back"
)

// The states that a set can be asked to be in.
const (
	Present   = "present"
	Absent    = "absent"
	Mounted   = "mounted"
	Unmounted = "unmounted"
)

// Request is what lvm_snapshot asks of a set. It is passed to the run as JSON.
type Request struct {
	State         string        `json:"state"` // Present, Absent, Mounted or Unmounted
	Set           string        `json:"set"`   // its name
	Volumes       []Volume      `json:"volumes"`
	Size          string        `json:"size"`           // of each COW space, as lvm.ParseSize reads it; empty: the default
	Each          bool          `json:"each"`           // consistency=volume: each volume at an instant of its own
	FreezeTimeout time.Duration `json:"freeze_timeout"` // how long writes may wait
	Replace       bool          `json:"replace"`        // take an overflowed set again
	Mount         MountOptions  `json:"mount"`
	Check         bool          `json:"check"` // only say what would be done
	Use           Use           `json:"use,omitempty"`
	NoPostgreSQL  bool          `json:"no_postgresql,omitempty"` // do not look for PostgreSQL clusters
}

// Limit is how long the run may take. Two of its waits for dirty pages may each take flushLimit.
func (r Request) Limit() time.Duration {
	return journey.LockWait + 2*flushLimit + 2*r.FreezeTimeout + 5*time.Minute
}

// description is the command that asked for this. Other runs name it when they wait for this run's locks.
func (r Request) description() string {
	switch r.Use {
	case ForBackup:
		return "snap_backup action=backup name=" + r.Set
	case ForRestore:
		return "snap_backup action=restore name=" + r.Set
	}
	return "lvm_snapshot " + r.State + " " + r.Set
}

func (s Server) do(ctx context.Context, run *journey.Run, data json.RawMessage) (ansible.Result, error) {
	var req Request
	if err := json.Unmarshal(data, &req); err != nil {
		return ansible.Result{}, fault.New(fault.Internal, "request: %w", err)
	}
	result, err := s.Apply(ctx, run, req)
	return result.ForAnsible(), err
}

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
	var result Result
	switch {
	case req.State == Absent:
		result, err = op.makeAbsent(ctx)
	case req.State == Unmounted:
		result, err = op.makeUnmounted(ctx)
	case op.set == nil:
		result, err = op.takeNew(ctx)
	default:
		result, err = op.keepExisting(ctx)
	}
	if err == nil && req.State == Mounted {
		result, err = op.makeMounted(ctx, result)
	}
	result.Commands = op.commands.Commands()
	return result, err
}

// setOperation is one operation on a set: the request, and the state of the server that was read for it.
type setOperation struct {
	Request
	server   Server
	run      *journey.Run
	commands *command.Recorder
	lvm      *lvm.LVM
	view     *View
	targets  []Target
	set      *Set // the set of that name; nil: there is none
}

// readAndLock reads the state of the server, takes the locks, and reads the state again if another run may have changed
// it meanwhile. Without a run it takes no locks.
func (s Server) readAndLock(ctx context.Context, run *journey.Run, req Request) (*setOperation, error) {
	commands := command.NewRecorder(s.Runner)
	op := &setOperation{Request: req, server: s, run: run, commands: commands, lvm: s.LVM(commands)}
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
func (op *setOperation) readState(ctx context.Context) (locks []string, err error) {
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

// checkLocking refuses a set with a thin volume if the program cannot make LVM's commands wait, as the common instant
// of a thin volume requires.
func (op *setOperation) checkLocking(ctx context.Context) error {
	thin := func(t Target) bool { return t.LV.Kind == lvm.Thin }
	if len(op.targets) < 2 || op.Each || !slices.ContainsFunc(op.targets, thin) {
		return nil
	}
	return op.lvm.CheckLockDir(ctx)
}

// takeNew takes the set, which does not exist yet.
func (op *setOperation) takeNew(ctx context.Context) (Result, error) {
	if len(op.targets) == 0 {
		none := None(op.view.Report, op.Set)
		return Result{}, fault.New(fault.NotFound, "%s, and volumes names nothing to take it of", none).
			WithHint("volumes=/dat,/pccehr takes it")
	}
	want := SetSpec{
		Set: op.Set, Volumes: op.Volumes, Size: op.Size, Each: op.Each, NoPostgreSQL: op.NoPostgreSQL,
	}
	plan, err := op.view.New(want, journal.NewID(), op.targets)
	if err := fault.All(err, op.checkLocking(ctx)); err != nil {
		return Result{}, err
	}
	if err := op.checkReserveSpace(); err != nil {
		return Result{}, err
	}
	if op.Check {
		return op.withFstabWarnings(newSetResult(plan, nil, "would take")), nil
	}
	result, err := op.takePlanned(ctx, plan, func() error { return op.run.Finish("taken", journal.Done, nil) })
	if !result.Took {
		return Result{}, err
	}
	return op.withFstabWarnings(result), err
}

// takePlanned takes the planned set, and calls record to write that into the journal. After an error nothing of the set
// is left, unless only record failed: then the result says that it was taken.
func (op *setOperation) takePlanned(
	ctx context.Context, plan *Plan, record func() error,
) (result Result, err error) {
	// The entry comes first: if this process is killed, whoever settles it removes the reserve file.
	if err := op.run.Begin(Kind, op.Set, plan.Groups(), "taking", plan); err != nil {
		return Result{}, err
	}
	reserve := op.server.journalReserve(plan.ID)
	defer func() { removeReserve(reserve, err) }()
	if err := createReserve(reserve); err != nil {
		return Result{}, op.closeFailed(err)
	}
	op.run.Progress("taking set "+op.Set, -1)
	pause, err := take(ctx, op.lvm, plan, op.FreezeTimeout)
	if err == nil {
		err = op.verify(ctx, plan)
	}
	if err != nil {
		return Result{}, op.closeFailed(err)
	}
	return takenResult(plan, pause, op.FreezeTimeout), runWithReserve(reserve, record)
}

// mayHoldVolume says that after this error a volume may still be suspended, or a file system frozen, or that a command
// of LVM is still running, which may suspend a volume and make what an undo would not have found.
func mayHoldVolume(err error) bool {
	return errors.Is(err, filesystem.ErrFreezing) || errors.Is(err, lvm.ErrSuspending) ||
		errors.Is(err, lvm.ErrUnfinished)
}

// closeFailed closes the journal entry of an operation that failed, if nothing is left of the operation. Otherwise the
// entry stays open: it is settled when this process has ended, and before any other run changes these volume groups.
func (op *setOperation) closeFailed(err error) error {
	if errors.Is(err, errLeftover) || mayHoldVolume(err) {
		return err
	}
	return fault.All(err, op.run.Finish("undone", journal.Undone, nil))
}

// verify reads LVM's state again when nothing is frozen any more. LVM must list every member, and none may have
// overflowed already. It undoes the set otherwise.
func (op *setOperation) verify(ctx context.Context, p *Plan) error {
	report, err := op.lvm.Report(ctx)
	if err == nil {
		op.view.Report = report
		op.set, err = Find(report, p.Set)
	}
	if err == nil && (op.set == nil || op.set.ID != p.ID || !op.set.Complete()) {
		err = fault.New(fault.CommandFailed, "LVM took the snapshots of set %q but does not list all of them", p.Set)
	}
	if err == nil {
		err = fault.All(op.set.Check(), op.set.checkActive(report))
	}
	if err == nil {
		return nil
	}
	return fault.All(err, undoAfterFailure(ctx, op.lvm, p))
}

// checkActive fails with unsupported if a snapshot of an active volume is inactive: lvchange says nothing and succeeds
// when it may not activate a volume. Such a snapshot could neither be mounted nor backed up.
func (s *Set) checkActive(report *lvm.Report) error {
	var errs []error
	for _, v := range s.Snapshots {
		if origin, ok := report.Volume(v.VG, v.Origin); ok && origin.Active && !v.Active {
			errs = append(errs, unsupported("LVM did not activate %s, though %s is active", v.FullName(), origin.FullName()).
				WithHint("%s", lvm.NotActivated))
		}
	}
	return fault.All(errs...)
}
