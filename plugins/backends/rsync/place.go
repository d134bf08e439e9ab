package rsync

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// place is where the trees lie.
type place interface {
	// look finds the trees of host, or with "" of every host. It fails with repository_missing.
	look(ctx context.Context, host string) ([]tree, error)
	// probe writes something, and removes it. The warnings are Check's.
	probe(ctx context.Context) (warnings []string, err error)
	// lock keeps other runs from storing and removing trees of the host, and finds those there are. It fails with
	// repository_locked.
	lock(ctx context.Context, host string) (unlock func(context.Context) error, trees []tree, err error)
	// listen opens what mark needs to hear of every error since then; nil on another host.
	listen() (since *os.File, err error)
	// mark says that a tree is complete, after all of it is as durable as the place can make it.
	mark(ctx context.Context, since *os.File, s backup.Stored, name string, report backup.Report) (
		warning string, err error)
	// remove removes trees, the marker of each before it, so that a half-removed tree is no backup. The lock is held. It
	// fails with repository_locked for one that is being read.
	remove(ctx context.Context, host string, names []string, report backup.Report) error
}

func (t *tool) place() place {
	if t.options.overSSH() {
		return remote{t}
	}
	return local{t.options.dir, t.config.Scratch, t.config.Host, t.options.FakeSuper}
}

// local is a directory of this host.
type local struct {
	dir     string
	scratch string // an empty directory
	asking  string // the host that asks; "": not said

	fakeSuper bool // owners, modes and devices are kept in extended attributes
}

func (l local) look(_ context.Context, host string) ([]tree, error) {
	if err := l.there(); err != nil {
		return nil, err
	}
	if host != "" {
		if err := backup.NoLink(filepath.Join(l.dir, host)); err != nil {
			return nil, err
		}
	}
	return readTrees(l.dir, host)
}

func (l local) there() error {
	info, err := os.Stat(l.dir)
	if err != nil {
		return missingDir(l.dir, err)
	}
	if !info.IsDir() {
		return fault.New(fault.RepositoryMissing, "%s is not a directory", l.dir).WithHint("correct path, or mount what it lies on; for a first backup make the directory")
	}
	return nil
}

func (l local) probe(context.Context) ([]string, error) {
	if err := l.there(); err != nil {
		return nil, err
	}
	if err := backup.NotOfAnotherTool(l.dir); err != nil {
		return nil, err
	}
	if err := backup.NoLink(filepath.Join(l.dir, l.asking)); l.asking != "" && err != nil {
		return nil, err
	}
	lacks, err := backup.Probe(l.dir)
	if err != nil {
		return nil, unwritable(l.dir, err)
	}
	if l.fakeSuper {
		lacks = lacks.WithFakeSuper()
	}
	return lacks.Verdict(l.dir)
}

func unwritable(dir string, err error) error {
	f := fault.New(codeOf(err), "write to %s: %w", dir, err)
	switch {
	case f.Hint != "":
		return f
	case f.Code == fault.RepositoryFull:
		return f.WithHint("make room where the backups lie, or keep fewer")
	}
	return f.WithHint("root of this host must be able to write and to lock there: see how it is mounted with `findmnt -T %s`", dir)
}

func codeOf(err error) fault.Code {
	switch {
	case durable.Full(err):
		return fault.RepositoryFull
	case errors.Is(err, fault.RepositoryLocked):
		return fault.RepositoryLocked
	}
	return fault.CommandFailed
}

func (l local) lock(ctx context.Context, host string) (func(context.Context) error, []tree, error) {
	if err := l.there(); err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(l.dir, host)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, unwritable(l.dir, err)
	}
	lock := flock.New(filepath.Join(dir, lockStart), flock.SetPermissions(0o600), flock.SetFlag(backup.LockFlags))
	got, err := lock.TryLock()
	if err != nil {
		return nil, nil, unwritable(dir, err)
	}
	if !got {
		return nil, nil, fault.New(fault.RepositoryLocked, "another run stores or removes backups of %s in %s", host, l.dir).
			WithHint("wait until it has ended")
	}
	unlock := func(context.Context) error { return lock.Close() }
	trees, err := l.look(ctx, host)
	if err != nil {
		return nil, nil, fault.All(err, lock.Close())
	}
	return unlock, trees, nil
}

// writingOut is the progress of a backup of which all is stored, and not yet on the disk.
func writingOut(s backup.Stored) backup.Progress {
	return backup.Progress{Label: "writing out", Done: s.Bytes, Total: s.Bytes, Files: s.Files}
}

func (l local) listen() (*os.File, error) {
	dir, err := os.Open(l.dir)
	if err != nil {
		return nil, unwritable(l.dir, err)
	}
	return dir, nil
}

func (l local) mark(ctx context.Context, since *os.File, s backup.Stored, name string, report backup.Report) (
	string, error) {
	// rsync has synced nothing; one call for the whole file system costs less than one for each file.
	flushed := backup.Flush(ctx, since, func() { report(writingOut(s)) })
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if flushed != nil {
		return "", unwritable(l.dir, flushed)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return "", fault.New(fault.Internal, "make a marker: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(l.dir, s.Host, name+markerEnd), data, 0o600); err != nil {
		return "", unwritable(l.dir, err)
	}
	return "", nil
}
