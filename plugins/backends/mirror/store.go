package mirror

import (
	"bytes"
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

// stampLayout is how an ID begins: with the set's instant, UTC.
const stampLayout = "20060102T150405Z"

// store makes a backup. The lock is held and what earlier runs left is gone.
func (s shelf) store(ctx context.Context, t backup.Tree, report backup.Report) (backup.Stored, error) {
	stored, lost, err := s.fill(ctx, t, report)
	if err != nil {
		return backup.Stored{}, s.giveUp(ctx, stored.ID, err)
	}
	return stored, lost.fault()
}

// giveUp removes what was made of a backup, so that room it took is free again. At the end of ctx there is no time for
// that: the next Store or Settle does it.
func (s shelf) giveUp(ctx context.Context, id string, cause error) error {
	if id == "" || ctx.Err() != nil {
		return cause
	}
	if err := durable.Remove(s.record(id)); err != nil { // it may be there and not be known to be durable
		return fault.New(fault.Of(cause).Code, "%w; moreover: %w", cause, err)
	}
	for _, path := range []string{s.partial(id), s.tree(id)} {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		if err := s.remove(ctx, path, ignore); err != nil {
			return fault.New(fault.Of(cause).Code, "%w; moreover, %s stays behind: %w", cause, path, err)
		}
	}
	return cause
}

// fill makes the tree, its record last.
func (s shelf) fill(ctx context.Context, t backup.Tree, report backup.Report) (backup.Stored, lost, error) {
	var none lost
	older, err := s.list()
	if err != nil {
		return backup.Stored{}, none, err
	}
	backup.NewestFirst(older)
	id, err := s.free(t.Time)
	if err != nil {
		return backup.Stored{}, none, err
	}
	home, err := os.Open(s.dir)
	if err != nil {
		return backup.Stored{}, none, failed("open the host's directory", err)
	}
	defer home.Close()
	f := filling{shelf: s, tree: t, older: older, report: report, home: home}
	f.stored = backup.Stored{ID: id, Host: t.Host, Set: t.Set, Time: t.Time, Roots: slices.Clone(t.Roots)}
	f.stored.Sequence = backup.NextSequence(older, t.Host)
	if err := f.make(ctx); err != nil {
		return f.stored, none, err
	}
	return f.stored, f.lost, f.publish(ctx)
}

// free returns an ID that nothing here has. The host is part of it: IDs are unique in the whole repository.
func (s shelf) free(at time.Time) (string, error) {
	stamp := at.UTC().Format(stampLayout)
	id := stamp + "-" + s.host
	for n := 2; ; n++ {
		_, err := os.Lstat(s.tree(id))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = os.Lstat(s.partial(id)) // one that could not be removed
		}
		if errors.Is(err, fs.ErrNotExist) {
			return id, nil
		}
		if err != nil {
			return "", failed("look for a free name", err)
		}
		id = fmt.Sprintf("%s.%d-%s", stamp, n, s.host)
	}
}

// filling is a backup that is being made.
type filling struct {
	shelf
	tree   backup.Tree
	older  []backup.Stored // the one made last first
	stored backup.Stored
	lost   lost
	report backup.Report
	files  int64 // of the roots that are done
	flags  bytes.Buffer
	home   *os.File // the host's directory, open since before the first write: see backup.Flush
}

// lost are files that are not in the backup and should be.
type lost struct{ unreadable, vanished []string }

func (l lost) fault() error {
	var all []error
	if len(l.unreadable) > 0 {
		all = append(all, fault.New(fault.SourceUnreadable, "files could not be read, such as %s", l.unreadable[0]).
			With("paths", l.unreadable).WithHint("the rest is stored; see the kernel's log (dmesg) for errors of the device"))
	}
	if len(l.vanished) > 0 {
		all = append(all, fault.New(fault.SourceVanished, "files were gone when they were to be read, such as %s", l.vanished[0]).
			With("paths", l.vanished).WithHint("the rest is stored; a volume that is read from a snapshot does not change meanwhile"))
	}
	return fault.All(all...)
}

// make makes the roots' directories, then fills one after the other. Each sets the times of its own directories last,
// so those of the roots below it must be there before.
func (f *filling) make(ctx context.Context) error {
	partial := f.partial(f.stored.ID)
	if err := os.Mkdir(partial, 0o700); err != nil {
		return failed("make the backup's directory", err)
	}
	roots := slices.Sorted(slices.Values(f.tree.Roots))
	for _, root := range roots {
		if err := os.MkdirAll(partial+root, 0o700); err != nil {
			return failed("make a root's directory", err)
		}
	}
	for _, root := range roots {
		if err := f.root(ctx, root, below(root, roots)); err != nil {
			return err
		}
	}
	return failed("list the inode flags", os.WriteFile(filepath.Join(partial, flagsName), f.flags.Bytes(), 0o600))
}

// below returns which of the roots lie below one, relative to it.
func below(root string, roots []string) []string {
	var all []string
	for _, other := range roots {
		rel, ok := strings.CutPrefix(other, strings.TrimSuffix(root, "/")+"/")
		if ok && rel != "" {
			all = append(all, rel)
		}
	}
	return all
}

// root fills the directory of one root.
func (f *filling) root(ctx context.Context, root string, skip []string) error {
	o := tree.Options{OneFileSystem: true, Live: true, Skip: skip, Report: func(p tree.Progress) {
		f.report(backup.Progress{Label: root, Done: f.stored.Bytes + p.Done, Total: total(f.stored.Bytes, p.Total), Files: f.files + p.Files})
	}}
	o.Flagged = func(rel string, flags tree.Flags) {
		f.flags.WriteString(backup.FlagLine(filepath.Join(root, rel), flags))
	}
	link, recorded := f.last(root)
	defer recorded.Close()
	o.Link = link
	o.Unchanged = func(rel string, st *unix.Statx_t) bool { return recorded.Same(filepath.Join(root, rel), st) }
	done, err := tree.Sync(ctx, root, filepath.Join(f.partial(f.stored.ID), root), o)
	if err != nil {
		return failed("store "+root, err)
	}
	f.files += done.Files
	f.stored.Files += done.Files
	f.stored.Bytes += done.Bytes
	f.stored.Added += done.Written
	f.stored.Warnings = append(f.stored.Warnings, done.Warnings...)
	f.lost.unreadable = append(f.lost.unreadable, done.Unreadable...)
	f.lost.vanished = append(f.lost.vanished, done.Vanished...)
	f.stored.Incomplete = len(f.lost.unreadable)+len(f.lost.vanished) > 0
	return nil
}

// last returns where the root lies in the last backup that has it, and what is recorded of that backup. One that is
// dated later than this one is taken where there is no other.
func (f *filling) last(root string) (dir string, of *record.Record) {
	var last backup.Stored
	for _, b := range f.older {
		if !slices.Contains(b.Roots, root) || dir != "" && b.Time.After(f.tree.Time) {
			continue
		}
		at, err := f.shelf.root(b.ID, root)
		if err != nil { // somebody has damaged it: no reason not to store
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

// total is 0 as long as a root's bytes are being counted.
func total(before, own int64) int64 {
	if own == 0 {
		return 0
	}
	return before + own
}

// publish makes the tree a backup: once all of it is on the disk it gets its name, and then its record.
func (f *filling) publish(ctx context.Context) error {
	id := f.stored.ID
	if err := f.flush(ctx); err != nil {
		return failed("write out the backup", err)
	}
	if err := os.Rename(f.partial(id), f.shelf.tree(id)); err != nil {
		return failed("name the backup", err)
	}
	data, err := json.MarshalIndent(f.stored, "", "  ")
	if err != nil {
		return fault.New(fault.Internal, "record the backup: %w", err)
	}
	return failed("record the backup", durable.WriteFile(f.record(id), append(data, '\n'), 0o600))
}

// flush waits until the file system has written everything out, and says meanwhile that it does.
func (f *filling) flush(ctx context.Context) error {
	return backup.Flush(ctx, f.home, func() {
		f.report(backup.Progress{Label: "writing out", Done: f.stored.Bytes, Total: f.stored.Bytes, Files: f.files})
	})
}
