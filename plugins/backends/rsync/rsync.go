// Package rsync is the backend that stores sets as dated trees with rsync, in a local directory or on another host by
// ssh. A file that has not changed since the last backup is a hard link to the file in that backup.
//
//	PATH/HOST/20261123T200000Z/dat/...     the tree, with each root at its own path
//	PATH/HOST/20261123T200000Z.json        the marker, which describes the backup; written last: a tree without a marker
//	                                       is no backup
//	PATH/HOST/.lock                        locked (flock) while a run stores or removes; on another host each run has a
//	                                       file .lock-NAME.json instead
//	PATH/HOST/.machine                     whose backups these are: another server of that name may only read them
//
// The ID of that backup is 20261123T200000Z.HOST, because hosts that share a PATH may store in the same second. In a
// local directory the marker is locked (flock) while the tree is read or removed.
//
// Everything on another host is done with rsync, so an ssh key that may run nothing else there is enough.
package rsync

import (
	"context"
	"path/filepath"
	"slices"
	"sync"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Name is the name of the backend.
const Name = "rsync"

// Backend is the rsync backend. It is safe for concurrent use.
type Backend struct {
	run command.Streamer

	mu        sync.Mutex
	installed string // the version of the installed rsync; empty: not asked yet
}

var _ backup.Backend = (*Backend)(nil)

// New returns the rsync backend.
func New() backup.Backend { return &Backend{run: command.Local{}} }

// open decodes the options and finds out which rsync is installed.
func (b *Backend) open(ctx context.Context, c backup.Config) (*tool, error) {
	o, err := parseOptions(c)
	if err != nil {
		return nil, err
	}
	v, err := b.version(ctx)
	if err != nil {
		return nil, err
	}
	return &tool{Streamer: b.run, config: c, options: o, version: v}, nil
}

// version returns the version of the installed rsync. It asks rsync only once.
func (b *Backend) version(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.installed != "" {
		return b.installed, nil
	}
	out, err := b.run.Run(ctx, command.Cmd{Argv: []string{"rsync", "--version"}})
	if err != nil {
		return "", err
	}
	b.installed, err = parseVersion(out.Stdout)
	return b.installed, err
}

// Describe checks the options and asks rsync for its version.
func (b *Backend) Describe(ctx context.Context, c backup.Config) (backup.Description, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Description{}, err
	}
	d := backup.Description{Name: Name, Version: t.version, Recording: true}
	if !t.options.overSSH() {
		d.Local = append(d.Local, t.options.dir)
	}
	if t.options.Scratch != "" {
		d.Local = append(d.Local, filepath.Clean(t.options.Scratch))
	}
	return d, nil
}

// Check checks that the place exists, can be written, and can hold the metadata of files.
func (b *Backend) Check(ctx context.Context, c backup.Config) ([]string, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	return t.place().probe(ctx)
}

// List returns the backups that have a marker.
func (b *Backend) List(ctx context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	trees, err := t.place().readTrees(ctx, host)
	if err != nil {
		return nil, err
	}
	return storedOf(backupsOf(trees)), nil
}

// storedOf returns the descriptions of backups. All trees must have a marker.
func storedOf(trees []datedTree) []backup.Stored {
	list := []backup.Stored{}
	for _, one := range trees {
		list = append(list, *one.stored)
	}
	return list
}

// backupsOf returns the trees that have a marker, the one with the latest time first.
func backupsOf(trees []datedTree) []datedTree {
	list := slices.DeleteFunc(slices.Clone(trees), func(t datedTree) bool { return t.stored == nil })
	slices.SortStableFunc(list, func(a, b datedTree) int { return b.stored.Time.Compare(a.stored.Time) })
	return list
}

// find returns the tree of the backup with this ID. Fault: not_found.
func (t *tool) find(ctx context.Context, id string) (datedTree, error) {
	host := ""
	if named, ok := splitID(id); ok {
		host = named.host
	}
	trees, err := t.place().readTrees(ctx, host)
	if err != nil {
		return datedTree{}, err
	}
	return t.findIn(trees, id)
}

func (t *tool) findIn(trees []datedTree, id string) (datedTree, error) {
	for _, one := range backupsOf(trees) {
		if one.id() == id {
			return one, nil
		}
	}
	return datedTree{}, t.notFound(id)
}

func (t *tool) notFound(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in %s", id, t.options.Path).
		WithHint("snap_backup_info lists those there are")
}

// Forget removes the marker and then the tree. It takes the same lock as Store: a Store at work may make links to this
// tree, and removes trees without a marker as leftovers of killed runs.
func (b *Backend) Forget(ctx context.Context, c backup.Config, id string) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	one, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	held, err := t.place().lock(ctx, one.host)
	if err != nil {
		return err
	}
	if err = t.refuseOtherMachine(one.host, held.machine); err == nil {
		_, err = t.findIn(held.trees, id) // if it is not found, it was just forgotten
	}
	if err == nil {
		err = t.place().remove(ctx, one.host, []string{one.name}, ignoreProgress)
	}
	return fault.All(err, t.runDespiteContext(ctx, held.unlock))
}

// ignoreProgress is a Report for calls whose progress nobody wants.
func ignoreProgress(backup.Progress) {}

// Settle removes what killed runs have left: trees without a marker, locks, and trees that were fetched to be read.
func (b *Backend) Settle(ctx context.Context, c backup.Config) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	var roomsErr error
	if t.options.Scratch != "" {
		roomsErr = backup.SettleRooms(t.options.Scratch)
	}
	return fault.All(t.settle(ctx), roomsErr)
}
