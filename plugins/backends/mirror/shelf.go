package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/tree"
)

const (
	recordSuffix  = ".json"
	partialSuffix = ".partial"
	flagsName     = ".flags"
)

// shelf is the place of one host's backups.
type shelf struct {
	repository
	host, dir string
}

func (s shelf) tree(id string) string    { return filepath.Join(s.dir, id) }
func (s shelf) flags(id string) string   { return filepath.Join(s.tree(id), flagsName) }
func (s shelf) record(id string) string  { return filepath.Join(s.dir, id+recordSuffix) }
func (s shelf) partial(id string) string { return filepath.Join(s.dir, id+partialSuffix) }

// lock keeps other runs from storing and removing until unlock, or until the process ends.
func (s shelf) lock() (unlock func(), err error) {
	f := flock.New(filepath.Join(s.dir, ".lock"), flock.SetPermissions(0o600), flock.SetFlag(backup.LockFlags))
	ok, err := f.TryLock()
	if err != nil {
		return nil, failed("lock the repository", err)
	}
	if !ok {
		return nil, fault.New(fault.RepositoryLocked, "another run stores or removes backups of %s in %s", s.host, s.path).
			WithHint("wait for it; fuser -v %s names it", f.Path())
	}
	return func() { _ = f.Close() }, nil
}

// list returns the backups that are complete, in no order.
func (s shelf) list() ([]backup.Stored, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, failed("list the backups", err)
	}
	var all []backup.Stored
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), recordSuffix)
		if !ok || !safe(id) {
			continue
		}
		stored, err := s.read(id)
		if errors.Is(err, fault.NotFound) {
			continue // it was forgotten a moment ago
		}
		if err != nil {
			return nil, err
		}
		all = append(all, stored)
	}
	return all, nil
}

// read returns what a backup is; not_found if there is none.
func (s shelf) read(id string) (backup.Stored, error) {
	data, err := os.ReadFile(s.record(id))
	if errors.Is(err, fs.ErrNotExist) {
		return backup.Stored{}, s.unknown(id)
	}
	if err != nil {
		return backup.Stored{}, failed("read what a backup is", err)
	}
	stored, err := decode(data)
	if err == nil && (stored.ID != id || stored.Host != s.host) {
		err = fmt.Errorf("it is that of %q of host %q", stored.ID, stored.Host)
	}
	if err != nil {
		return backup.Stored{}, fault.New(fault.BackendFailed, "%s is not the record of that backup: %w", s.record(id), err).
			WithHint("another program keeps its own things in %s, such as the rsync backend: give each a directory of its own; if none does, put the right record back", s.dir)
	}
	return stored, nil
}

// decode reads a record. Its roots lead nowhere but below the backup.
func decode(data []byte) (backup.Stored, error) {
	var stored backup.Stored
	if err := json.Unmarshal(data, &stored); err != nil {
		return backup.Stored{}, err
	}
	for _, root := range stored.Roots {
		if !filepath.IsAbs(root) || filepath.Clean(root) != root {
			return backup.Stored{}, fmt.Errorf("root %q is no clean absolute path", root)
		}
	}
	return stored, nil
}

// root returns the directory of a root. One that is reached through a symbolic link is none.
func (s shelf) root(id, root string) (string, error) {
	path, err := backup.Beneath(s.path, filepath.Join(s.host, id, root))
	if err != nil {
		return "", damaged(id, err)
	}
	return path, nil
}

func damaged(id string, err error) error {
	return fault.New(fault.BackendFailed, "backup %s is damaged: %w", id, err).WithHint("take another one: restore_id=ID; snap_backup_info lists them")
}

// hold keeps a backup from being removed until release, or until the process ends.
func (s shelf) hold(id string) (release func(), stored backup.Stored, err error) {
	f, err := s.claim(id, unix.LOCK_SH)
	if err != nil {
		return nil, backup.Stored{}, err
	}
	if stored, err = s.read(id); err != nil {
		backup.Unlock(f)
		return nil, backup.Stored{}, err
	}
	return func() { backup.Unlock(f) }, stored, nil
}

// claim locks a backup's record until it is unlocked: shared to read the backup, exclusively to remove it.
func (s shelf) claim(id string, how int) (*os.File, error) {
	flags := os.O_RDONLY
	if how == unix.LOCK_EX {
		flags = os.O_RDWR // NFS makes an exclusive lock of a file that may be written only
	}
	f, err := os.OpenFile(s.record(id), flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.unknown(id)
	}
	if err != nil {
		return nil, failed("open the record of backup "+id, err)
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		f.Close()
		return nil, fault.New(fault.RepositoryLocked, "backup %s is being read or removed by another run", id).
			WithHint("wait for it; fuser -v %s names it", s.record(id))
	}
	if err != nil {
		f.Close()
		return nil, failed("lock backup "+id, err)
	}
	return f, nil
}

// forget removes a backup that nobody reads. The lock is held.
func (s shelf) forget(ctx context.Context, id string, report backup.Report) error {
	f, err := s.claim(id, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer backup.Unlock(f)
	if err := durable.Remove(s.record(id)); err != nil {
		return failed("forget backup "+id, err)
	}
	return s.remove(ctx, s.tree(id), report)
}

// settle removes what is no backup: what was being made, and what was being removed, when a run was killed. The lock is
// held.
func (s shelf) settle(ctx context.Context, report backup.Report) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return failed("look for what was left behind", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() || !s.ours(entry.Name()) {
			continue
		}
		_, err := os.Lstat(s.record(entry.Name()))
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) { // it may well be there: the place does not answer
			return failed("look for what was left behind", err)
		}
		if err := s.remove(ctx, filepath.Join(s.dir, entry.Name()), report); err != nil {
			return err
		}
	}
	return nil
}

// ours reports whether a directory has the name of a backup, or of one that is being made: see free. What people put
// beside them under names of their own is none.
func (s shelf) ours(name string) bool {
	stamp, ok := strings.CutSuffix(strings.TrimSuffix(name, partialSuffix), "-"+s.host)
	stamp, n, several := strings.Cut(stamp, ".")
	if _, err := strconv.ParseUint(n, 10, 32); several && err != nil {
		return false
	}
	_, err := time.Parse(stampLayout, stamp)
	return ok && err == nil
}

// remove deletes a tree: what is left of it when it has been made equal to an empty one. So it ends with ctx, and says
// that it works.
func (s shelf) remove(ctx context.Context, path string, report backup.Report) error {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		return failed("remove "+path, os.Remove(path)) // a link leads to what is not ours
	}
	label := "removing " + filepath.Base(path)
	_, err = tree.Sync(ctx, s.scratch, path, tree.Options{
		Report: func(tree.Progress) { report(backup.Progress{Label: label}) },
	})
	if err == nil {
		err = os.Remove(path)
	}
	return failed("remove "+path, err)
}
