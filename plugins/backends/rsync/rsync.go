// Package rsync stores sets as dated trees with rsync, in a directory or on a host that ssh reaches. A file that has
// not changed is a hard link to the one of the tree before.
//
//	PATH/HOST/20261123T200000Z/dat/...     the tree: each root under its own path
//	PATH/HOST/20261123T200000Z.json        the marker: written last, says what the tree is; without it there is no backup
//	PATH/HOST/.lock                        held while one is stored or removed; on an ssh target .lock-NAME.json, one for
//	                                       each holder
//
// The ID of that backup is 20261123T200000Z.HOST: hosts that share a PATH may store at the same second. Its marker is
// locked (flock) while the tree is read where it lies, or is removed there.
//
// Everything on an ssh target is done with rsync, so that a key which may run nothing else there is enough.
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

// Name is what the backend is called.
const Name = "rsync"

// Backend is the backend. It is safe for concurrent use.
type Backend struct {
	run command.Streamer

	mu   sync.Mutex
	have string // the installed rsync's version; empty: not asked yet
}

var _ backup.Backend = (*Backend)(nil)

// New returns the backend.
func New() backup.Backend { return &Backend{run: command.Local{}} }

// open reads the options and finds out which rsync there is.
func (b *Backend) open(ctx context.Context, c backup.Config) (*tool, error) {
	o, err := read(c)
	if err != nil {
		return nil, err
	}
	v, err := b.version(ctx)
	if err != nil {
		return nil, err
	}
	return &tool{Streamer: b.run, config: c, options: o, version: v}, nil
}

// version asks rsync once.
func (b *Backend) version(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.have != "" {
		return b.have, nil
	}
	out, err := b.run.Run(ctx, command.Cmd{Argv: []string{"rsync", "--version"}})
	if err != nil {
		return "", err
	}
	b.have, err = parseVersion(out.Stdout)
	return b.have, err
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

// Check says whether the place is there, can be written, and can hold what a tree has.
func (b *Backend) Check(ctx context.Context, c backup.Config) ([]string, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	return t.place().probe(ctx)
}

// List reads the markers.
func (b *Backend) List(ctx context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return nil, err
	}
	trees, err := t.place().look(ctx, host)
	if err != nil {
		return nil, err
	}
	return all(complete(trees)), nil
}

// all are the backups that trees are.
func all(trees []tree) []backup.Stored {
	list := []backup.Stored{}
	for _, one := range trees {
		list = append(list, *one.stored)
	}
	return list
}

// complete returns the trees that are backups, that of the latest time first.
func complete(trees []tree) []tree {
	list := slices.DeleteFunc(slices.Clone(trees), func(t tree) bool { return t.stored == nil })
	slices.SortStableFunc(list, func(a, b tree) int { return b.stored.Time.Compare(a.stored.Time) })
	return list
}

// find returns the tree of an ID.
func (t *tool) find(ctx context.Context, id string) (tree, error) {
	host := ""
	if named, ok := splitID(id); ok {
		host = named.host
	}
	trees, err := t.place().look(ctx, host)
	if err != nil {
		return tree{}, err
	}
	return t.pick(trees, id)
}

func (t *tool) pick(trees []tree, id string) (tree, error) {
	for _, one := range complete(trees) {
		if one.id() == id {
			return one, nil
		}
	}
	return tree{}, t.unknown(id)
}

func (t *tool) unknown(id string) error {
	return fault.New(fault.NotFound, "there is no backup %q in %s", id, t.options.Path).
		WithHint("snap_backup_info lists those there are")
}

// Forget removes the marker, and then the tree, under the lock that a Store holds: one that runs links to the tree, or
// takes what has no marker for what a killed run left.
func (b *Backend) Forget(ctx context.Context, c backup.Config, id string) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	one, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	unlock, trees, err := t.place().lock(ctx, one.host)
	if err != nil {
		return err
	}
	if _, err = t.pick(trees, id); err == nil { // else it was forgotten a moment ago
		err = t.place().remove(ctx, one.host, []string{one.name}, quiet)
	}
	return fault.All(err, t.afterwards(ctx, unlock))
}

// quiet is for what has nobody to report to.
func quiet(backup.Progress) {}

// Settle removes trees without a marker, and locks, of runs that have ended; and what was laid out to be read.
func (b *Backend) Settle(ctx context.Context, c backup.Config) error {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	var rooms error
	if t.options.Scratch != "" {
		rooms = backup.SettleRooms(t.options.Scratch)
	}
	return fault.All(t.settle(ctx), rooms)
}
