// Package mirror is the backend that needs no other program: it keeps backups as dated trees in a directory, local or
// mounted, and files that have not changed since the last one are hard links to it. A backup is read with nothing but
// ls and cp.
//
// The directory holds, for each host,
//
//	HOST/ID/dat/…     the tree, each root at its own path
//	HOST/ID/.flags    which files have inode flags (chattr): they do not have them here, where they would be in the way
//	HOST/ID.json      what it is; written last, removed first: a tree without it is no backup
//	HOST/ID.partial/  one that is being made, or was when its run was killed
//	HOST/.lock        held while a run stores or removes (flock); never deleted
package mirror

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// version is that of the layout.
const version = "1"

// New returns the backend.
func New() backup.Backend { return mirror{} }

// mirror keeps nothing: every call says where its repository is.
type mirror struct{}

// Describe implements backup.Backend.
func (mirror) Describe(_ context.Context, c backup.Config) (backup.Description, error) {
	r, err := read(c)
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
	s, err := r.shelf(t.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	unlock, err := s.lock()
	if err != nil {
		return backup.Stored{}, err
	}
	defer unlock()
	left := s.settle(ctx, report)
	if ctx.Err() != nil {
		return backup.Stored{}, cmp.Or(left, ctx.Err())
	}
	stored, err := s.store(ctx, t, report)
	if left != nil && stored.ID != "" { // it takes room, and is in nobody's way
		stored.Warnings = append(stored.Warnings, fmt.Sprintf("what an earlier run left is still there: %v", left))
	}
	return stored, err
}

// List implements backup.Backend.
func (mirror) List(_ context.Context, c backup.Config, host string) ([]backup.Stored, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	shelves, err := r.shelves(host)
	if err != nil {
		return nil, err
	}
	var all []backup.Stored
	for _, s := range shelves {
		some, err := s.list()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	newestFirst(all)
	return all, nil
}

// Check implements backup.Backend.
func (mirror) Check(_ context.Context, c backup.Config) ([]string, error) {
	r, err := open(c)
	if err != nil {
		return nil, err
	}
	return r.check()
}

// Present implements backup.Backend. The trees themselves are what is read; none is removed meanwhile.
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
	release, stored, err := s.hold(id)
	if err != nil {
		return err
	}
	defer release()
	p := backup.Presented{Roots: make(map[string]string)}
	for _, root := range stored.Roots {
		if p.Roots[root], err = s.root(id, root); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(s.flags(id)); err == nil { // an earlier version kept none
		if p.Flags, err = s.root(id, flagsName); err != nil {
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
	return s.forget(ctx, id, ignore)
}

// Settle implements backup.Backend. A host whose lock is held has a run that is alive.
func (mirror) Settle(ctx context.Context, c backup.Config) error {
	r, err := open(c)
	if err != nil {
		return err
	}
	shelves, err := r.shelves(c.Host)
	if err != nil {
		return err
	}
	for _, s := range shelves {
		unlock, err := s.lock()
		if isLocked(err) {
			continue
		}
		if err != nil {
			return err
		}
		err = s.settle(ctx, ignore)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

func isLocked(err error) bool { return err != nil && fault.Of(err).Code == fault.RepositoryLocked }

func ignore(backup.Progress) {}
