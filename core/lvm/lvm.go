// Package lvm says what LVM's volume groups, volumes and snapshots are, and changes them.
//
// It is the only package that knows LVM's and dmsetup's options, output and
// error texts. What it promises:
//
//   - one Report is one process and holds every volume group;
//   - a volume is bad only by name: each of LVM's states has a State, none is dropped;
//   - a change never prompts, never shrinks, and fails with a fault whose code
//     says why (no space, exists, busy, …), with LVM's own words in the facts;
//   - all sizes are bytes, all device-mapper figures are 512-byte sectors.
//
// What LVM's metadata says and what the kernel does may differ: a merge is
// recorded before it runs. Report is the metadata, Status and Info the kernel.
package lvm

import (
	"context"
	"os"
	"slices"
	"time"

	"go.pcc.com/rewind/core/command"
)

// changeLimit bounds a command that changes metadata. An lvcreate waits for
// another LVM command's lock and for the origin's writes in flight: on a busy
// disk that is tens of seconds, never minutes.
const changeLimit = 5 * time.Minute

// LVM runs lvm and dmsetup. It keeps no state of its own and is safe for concurrent use.
type LVM struct {
	run    command.Runner
	kernel Kernel // nil: dmsetup
	mapper func() (Mapper, error)
	memory func() (unlock func(), err error) // keeps this program in memory
	lock   Locker
}

// New returns an LVM whose programs r starts, on this host's device-mapper.
func New(r command.Runner) *LVM {
	return &LVM{run: r, mapper: OpenMapper, memory: lockMemory, lock: lockGroups}
}

// Locker takes LVM's own locks of volume groups. limit bounds the wait for an LVM
// command that has one.
type Locker func(ctx context.Context, groups []string, limit time.Duration) (Locks, error)

// Locks are LVM's locks of volume groups: the open files that have them, one for
// each group, or none where nothing is locked.
type Locks struct {
	Files   []*os.File
	Release func()
}

// On returns an LVM that changes the devices of another Mapper than this host's,
// for tests. It takes none of LVM's locks and leaves this program's memory alone.
func (l *LVM) On(mapper func() (Mapper, error)) *LVM {
	on := *l
	on.mapper, on.lock = mapper, noLocks
	on.memory = func() (func(), error) { return func() {}, nil }
	return &on
}

func noLocks(context.Context, []string, time.Duration) (Locks, error) {
	return Locks{Release: func() {}}, nil
}

// Locking returns an LVM that takes other locks than this host's, for tests.
func (l *LVM) Locking(lock Locker) *LVM {
	locking := *l
	locking.lock = lock
	return &locking
}

// look runs a command that changes nothing: it is killed with ctx.
func (l *LVM) look(ctx context.Context, argv ...string) (command.Output, error) {
	return l.run.Run(ctx, command.Cmd{Argv: argv})
}

// change runs a command that changes state. Once started it is waited for even
// if ctx ends, because an LVM command killed half-way leaves devices suspended.
func (l *LVM) change(ctx context.Context, argv ...string) error {
	return l.changeUnder(ctx, Locks{}, argv...)
}

// changeUnder is change under locks that this process has: the first one lasts as
// long as the command.
func (l *LVM) changeUnder(ctx context.Context, locks Locks, argv ...string) error {
	if argv[0] == "lvm" {
		argv = slices.Insert(argv, 2, "--config", configOf(argv[1]))
	}
	c := command.Cmd{Argv: argv, Changes: true, Limit: changeLimit}
	if len(locks.Files) > 0 {
		c.Hold = locks.Files[0]
	}
	_, err := l.run.Run(ctx, c)
	return explain(err)
}

// configOf is what is overridden for a command that changes state.
func configOf(name string) string {
	if name == "lvconvert" {
		return config + mergeConfig
	}
	return config
}
