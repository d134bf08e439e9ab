// Package mirror is the backend that needs no other program. It keeps backups as dated trees in a directory, local or
// mounted. A file that has not changed since the last backup is a hard link to the file in that backup. A backup can be
// read with nothing but ls and cp.
//
// The directory holds for each host:
//
//	HOST/ID/dat/…     the tree, with each root at its own path
//	HOST/ID/.flags    a list of the files that had inode flags (chattr); in the tree the flags are not set, because they
//	                  would prevent hard links and removal
//	HOST/ID.json      the record of the backup; written last, removed first: a tree without a record is no backup
//	HOST/ID.partial/  a tree that is being made, or that a killed run has left
//	HOST/.lock        locked (flock) while a run stores or removes; never deleted
//	HOST/.machine     whose backups these are: another server of that name may only read them
package mirror

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// version is the version of the directory's layout.
const version = "1"

// New returns the mirror backend.
func New() backup.Backend { return mirror{} }

// mirror implements backup.Backend. It has no state: every call says where the repository is.
type mirror struct{}

// Describe implements backup.Backend.
func (mirror) Describe(_ context.Context, c backup.Config) (backup.Description, error) {
	r, err := parseOptions(c)
	if err != nil {
		return backup.Description{}, err
	}
	return backup.Description{
		Name: "mirror", Version: version, Local: []string{r.path},
		Features: []string{
			"hard links to the last backup", "holes, extended attributes, ACLs and inode flags are kept",
			"readable without Rewind",
		},
	}, nil
}

// Store implements backup.Backend.
func (mirror) Store(ctx context.Context, c backup.Config, t backup.Tree, report backup.Report) (backup.Stored, error) {
	r, err := open(c)
	if err != nil {
		return backup.Stored{}, err
	}
	s, err := r.makeHostDir(t.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	unlock, err := s.lockToStore(ctx, report)
	if err != nil {
		return backup.Stored{}, err
	}
	defer unlock()
	if err := s.noteMachine(); err != nil {
		return backup.Stored{}, err
	}
	leftoverErr := s.settleLocked(ctx, report)
	if ctx.Err() != nil {
		return backup.Stored{}, cmp.Or(leftoverErr, ctx.Err())
	}
	stored, err := s.storeLocked(ctx, t, report)
	if leftoverErr != nil && stored.ID != "" { // leftovers take room, but do no harm to this backup
		stored.Warnings = append(stored.Warnings, fmt.Sprintf("what an earlier run left is still there: %v", leftoverErr))
	}
	return stored, err
}

// List implements backup.Backend.
func (mirror) List(_ context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	hosts, err := r.hostDirs(host)
	if err != nil {
		return nil, err
	}
	var all []backup.Stored
	for _, s := range hosts {
		stored, _, err := s.list()
		if err != nil {
			return nil, err
		}
		all = append(all, stored...)
	}
	latestFirst(all)
	return all, nil
}

// Check implements backup.Backend.
func (mirror) Check(_ context.Context, c backup.Config) ([]string, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	return r.checkWritable()
}

// Present implements backup.Backend. It presents the tree itself, which cannot be removed meanwhile.
func (mirror) Present(ctx context.Context, c backup.Config, id string, _ backup.Report,
	use func(context.Context, backup.Presented) error) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	s, err := r.find(id)
	if err != nil {
		return err
	}
	release, stored, err := s.lockForReading(id)
	if err != nil {
		return err
	}
	defer release()
	p := backup.Presented{Roots: make(map[string]string)}
	for _, root := range stored.Roots {
		if p.Roots[root], err = s.rootPath(id, root); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(s.flagsPath(id)); err == nil { // backups of an earlier version have no list of flags
		if p.Flags, err = s.rootPath(id, flagsName); err != nil {
			return err
		}
	}
	return use(ctx, p)
}

// Forget implements backup.Backend. It frees the room at once.
func (mirror) Forget(ctx context.Context, c backup.Config, id string) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	s, err := r.find(id)
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.refuseOtherMachine(); err != nil {
		return err
	}
	return s.forgetLocked(ctx, id, ignoreProgress)
}

// Settle implements backup.Backend. It skips hosts whose lock is held, because a run is at work there, and those of
// another machine, because on a network file system the locks of that one may not be seen here.
func (mirror) Settle(ctx context.Context, c backup.Config) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	hosts, err := r.hostDirs(c.Host)
	if err != nil {
		return err
	}
	for _, s := range hosts {
		unlock, err := s.lock()
		if isRepositoryLocked(err) {
			continue
		}
		if err != nil {
			return err
		}
		if _, otherErr := s.refuseOtherMachine(); otherErr == nil {
			err = s.settleLocked(ctx, ignoreProgress)
		}
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func isRepositoryLocked(err error) bool {
	return err != nil && fault.Of(err).Code == fault.RepositoryLocked
}

func ignoreProgress(backup.Progress) {}
