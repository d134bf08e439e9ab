package rsync

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// Present presents a local tree itself. A tree on another host, or one that was stored with fake_super, is first
// fetched into a directory in scratch.
func (b *Backend) Present(ctx context.Context, c backup.Config, id string, report backup.Report,
	use func(context.Context, backup.Presented) error) (err error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	one, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	if one.damage != nil {
		return one.damage
	}
	if one.stored.Damaged != "" {
		return fault.New(fault.BackendFailed, "backup %s is damaged: %s", id, one.stored.Damaged).
			WithHint("take another one: restore_id=ID; snap_backup_info lists them")
	}
	release, err := t.lockForReading(one)
	if err != nil {
		return err
	}
	defer release()
	if !t.options.mustFetch() {
		p, err := presented(one, t.options.dir, one.host, one.name)
		if err != nil {
			return err
		}
		return use(ctx, p)
	}
	if t.options.Scratch == "" {
		return ansible.Bad("scratch", "is missing: a directory with room for the whole backup, "+
			"which has to be fetched to be read")
	}
	room, err := backup.NewRoom(t.options.Scratch)
	if err != nil {
		return err
	}
	defer func() {
		if closed := room.Close(); err == nil {
			err = closed
		}
	}()
	// The tree is fetched into a directory below the room. The room itself stays accessible to root alone, while the
	// fetched directory gets the mode that it has at the place.
	const fetchedDir = "tree"
	if err := t.fetchTree(ctx, one, filepath.Join(room.Path, fetchedDir), report); err != nil {
		return err
	}
	// Whoever removes a backup removes the marker first. If the marker still exists now, the tree was complete.
	if _, err := t.find(ctx, id); err != nil {
		return fault.New(fault.Of(err).Code, "after it was fetched: %w", err)
	}
	p, err := presented(one, room.Path, fetchedDir)
	if err != nil {
		return err
	}
	return use(ctx, p)
}

// presented returns the directories of the roots in a tree, which is at a path below a directory.
func presented(t datedTree, dir string, path ...string) (backup.Presented, error) {
	if len(path) > 0 {
		var err error
		if dir, err = backup.JoinNoLinks(dir, filepath.Join(path...)); err != nil {
			return backup.Presented{}, err
		}
	}
	roots, err := backup.RootsBeneath(dir, t.stored.Roots)
	return backup.Presented{Roots: roots}, err
}

func (t *tool) fetchTree(ctx context.Context, one datedTree, dir string, report backup.Report) error {
	args := slices.Concat(t.options.preserveArgs(), t.superFromArgs(),
		[]string{"--", t.options.target(one.host, one.name) + "/", dir + "/"})
	_, err := t.Stream(ctx, t.copyCmd(args...),
		t.parseOutput("fetching the backup into "+t.options.Scratch, report, &stats{}))
	var failed *command.Error
	if errors.As(err, &failed) && fullText.MatchString(failed.Stderr) {
		return fault.New(fault.NoSpace, "there is not enough room in %s for the backup", t.options.Scratch).
			WithHint("name a directory with more room as scratch")
	}
	return t.explain("fetch the backup from "+t.options.Path, err)
}
