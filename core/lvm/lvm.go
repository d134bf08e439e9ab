// Package lvm reads and changes LVM's volume groups, volumes and snapshots.
//
// It is the only package that knows LVM's and dmsetup's options, output and error texts. What it promises:
//
//   - one Report takes one process and holds every volume group;
//   - each state and health that LVM can report has a name (State, Health), and one that is new counts as bad;
//   - a change never prompts, never shrinks, and fails with a fault whose code
//     says why (no space, exists, busy, …), with LVM's own words in the facts;
//   - all sizes are bytes, all device-mapper figures are 512-byte sectors.
//
// LVM's metadata and the kernel may differ: LVM records a merge before the kernel runs it. Report returns the metadata,
// Status and Info return what the kernel does.
//
// Functions name the faults that a caller has to expect. In addition, every function that runs a command may return
// unsupported (the program is not installed), timeout (the command reached its limit), interrupted (ctx ended), and any
// code of errorPatterns (explain.go). A change that reached its limit is also ErrUnfinished.
package lvm

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// ChangeLimit is the time limit of a command that changes something. An lvcreate waits for the lock of another LVM
// command and for the origin's writes in flight: on a busy disk that takes tens of seconds. While storage does not
// answer it takes as long as that lasts, such as the minutes in which multipath or a storage cluster fails over.
const ChangeLimit = 10 * time.Minute

// ErrUnfinished says that a command which changes something has reached ChangeLimit and is still running, since ending
// it halfway does damage. It may change the volumes at any later time. So whoever gets this error must not conclude
// from LVM's state that nothing was changed, and must start no other change. The work is finished when the command has
// ended: see journey.AwaitCommands.
var ErrUnfinished = errors.New("it may still change the volumes")

// LVM runs lvm and dmsetup. It keeps no state of its own and is safe for concurrent use.
type LVM struct {
	runner     command.Runner
	kernel     Kernel // what Status and Info ask; nil: they run dmsetup
	openMapper func() (Mapper, error)
	lockMemory func() (unlock func(), err error)
	lockGroups Locker
	lockFiles  lockFiles
	dir        string
}

// New returns an LVM that starts lvm and dmsetup through r and uses this host's device-mapper and LVM's own locks.
func New(r command.Runner) *LVM {
	return &LVM{
		runner: r, openMapper: OpenMapper, lockMemory: lockMemory, lockGroups: lockGroups, lockFiles: hostLocks, dir: etcDir,
	}
}

// Locker takes LVM's own locks of volume groups. limit bounds the wait for an LVM command that holds one of them.
// Fault: locked.
type Locker func(ctx context.Context, groups []string, limit time.Duration) (Locks, error)

// Locks are LVM's locks of volume groups, held by this process.
type Locks struct {
	Files   []*os.File // the open lock files, one for each group; none where nothing is locked
	Release func()     // gives up all of the locks
}

// On returns a copy of l that changes devices through the given Mapper instead of this host's device-mapper, for tests.
// The copy takes none of LVM's locks and does not lock this program into memory.
func (l *LVM) On(mapper func() (Mapper, error)) *LVM {
	copied := *l
	copied.openMapper, copied.lockGroups = mapper, noLocks
	copied.lockMemory = func() (func(), error) { return func() {}, nil }
	return &copied
}

// etcDir is LVM's directory: its configuration, and the copies that it writes of its metadata at each change.
const etcDir = "/etc/lvm"

// Dir returns LVM's directory, /etc/lvm, where each command that changes something writes.
func (l *LVM) Dir() string { return l.dir }

// In returns a copy of l whose Dir is another directory, for tests.
func (l *LVM) In(dir string) *LVM {
	copied := *l
	copied.dir = dir
	return &copied
}

// noLocks is a Locker that takes no locks.
func noLocks(context.Context, []string, time.Duration) (Locks, error) {
	return Locks{Release: func() {}}, nil
}

// Locking returns a copy of l that takes its locks with lock instead of taking this host's, for tests.
func (l *LVM) Locking(lock Locker) *LVM {
	copied := *l
	copied.lockGroups = lock
	return &copied
}

// query runs a command that changes nothing. The command is killed when ctx ends.
func (l *LVM) query(ctx context.Context, argv ...string) (command.Output, error) {
	return l.runner.Run(ctx, command.Cmd{Argv: argv})
}

// change runs a command that changes state. Once the command has started, change waits for it even if ctx ends, because
// an LVM command that is killed halfway leaves devices suspended. At ChangeLimit the error is ErrUnfinished.
func (l *LVM) change(ctx context.Context, argv ...string) error {
	_, err := l.changeLocked(ctx, Locks{}, argv...)
	return err
}

// changeLocked is change for a caller that holds locks. The command inherits the first lock file, so that lock lasts
// until the command ends, even if this process dies before. It returns what the command has printed.
func (l *LVM) changeLocked(ctx context.Context, locks Locks, argv ...string) (command.Output, error) {
	if argv[0] == "lvm" {
		argv = slices.Insert(argv, 2, "--config", configFor(argv[1]))
	}
	c := command.Cmd{Argv: argv, Changes: true, Limit: ChangeLimit}
	if len(locks.Files) > 0 {
		c.Hold = locks.Files[0]
	}
	out, err := l.runner.Run(ctx, c)
	if isRunning(err) {
		return out, fault.New(fault.Of(err).Code, "%w: %w", err, ErrUnfinished)
	}
	return out, explain(err)
}

// isRunning reports whether err says that a command was left running.
func isRunning(err error) bool {
	failed := (*command.Error)(nil)
	return errors.As(err, &failed) && failed.Running != 0
}

// configFor returns the settings of lvm.conf that are overridden for a subcommand of lvm that changes state.
func configFor(subcommand string) string {
	if subcommand == "lvconvert" {
		return config + mergeConfig
	}
	return config
}
