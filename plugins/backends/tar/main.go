// Tar is a backend of snap_backup that keeps each backup as one archive in a directory. It is the example in
// docs/backends.md: small, but complete. It needs GNU tar.
package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/plugin"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

func main() { os.Exit(plugin.Serve(backend{command.Local{}})) }

// backend implements backup.Backend. It has no state: every call says where the repository is.
type backend struct{ programs command.Streamer }

func (b backend) Describe(ctx context.Context, c backup.Config) (backup.Description, error) {
	r, err := repositoryOf(c)
	if err != nil {
		return backup.Description{}, err
	}
	out, err := b.programs.Run(ctx, command.Cmd{Argv: []string{"tar", "--version"}})
	if err != nil {
		return backup.Description{}, err
	}
	version, gnu := strings.CutPrefix(out.Stdout, "tar (GNU tar) ")
	if !gnu {
		return backup.Description{}, fault.New(fault.Unsupported, "the tar that is installed is not GNU tar").
			WithHint("apt-get install tar")
	}
	version, _, _ = strings.Cut(version, "\n")
	return backup.Description{Name: "tar", Version: version, Local: []string{r.path}}, nil
}

func (b backend) Store(ctx context.Context, c backup.Config, t backup.Tree, report backup.Report) (backup.Stored,
	error) {
	r, err := open(c)
	if err != nil {
		return backup.Stored{}, err
	}
	unlock, err := r.lock()
	if err != nil {
		return backup.Stored{}, err
	}
	defer unlock()
	return b.store(ctx, r, t, report)
}

// store writes the archive under a name that List ignores, and the backup's entry only when the whole archive is on the
// disk. A file that could not be read makes the backup incomplete; after any other failure nothing is left behind.
func (b backend) store(ctx context.Context, r repository, t backup.Tree, report backup.Report) (backup.Stored, error) {
	id, err := r.freeID(t.Time)
	if err != nil {
		return backup.Stored{}, err
	}
	older, err := r.list(t.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	defer os.Remove(r.partial(id)) // there is none once it has its name
	sum, err := b.create(ctx, r.partial(id), t.Roots, report)
	incomplete := isIncomplete(err)
	if err != nil && !incomplete {
		return backup.Stored{}, err
	}
	size, failed := publish(r.partial(id), r.archive(id))
	if failed != nil {
		return backup.Stored{}, failed
	}
	stored := backup.Stored{
		ID: id, Host: t.Host, Set: t.Set, Time: t.Time, Roots: t.Roots, Incomplete: incomplete,
		Sequence: backup.NextSequence(older, t.Host),
		Files:    sum.files, Bytes: size, Added: size, Warnings: sum.allWarnings(),
	}
	if failed := r.addToList(stored); failed != nil {
		return backup.Stored{}, failed
	}
	return stored, err
}

func (b backend) List(_ context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	return r.list(host)
}

func (b backend) Check(_ context.Context, c backup.Config) ([]string, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := unix.Access(r.path, unix.W_OK); err != nil {
		return nil, fault.New(fault.BackendFailed, "%s cannot be written: %w", r.path, err)
	}
	return nil, nil
}

// Present unpacks the archive in the repository, because Scratch is in memory, which has no room for a whole backup.
func (b backend) Present(ctx context.Context, c backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	stored, err := r.find(id)
	if err != nil {
		return err
	}
	room, err := backup.NewRoom(r.path)
	if err != nil {
		return err
	}
	defer room.Close()
	if err := b.extract(ctx, r.archive(id), room.Path, report); err != nil {
		return err
	}
	roots, err := backup.RootsBeneath(room.Path, stored.Roots) // a symbolic link may be in the place of a root
	if err != nil {
		return err
	}
	return use(ctx, backup.Presented{Roots: roots})
}

func (b backend) Forget(_ context.Context, c backup.Config, id string) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	if _, err := r.find(id); err != nil && (errors.Is(err, fault.NotFound) || !isOwnID(id)) {
		return err
	}
	return r.remove(id)
}

// Settle removes what killed runs have left. It does nothing while a run holds the lock, which ends with its process.
func (b backend) Settle(_ context.Context, c backup.Config) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	unlock, err := r.lock()
	if fault.Of(err) != nil && fault.Of(err).Code == fault.RepositoryLocked {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	return r.settle()
}
