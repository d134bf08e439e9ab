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

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
	"go.pcc.com/rewind/core/tree"
)

const (
	recordSuffix  = ".json"
	partialSuffix = ".partial"
	flagsName     = ".flags"
)

// hostDir is the directory of one host's backups.
type hostDir struct {
	repository
	host, dir string
}

func (s hostDir) treePath(id string) string    { return filepath.Join(s.dir, id) }
func (s hostDir) flagsPath(id string) string   { return filepath.Join(s.treePath(id), flagsName) }
func (s hostDir) recordPath(id string) string  { return filepath.Join(s.dir, id+recordSuffix) }
func (s hostDir) partialPath(id string) string { return filepath.Join(s.dir, id+partialSuffix) }

// lock keeps other runs from storing and removing backups of this host until unlock is called, or until this process
// ends. Fault: repository_locked.
func (s hostDir) lock() (unlock func(), err error) {
	path := filepath.Join(s.dir, ".lock")
	l, err := lock.File(path)
	if errors.Is(err, lock.ErrHeld) {
		return nil, fault.New(fault.RepositoryLocked, "another run stores or removes backups of %s in %s", s.host, s.path).
			WithHint("wait for it; fuser -v %s names it", path)
	}
	if err != nil {
		return nil, repositoryError("lock the repository", err)
	}
	return l.Release, nil
}

// storeWait is how long a Store waits for another run, and storePause the time between two attempts. Tests shorten
// both.
var storeWait, storePause = backup.StoreWait, time.Second

// lockToStore is lock, and waits for other runs.
func (s hostDir) lockToStore(ctx context.Context, report backup.Report) (unlock func(), err error) {
	err = backup.WaitWhileLocked(ctx, storeWait, storePause, report, func() error {
		unlock, err = s.lock()
		return err
	})
	return unlock, err
}

// refuseOtherMachine fails if these are the backups of another machine. Otherwise it says whether any machine is noted.
// Fault: exists.
func (s hostDir) refuseOtherMachine() (isNoted bool, err error) {
	noted, err := backup.ReadMachine(s.dir)
	if err != nil {
		return false, repositoryError("read whose backups these are", err)
	}
	return noted != "", backup.RefuseOtherMachine(noted, s.machine, s.host, filepath.Join(s.dir, backup.MachineFile))
}

// noteMachine is refuseOtherMachine, and notes this machine if none is noted. The caller holds the lock.
func (s hostDir) noteMachine() error {
	isNoted, err := s.refuseOtherMachine()
	if err != nil || isNoted || s.machine == "" {
		return err
	}
	path := filepath.Join(s.dir, backup.MachineFile)
	return repositoryError("note whose backups these are", durable.WriteFile(path, []byte(s.machine+"\n"), 0o600))
}

// list returns the backups that have a record, in no particular order. Those whose tree is not there any more, or
// whose record cannot be read, are incomplete. wrong is the fault of a record that can be read and is that of another
// backup: then it is in doubt whose directory this is.
func (s hostDir) list() (all []backup.Stored, wrong, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, repositoryError("list the backups", err)
	}
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), recordSuffix)
		if !ok || !isSafeName(id) {
			continue
		}
		stored, err := s.readRecord(id)
		if errors.Is(err, fault.NotFound) {
			continue // it was just forgotten
		}
		if errors.Is(err, errOfAnother) {
			wrong = err
		}
		if err != nil {
			stored = backup.DamagedStored(id, s.host, err)
		} else if gone := s.checkRoots(stored); gone != nil {
			if _, err := os.Lstat(s.recordPath(id)); errors.Is(err, fs.ErrNotExist) {
				continue // it was forgotten meanwhile
			}
			stored.Incomplete, stored.Damaged = true, gone.Error()
		}
		all = append(all, stored)
	}
	return all, wrong, nil
}

// checkRoots returns an error if the directory of a root of a complete backup is not there. What the others hold is not
// looked at.
func (s hostDir) checkRoots(stored backup.Stored) error {
	if stored.Incomplete {
		return nil
	}
	for _, root := range stored.Roots {
		if _, err := s.rootPath(stored.ID, root); err != nil {
			return err
		}
	}
	return nil
}

// errOfAnother says that a record is that of another backup than its name says.
var errOfAnother = errors.New("it is that of another backup")

// readRecord returns the record of a backup. Faults: not_found, and backend_failed if the record is not that of the
// backup.
func (s hostDir) readRecord(id string) (backup.Stored, error) {
	data, err := os.ReadFile(s.recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return backup.Stored{}, s.notFound(id)
	}
	if err != nil {
		return backup.Stored{}, repositoryError("read what a backup is", err)
	}
	stored, err := parseRecord(data)
	if err == nil && (stored.ID != id || stored.Host != s.host) {
		err = fmt.Errorf("%w: %q of host %q", errOfAnother, stored.ID, stored.Host)
	}
	if err != nil {
		f := fault.New(fault.BackendFailed, "%s is not the record of that backup: %w", s.recordPath(id), err)
		if stored.ID == id {
			return backup.Stored{}, f.WithHint("if the directory %s was renamed, for a server that has another name now: "+
				"give the directory its old name back, and name its backups with host=%s", s.dir, stored.Host)
		}
		return backup.Stored{}, f.WithHint("another program, such as the rsync backend, keeps its own files in %s: "+
			"give each a directory of its own; if none does, put the right record back", s.dir)
	}
	return stored, nil
}

// parseRecord parses a record. It refuses roots that could lead out of the backup's tree.
func parseRecord(data []byte) (backup.Stored, error) {
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

// rootPath returns the directory of a root in a backup. It fails if that can only be reached through a symbolic link.
func (s hostDir) rootPath(id, root string) (string, error) {
	path, err := backup.JoinNoLinks(s.path, filepath.Join(s.host, id, root))
	if err != nil {
		return "", damagedError(id, err)
	}
	return path, nil
}

func damagedError(id string, err error) error {
	return fault.New(fault.BackendFailed, "backup %s is damaged: %w", id,
		err).WithHint("take another one: restore_id=ID; snap_backup_info lists them")
}

// lockForReading keeps a backup from being removed until release is called, or until this process ends.
func (s hostDir) lockForReading(id string) (release func(), stored backup.Stored, err error) {
	f, err := s.lockRecord(id, lock.Shared)
	if err != nil {
		return nil, backup.Stored{}, err
	}
	if stored, err = s.readRecord(id); err != nil {
		f.Release()
		return nil, backup.Stored{}, err
	}
	return f.Release, stored, nil
}

// lockRecord locks a backup's record by take: lock.Shared to read the backup, lock.Exclusive to remove it. Faults:
// not_found, repository_locked.
func (s hostDir) lockRecord(id string, take func(string) (*lock.Lock, error)) (*lock.Lock, error) {
	l, err := take(s.recordPath(id))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, s.notFound(id)
	case errors.Is(err, lock.ErrHeld):
		return nil, fault.New(fault.RepositoryLocked, "backup %s is being read or removed by another run", id).
			WithHint("wait for it; fuser -v %s names it", s.recordPath(id))
	case err != nil:
		return nil, repositoryError("lock backup "+id, err)
	}
	return l, nil
}

// forgetLocked removes a backup, and fails if somebody reads it. The caller holds the lock.
func (s hostDir) forgetLocked(ctx context.Context, id string, report backup.Report) error {
	f, err := s.lockRecord(id, lock.Exclusive)
	if err != nil {
		return err
	}
	defer f.Release()
	if err := durable.Remove(s.recordPath(id)); err != nil {
		return repositoryError("forget backup "+id, err)
	}
	return s.removeTree(ctx, s.treePath(id), report)
}

// settleLocked removes trees without a record: they were being made or being removed when a run was killed. The caller
// holds the lock.
func (s hostDir) settleLocked(ctx context.Context, report backup.Report) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return repositoryError("look for what was left behind", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() || !s.isBackupName(entry.Name()) {
			continue
		}
		_, err := os.Lstat(s.recordPath(entry.Name()))
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) { // the record may exist: the file system does not answer
			return repositoryError("look for what was left behind", err)
		}
		if err := s.removeTree(ctx, filepath.Join(s.dir, entry.Name()), report); err != nil {
			return err
		}
	}
	return nil
}

// isBackupName reports whether name is one that freeID gives to a backup, or to a backup that is being made. People may
// keep directories with other names beside the backups.
func (s hostDir) isBackupName(name string) bool {
	stamp, ok := strings.CutSuffix(strings.TrimSuffix(name, partialSuffix), "-"+s.host)
	stamp, n, several := strings.Cut(stamp, ".")
	if _, err := strconv.ParseUint(n, 10, 32); several && err != nil {
		return false
	}
	_, err := time.Parse(backup.StampLayout, stamp)
	return ok && err == nil
}

// removeTree deletes a tree: it makes the tree equal to an empty one with tree.Sync, which ends with ctx and reports
// progress, and then removes the directory.
func (s hostDir) removeTree(ctx context.Context, path string, report backup.Report) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has removed it
	}
	if err == nil && !info.IsDir() {
		return repositoryError("remove "+path, os.Remove(path)) // remove a symbolic link itself, not what it leads to
	}
	label := "removing " + filepath.Base(path)
	_, err = tree.Sync(ctx, s.scratch, path, tree.Options{
		Report: func(tree.Progress) { report(backup.Progress{Label: label}) },
	})
	if err == nil {
		err = os.Remove(path)
	}
	return repositoryError("remove "+path, err)
}
