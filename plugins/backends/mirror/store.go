package mirror

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

// storeLocked makes a backup, and removes it again if that fails. The caller holds the lock and has removed what
// earlier runs left.
func (s hostDir) storeLocked(ctx context.Context, t backup.Tree, report backup.Report) (backup.Stored, error) {
	stored, lost, err := s.makeBackup(ctx, t, report)
	if err != nil {
		return backup.Stored{}, s.giveUp(ctx, stored.ID, err, report)
	}
	return stored, lost.fault()
}

// giveUp removes what was made of a backup that failed, to free the room that it takes, and returns cause. If ctx has
// ended, there is no time for that: the next Store or Settle does it.
func (s hostDir) giveUp(ctx context.Context, id string, cause error, report backup.Report) error {
	if id == "" || ctx.Err() != nil {
		return cause
	}
	if err := durable.Remove(s.recordPath(id)); err != nil { // the record may have been written before its sync failed
		return fault.New(fault.Of(cause).Code, "%w; moreover: %w", cause, err)
	}
	for _, path := range []string{s.partialPath(id), s.treePath(id)} {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if err := s.removeTree(ctx, path, report); err != nil {
			return fault.New(fault.Of(cause).Code, "%w; moreover, %s stays behind: %w", cause, path, err)
		}
	}
	return cause
}

// makeBackup makes the tree and then its record. If it fails, the ID in the result says what must be removed.
func (s hostDir) makeBackup(ctx context.Context, t backup.Tree, report backup.Report) (backup.Stored, lostFiles,
	error) {
	var none lostFiles
	older, wrong, err := s.list()
	if err = cmp.Or(err, wrong); err != nil {
		return backup.Stored{}, none, err
	}
	backup.NewestFirst(older)
	id, err := s.freeID(t.Time)
	if err != nil {
		return backup.Stored{}, none, err
	}
	hostFile, err := os.Open(s.dir)
	if err != nil {
		return backup.Stored{}, none, repositoryError("open the host's directory", err)
	}
	defer hostFile.Close()
	f := newBackup{hostDir: s, tree: t, older: older, report: report, hostFile: hostFile}
	f.stored = backup.Stored{ID: id, Host: t.Host, Set: t.Set, Time: t.Time, Roots: slices.Clone(t.Roots)}
	f.stored.Sequence = backup.NextSequence(older, t.Host)
	if err := f.copyRoots(ctx); err != nil {
		return f.stored, none, err
	}
	return f.stored, f.lost, f.publish(ctx)
}

// freeID returns an ID that no backup has. The host is part of it, so that IDs are unique in the whole repository.
func (s hostDir) freeID(at time.Time) (string, error) {
	stamp := at.UTC().Format(backup.StampLayout)
	id := stamp + "-" + s.host
	for n := 2; ; n++ {
		_, err := os.Lstat(s.treePath(id))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(s.partialPath(id)) // left by a run and not removable
		}
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(s.recordPath(id)) // of a backup whose tree somebody has removed
		}
		if errors.Is(err, fs.ErrNotExist) {
			return id, nil
		}
		if err != nil {
			return "", repositoryError("look for a free name", err)
		}
		id = fmt.Sprintf("%s.%d-%s", stamp, n, s.host)
	}
}

// newBackup is a backup that is being made. It is not listed yet.
type newBackup struct {
	hostDir
	tree      backup.Tree
	older     []backup.Stored // earlier backups, in the order of backup.NewestFirst
	stored    backup.Stored
	lost      lostFiles
	report    backup.Report
	filesDone int64 // number of files of the roots that are done
	flags     bytes.Buffer
	hostFile  *os.File // the host's directory, opened before the first write, for backup.Flush
}

// lostFiles are files that should be in the backup and are not.
type lostFiles struct{ unreadable, vanished []string }

func (l lostFiles) fault() error {
	var all []error
	if len(l.unreadable) > 0 {
		all = append(all, fault.New(fault.SourceUnreadable, "files could not be read, such as %s", l.unreadable[0]).
			With("paths", l.unreadable).WithHint("the rest is stored; see the kernel's log (dmesg) for errors of the device"))
	}
	if len(l.vanished) > 0 {
		all = append(all, fault.New(fault.SourceVanished, "files were gone when they were to be read, such as %s",
			l.vanished[0]).
			With("paths", l.vanished).WithHint("the rest is stored; a volume that is read from a snapshot "+
			"does not change meanwhile"))
	}
	return fault.All(all...)
}

// copyRoots makes the directories of all roots, and then copies one root after the other. Copying a root sets the times
// of its directories, so the directories of roots below it must exist before.
func (f *newBackup) copyRoots(ctx context.Context) error {
	partial := f.partialPath(f.stored.ID)
	if err := os.Mkdir(partial, 0o700); err != nil {
		return repositoryError("make the backup's directory", err)
	}
	roots := slices.Sorted(slices.Values(f.tree.Roots))
	for _, root := range roots {
		if err := os.MkdirAll(partial+root, 0o700); err != nil {
			return repositoryError("make a root's directory", err)
		}
	}
	for _, root := range roots {
		if err := f.copyRoot(ctx, root, rootsBelow(root, roots)); err != nil {
			return err
		}
	}
	return repositoryError("list the inode flags", os.WriteFile(filepath.Join(partial, flagsName), f.flags.Bytes(), 0o600))
}

// rootsBelow returns the roots that are below a root, relative to it.
func rootsBelow(root string, roots []string) []string {
	var all []string
	for _, other := range roots {
		rel, ok := strings.CutPrefix(other, strings.TrimSuffix(root, "/")+"/")
		if ok && rel != "" {
			all = append(all, rel)
		}
	}
	return all
}

// copyRoot copies one root. skip are the roots below it, relative to it.
func (f *newBackup) copyRoot(ctx context.Context, root string, skip []string) error {
	o := tree.Options{OneFileSystem: true, Live: true, Skip: skip, Report: func(p tree.Progress) {
		f.report(backup.Progress{Label: root, Done: f.stored.Bytes + p.Done, Total: totalBytes(f.stored.Bytes, p.Total),
			Files: f.filesDone + p.Files})
	}}
	o.Flagged = func(rel string, flags tree.Flags) {
		f.flags.WriteString(backup.FlagLine(filepath.Join(root, rel), flags))
	}
	link, recorded := f.lastBackup(root)
	defer recorded.Close()
	o.Link = link
	o.Unchanged = func(rel string, st *unix.Statx_t) bool { return recorded.Same(filepath.Join(root, rel), st) }
	done, err := tree.Sync(ctx, root, filepath.Join(f.partialPath(f.stored.ID), root), o)
	if err != nil {
		return repositoryError("store "+root, err)
	}
	f.filesDone += done.Files
	f.stored.Files += done.Files
	f.stored.Bytes += done.Bytes
	f.stored.Added += done.Written
	f.stored.Warnings = append(f.stored.Warnings, done.Warnings...)
	f.lost.unreadable = append(f.lost.unreadable, done.Unreadable...)
	f.lost.vanished = append(f.lost.vanished, done.Vanished...)
	f.stored.Incomplete = len(f.lost.unreadable)+len(f.lost.vanished) > 0
	return nil
}

// lastBackup returns the directory of the root in the last backup that has it, and the record of that backup's files,
// which is nil if all files are to be read. A backup that is dated later than this one is taken only if there is no
// other.
func (f *newBackup) lastBackup(root string) (dir string, of *record.Record) {
	var last backup.Stored
	for _, b := range f.older {
		if !slices.Contains(b.Roots, root) || dir != "" && b.Time.After(f.tree.Time) {
			continue
		}
		at, err := f.hostDir.rootPath(b.ID, root)
		if err != nil { // somebody has damaged that backup, which is no reason to refuse this one
			continue
		}
		dir, last = at, b
		if !b.Time.After(f.tree.Time) {
			break
		}
	}
	if dir == "" || f.tree.ReadAll {
		return dir, nil
	}
	return dir, record.Keeper{Dir: f.tree.Records}.Open(last)
}

// totalBytes returns the sum of the bytes of earlier roots and of this one, and 0 while those of this one are being
// counted.
func totalBytes(before, own int64) int64 {
	if own == 0 {
		return 0
	}
	return before + own
}

// publish turns the tree into a backup: once the whole tree is on the disk, it gets its final name, and then its
// record.
func (f *newBackup) publish(ctx context.Context) error {
	id := f.stored.ID
	if err := f.flush(ctx); err != nil {
		return repositoryError("write out the backup", err)
	}
	if err := os.Rename(f.partialPath(id), f.hostDir.treePath(id)); err != nil {
		return repositoryError("name the backup", err)
	}
	data, err := json.MarshalIndent(f.stored, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "record the backup: %w", err)
	}
	return repositoryError("record the backup", durable.WriteFile(f.recordPath(id), append(data, '\n'), 0o600))
}

// flush waits until the file system has written everything out, and reports progress meanwhile.
func (f *newBackup) flush(ctx context.Context) error {
	return backup.Flush(ctx, f.hostFile, func() {
		f.report(backup.Progress{Label: "writing out", Done: f.stored.Bytes, Total: f.stored.Bytes, Files: f.filesDone})
	})
}
