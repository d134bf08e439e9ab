package rsync

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lock"
)

// place is the directory that holds the trees. It is either local or on another host.
type place interface {
	// readTrees finds the trees of host, or of every host if host is "". Fault: repository_missing.
	readTrees(ctx context.Context, host string) ([]datedTree, error)
	// probe tries whether the place can be written and can hold the metadata of files, and removes what it wrote. The
	// warnings are those of Check.
	probe(ctx context.Context) (warnings []string, err error)
	// lock keeps other runs from storing and removing trees of the host, and then finds what is there. Fault:
	// repository_locked.
	lock(ctx context.Context, host string) (heldHost, error)
	// noteMachine writes whose backups those of the host are. The caller holds the lock.
	noteMachine(ctx context.Context, host, machine string) error
	// openForErrors opens a file through which writeMarker learns of every write error from now on (see backup.Flush). On
	// another host that is not possible, and since is nil.
	openForErrors() (since *os.File, err error)
	// writeMarker writes the marker of a tree, which makes it a backup. Before that it makes the whole tree as durable as
	// the place allows. The warning says what it could not do for that.
	writeMarker(ctx context.Context, since *os.File, s backup.Stored, name string, report backup.Report) (
		warning string, err error)
	// remove removes trees. Each marker is removed before its tree, so that a half-removed tree is no backup. The caller
	// holds the lock. Fault: repository_locked if a tree is being read.
	remove(ctx context.Context, host string, names []string, report backup.Report) error
}

// heldHost is the directory of a host that this run has locked.
type heldHost struct {
	unlock  func(context.Context) error
	trees   []datedTree
	machine string // whose backups these are (backup.ReadMachine); "": not known
}

func (t *tool) place() place {
	if t.options.overSSH() {
		return remote{t}
	}
	return local{t, t.options.dir, t.config.Scratch}
}

// refuseOtherMachine fails if the backups of the host are those of another machine. Fault: exists.
func (t *tool) refuseOtherMachine(host, noted string) error {
	return backup.RefuseOtherMachine(noted, t.config.Machine, host, t.options.target(host, backup.MachineFile))
}

// local is a directory of this host.
type local struct {
	*tool
	dir     string
	scratch string // an empty directory
}

func (l local) readTrees(_ context.Context, host string) ([]datedTree, error) {
	if err := l.checkExists(); err != nil {
		return nil, err
	}
	if host != "" {
		if err := backup.RefuseLink(filepath.Join(l.dir, host)); err != nil {
			return nil, err
		}
	}
	trees, err := readTrees(l.dir, host)
	return slices.DeleteFunc(trees, func(t datedTree) bool { return !l.noteGone(t) }), err
}

// noteGone notes a complete backup as damaged if the directory of one of its roots is not there or is reached through a
// symbolic link. It returns false if the whole backup was removed meanwhile.
func (l local) noteGone(t datedTree) bool {
	if t.stored == nil || t.stored.Incomplete {
		return true
	}
	if _, err := presented(t, l.dir, t.host, t.name); err != nil {
		t.stored.Incomplete, t.stored.Damaged = true, err.Error()
		_, err := os.Lstat(filepath.Join(l.dir, t.host, t.name+markerSuffix))
		return !errors.Is(err, fs.ErrNotExist)
	}
	return true
}

// checkExists fails with repository_missing if there is no such directory.
func (l local) checkExists() error {
	info, err := os.Stat(l.dir)
	if err != nil {
		return readError(l.dir, err)
	}
	if !info.IsDir() {
		return fault.New(fault.RepositoryMissing, "%s is not a directory", l.dir).WithHint(missingHint)
	}
	return nil
}

func (l local) probe(context.Context) ([]string, error) {
	if err := l.checkExists(); err != nil {
		return nil, err
	}
	if err := backup.NotOfAnotherTool(l.dir); err != nil {
		return nil, err
	}
	if host := l.config.Host; host != "" {
		if err := l.checkHost(host); err != nil {
			return nil, err
		}
	}
	lacks, err := backup.Probe(l.dir)
	if err != nil {
		return nil, writeError(l.dir, err)
	}
	if l.options.FakeSuper {
		lacks = lacks.WithFakeSuper()
	}
	return lacks.Verdict(l.dir)
}

// checkHost finds out whether a Store of this host could begin.
func (l local) checkHost(host string) error {
	dir := filepath.Join(l.dir, host)
	if err := backup.RefuseLink(dir); err != nil {
		return err
	}
	noted, err := l.readMachine(dir)
	if err == nil {
		err = l.refuseOtherMachine(host, noted)
	}
	if err != nil {
		return err
	}
	held, err := lock.Exclusive(filepath.Join(dir, lockPrefix))
	switch {
	case errors.Is(err, lock.ErrHeld):
		return l.lockedError(host)
	case errors.Is(err, fs.ErrNotExist): // there was no Store yet
		return nil
	case err != nil:
		return writeError(dir, err)
	}
	held.Release()
	return nil
}

func (l local) readMachine(dir string) (string, error) {
	noted, err := backup.ReadMachine(dir)
	if err != nil {
		return "", fault.New(faultCode(err), "read whose backups these are: %w", err)
	}
	return noted, nil
}

func (l local) noteMachine(_ context.Context, host, machine string) error {
	err := durable.WriteFile(filepath.Join(l.dir, host, backup.MachineFile), []byte(machine+"\n"), 0o600)
	if err != nil {
		return writeError(l.dir, err)
	}
	return nil
}

// writeError returns the fault for an error of writing to the place.
func writeError(dir string, err error) error {
	f := fault.New(faultCode(err), "write to %s: %w", dir, err)
	switch {
	case f.Hint != "":
		return f
	case f.Code == fault.RepositoryFull:
		return f.WithHint("make room where the backups lie, or keep fewer")
	}
	return f.WithHint("root of this host must be able to write and to lock there: "+
		"see how it is mounted with `findmnt -T %s`", dir)
}

func faultCode(err error) fault.Code {
	switch {
	case durable.IsFull(err):
		return fault.RepositoryFull
	case errors.Is(err, fault.RepositoryLocked):
		return fault.RepositoryLocked
	}
	return fault.CommandFailed
}

func (l local) lock(ctx context.Context, host string) (heldHost, error) {
	if err := l.checkExists(); err != nil {
		return heldHost{}, err
	}
	dir := filepath.Join(l.dir, host)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return heldHost{}, writeError(l.dir, err)
	}
	held, err := lock.File(filepath.Join(dir, lockPrefix))
	if errors.Is(err, lock.ErrHeld) {
		return heldHost{}, l.lockedError(host)
	}
	if err != nil {
		return heldHost{}, writeError(dir, err)
	}
	h := heldHost{unlock: func(context.Context) error { held.Release(); return nil }}
	if h.trees, err = l.readTrees(ctx, host); err == nil {
		h.machine, err = l.readMachine(dir)
	}
	if err != nil {
		held.Release()
		return heldHost{}, err
	}
	return h, nil
}

func (l local) lockedError(host string) error {
	return fault.New(fault.RepositoryLocked, "another run stores or removes backups of %s in %s", host, l.dir).
		WithHint("wait until it has ended; fuser -v %s names it", filepath.Join(l.dir, host, lockPrefix))
}

// flushProgress returns the progress of a backup that is completely copied and is now being written out to the disk.
func flushProgress(s backup.Stored) backup.Progress {
	return backup.Progress{Label: "writing out", Done: s.Bytes, Total: s.Bytes, Files: s.Files}
}

func (l local) openForErrors() (*os.File, error) {
	dir, err := os.Open(l.dir)
	if err != nil {
		return nil, writeError(l.dir, err)
	}
	return dir, nil
}

func (l local) writeMarker(ctx context.Context, since *os.File, s backup.Stored, name string, report backup.Report) (
	string, error) {
	// rsync syncs nothing. One call for the whole file system costs less than one for each file.
	flushErr := backup.Flush(ctx, since, func() { report(flushProgress(s)) })
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if flushErr != nil {
		return "", writeError(l.dir, flushErr)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fault.New(fault.Internal, "make a marker: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(l.dir, s.Host, name+markerSuffix), data, 0o600); err != nil {
		return "", writeError(l.dir, err)
	}
	return "", nil
}
