package rsync

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	treesync "go.pcc.com/rewind/core/tree"
)

// claim locks the marker of a tree on this host until it is unlocked, or until the process ends: shared to read the tree,
// exclusively to remove it.
func claim(marker string, how int) (*os.File, error) {
	flags := os.O_RDONLY
	if how == unix.LOCK_EX {
		flags = os.O_RDWR // NFS locks nothing exclusively that is open for reading
	}
	f, err := os.OpenFile(marker, flags, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fault.New(fault.RepositoryLocked, "the backup of %s is being read or removed by another run", marker).
			WithHint("wait for it; fuser -v %s names it, on its host", marker)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// hold keeps a tree from being removed until release: what vanished while it is read would be taken for deleted. On an
// ssh target nothing can be held; see Present.
func (t *tool) hold(one tree) (release func(), err error) {
	if t.options.overSSH() {
		return func() {}, nil
	}
	marker := t.options.at(one.host, one.name+markerEnd)
	f, err := claim(marker, unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, t.unknown(one.id())
	}
	if err != nil {
		return nil, fault.New(codeOf(err), "hold backup %s while it is read: %w", one.id(), err)
	}
	held, err := f.Stat()
	there, gone := os.Stat(marker)
	if err != nil || gone != nil || !os.SameFile(held, there) {
		backup.Unlock(f)
		return nil, t.unknown(one.id()) // it was removed before it was locked
	}
	return func() { backup.Unlock(f) }, nil
}

func (l local) remove(ctx context.Context, host string, names []string, report backup.Report) error {
	var all []error
	for _, name := range names {
		all = append(all, l.removeOne(ctx, filepath.Join(l.dir, host, name), report))
	}
	return fault.All(all...)
}

func (l local) removeOne(ctx context.Context, path string, report backup.Report) error {
	f, err := claim(path+markerEnd, unix.LOCK_EX)
	switch {
	case errors.Is(err, fs.ErrNotExist): // no backup, which nobody reads
	case err != nil:
		return unwritable(l.dir, err)
	default:
		defer backup.Unlock(f)
		if err := durable.Remove(path + markerEnd); err != nil {
			return unwritable(l.dir, err)
		}
	}
	err = l.removeTree(ctx, path, report)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return unwritable(l.dir, err)
}

// removeTree makes a tree equal to an empty one, which ends with ctx and says that it works, and removes what is left.
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
	// It need not have got the owner and the attributes of the empty one, which not every place can hold.
	removed := os.Remove(path)
	if removed == nil || err == nil {
		return removed
	}
	return err
}
