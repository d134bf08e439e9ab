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

// Present hands out the tree itself where it lies on this host as it was; else a copy of it in scratch.
func (b *Backend) Present(ctx context.Context, c backup.Config, id string, report backup.Report, use func(context.Context, backup.Presented) error) (err error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return err
	}
	one, err := t.find(ctx, id)
	if err != nil {
		return err
	}
	release, err := t.hold(one)
	if err != nil {
		return err
	}
	defer release()
	if !t.options.laidOut() {
		p, err := presented(one, t.options.dir, one.host, one.name)
		if err != nil {
			return err
		}
		return use(ctx, p)
	}
	if t.options.Scratch == "" {
		return ansible.Bad("scratch", "is missing: a directory with room for the whole backup, which has to be fetched to be read")
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
	// Below the room, which stays root's alone: what is fetched gets the mode that it has at the place.
	const fetched = "tree"
	if err := t.fetchTree(ctx, one, filepath.Join(room.Path, fetched), report); err != nil {
		return err
	}
	// Whoever removes it takes the marker away first: while that is there, all of the tree was.
	if _, err := t.find(ctx, id); err != nil {
		return fault.New(fault.Of(err).Code, "after it was fetched: %w", err)
	}
	p, err := presented(one, room.Path, fetched)
	if err != nil {
		return err
	}
	return use(ctx, p)
}

// presented returns where the roots are in a tree that lies at a path below a directory.
func presented(t tree, dir string, path ...string) (backup.Presented, error) {
	if len(path) > 0 {
		var err error
		if dir, err = backup.Beneath(dir, filepath.Join(path...)); err != nil {
			return backup.Presented{}, err
		}
	}
	roots, err := backup.RootsBeneath(dir, t.stored.Roots)
	return backup.Presented{Roots: roots}, err
}

func (t *tool) fetchTree(ctx context.Context, one tree, dir string, report backup.Report) error {
	args := slices.Concat(everything, t.superFrom(), []string{"--", t.options.at(one.host, one.name) + "/", dir + "/"})
	_, err := t.Stream(ctx, t.copying(args...), t.follow("fetching the backup into "+t.options.Scratch, report, &stats{}))
	var failed *command.Error
	if errors.As(err, &failed) && full.MatchString(failed.Stderr) {
		return fault.New(fault.NoSpace, "there is not enough room in %s for the backup", t.options.Scratch).
			WithHint("name a directory with more room as scratch")
	}
	return t.explain("fetch the backup from "+t.options.Path, err)
}
