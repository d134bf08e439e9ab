package rsync

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
	treesync "go.pcc.com/rewind/core/tree"
)

// lockMarker locks the marker of a local tree by take: lock.Shared to read the tree, lock.Exclusive to remove it.
// Fault: repository_locked.
func lockMarker(marker string, take func(string) (*lock.Lock, error)) (*lock.Lock, error) {
	l, err := take(marker)
	if errors.Is(err, lock.ErrHeld) {
		return nil, fault.New(fault.RepositoryLocked, "the backup of %s is being read or removed by another run", marker).
			WithHint("wait for it; fuser -v %s names it, on its host", marker)
	}
	return l, err
}

// lockForReading keeps a tree from being removed until release is called: a restore would take files that vanish
// meanwhile for files that were not in the backup. On another host nothing can be locked; see Present.
func (t *tool) lockForReading(one datedTree) (release func(), err error) {
	if t.options.overSSH() {
		return func() {}, nil
	}
	marker := t.options.target(one.host, one.name+markerSuffix)
	f, err := lockMarker(marker, lock.Shared)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, t.notFound(one.id())
	}
	if err != nil {
		return nil, fault.New(faultCode(err), "hold backup %s while it is read: %w", one.id(), err)
	}
	held, err := f.Stat()
	current, statErr := os.Stat(marker)
	if err != nil || statErr != nil || !os.SameFile(held, current) {
		f.Release()
		return nil, t.notFound(one.id()) // the marker was removed before it was locked
	}
	return f.Release, nil
}

func (l local) remove(ctx context.Context, host string, names []string, report backup.Report) error {
	var all []error
	for _, name := range names {
		all = append(all, l.removeBackup(ctx, filepath.Join(l.dir, host, name), report))
	}
	return fault.All(all...)
}

func (l local) removeBackup(ctx context.Context, path string, report backup.Report) error {
	f, err := lockMarker(path+markerSuffix, lock.Exclusive)
	switch {
	case errors.Is(err, fs.ErrNotExist): // without a marker it is no backup, so nobody reads it
	case err != nil:
		return writeError(l.dir, err)
	default:
		defer f.Release()
		if err := durable.Remove(path + markerSuffix); err != nil {
			return writeError(l.dir, err)
		}
	}
	err = l.removeTree(ctx, path, report)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return writeError(l.dir, err)
}

// removeTree deletes a tree: it makes the tree equal to an empty one with package tree, which ends with ctx and reports
// progress, and then removes the directory.
func (l local) removeTree(ctx context.Context, path string, report backup.Report) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		progress := backup.Progress{Label: "removing " + filepath.Base(path)}
		_, err = treesync.Sync(ctx, l.scratch, path, treesync.Options{Report: func(treesync.Progress) { report(progress) }})
	}
	// Sync may have failed only because this file system cannot hold the owner or the attributes of the empty directory.
	// If the directory can be removed, that does not matter.
	removeErr := os.Remove(path)
	if removeErr == nil || err == nil {
		return removeErr
	}
	return err
}
