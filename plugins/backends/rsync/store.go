package rsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// undoLimit bounds the removal of what a Store that failed had made.
const undoLimit = 10 * time.Minute

// Store makes a tree beside the last one, and marks it when it is complete.
func (b *Backend) Store(ctx context.Context, c backup.Config, of backup.Tree, report backup.Report) (backup.Stored, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Stored{}, err
	}
	if !hostName.MatchString(of.Host) {
		return backup.Stored{}, ansible.Bad("host", "%q cannot be the name of a directory here: letters, digits, dots, dashes", of.Host)
	}
	if err := of.Missing(); err != nil {
		return backup.Stored{}, err
	}
	unlock, trees, err := t.place().lock(ctx, of.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	stored, err := t.storeLocked(ctx, of, trees, report)
	left := t.afterwards(ctx, unlock)
	if stored.ID == "" {
		return stored, fault.All(err, left)
	}
	if left != nil { // the backup is there all the same
		stored.Warnings = append(stored.Warnings, fmt.Sprintf("the lock is still there, and the next run of this host removes it: %v", left))
	}
	return stored, err
}

// afterwards does what has to be done although ctx may have ended.
func (t *tool) afterwards(ctx context.Context, undo func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	return undo(ctx)
}

func (t *tool) storeLocked(ctx context.Context, of backup.Tree, trees []tree, report backup.Report) (backup.Stored, error) {
	p := t.place()
	// What has no marker now is of runs that have ended: we have the lock.
	left := p.remove(ctx, of.Host, unmarked(trees), report)
	if ctx.Err() != nil {
		return backup.Stored{}, cmp.Or(left, ctx.Err())
	}
	since, err := p.listen()
	if err != nil {
		return backup.Stored{}, err
	}
	defer since.Close()
	name := unused(of.Time, trees)
	s, err := t.send(ctx, of, name, t.linked(trees, of), report)
	done := backup.Stored{
		ID: tree{host: of.Host, name: name}.id(), Host: of.Host, Set: of.Set, Time: of.Time.UTC(), Roots: of.Roots,
		Sequence: backup.NextSequence(all(complete(trees)), of.Host),
		Files:    s.stats.files, Bytes: s.stats.bytes, Added: s.stats.literal,
	}
	if left != nil { // it takes room, and is in nobody's way
		done.Warnings = append(done.Warnings, fmt.Sprintf("what an earlier run left is still there: %v", left))
	}
	lost := s.lost.Fault()
	if err == nil && lost != nil {
		done.Incomplete = true
	}
	if err == nil {
		var warning string
		if warning, err = p.mark(ctx, since, done, name, report); warning != "" {
			done.Warnings = append(done.Warnings, warning)
		}
	}
	if err != nil {
		undo := func(ctx context.Context) error { return p.remove(ctx, of.Host, []string{name}, report) }
		return backup.Stored{}, fault.All(err, t.afterwards(ctx, undo))
	}
	if lost != nil {
		return done, lost.With("id", done.ID)
	}
	return done, nil
}

// unmarked are the trees that are no backups.
func unmarked(trees []tree) []string {
	var names []string
	for _, one := range trees {
		if one.stored == nil {
			names = append(names, one.name)
		}
	}
	return names
}

// linked returns the backup whose unchanged files a new one links to: of those that have one of its roots the one made
// last, and not dated later than the new one, unless there is no other. nil if there is none.
func (t *tool) linked(trees []tree, of backup.Tree) *tree {
	var last *tree
	for _, one := range madeLastFirst(trees) {
		has := func(root string) bool { return slices.Contains(one.stored.Roots, root) }
		if !one.there || !slices.ContainsFunc(of.Roots, has) {
			continue
		}
		if !t.options.overSSH() && !t.intact(one) {
			continue // somebody has damaged it: no reason not to store
		}
		if !one.stored.Time.After(of.Time) {
			return &one
		}
		if last == nil {
			last = &one
		}
	}
	return last
}

// intact says whether all roots of a tree on this host are there. rsync would follow a link in their place, and make
// the files it leads to part of the backup.
func (t *tool) intact(one tree) bool {
	_, err := presented(one, t.options.dir, one.host, one.name)
	return err == nil
}

// madeLastFirst returns the trees of one host that are backups, the one made last first.
func madeLastFirst(trees []tree) []tree {
	list := complete(trees)
	byID := map[string]tree{}
	for _, one := range list {
		byID[one.id()] = one
	}
	order := all(list)
	backup.NewestFirst(order)
	for i, s := range order {
		list[i] = byID[s.ID]
	}
	return list
}

// sent is what one rsync did.
type sent struct {
	stats     stats
	lost      backup.Lost
	elsewhere bool // it failed at something that is not the source
}

// send copies the roots into a new tree. Files that could not be read are no error here.
func (t *tool) send(ctx context.Context, of backup.Tree, name string, last *tree, report backup.Report) (*sent, error) {
	s := &sent{}
	c, done, err := t.compare(ctx, of, last, report)
	defer done()
	if err != nil {
		return s, err
	}
	into := t.options.at(of.Host, name) + "/"
	// -R keeps each root's path. Directories above the roots are made, and not copied: one may be a symbolic link.
	args := slices.Concat(everything, t.super(), []string{"-x", "-R", "--no-implied-dirs"}, c.link(), []string{"--"})
	args = append(append(args, of.Roots...), into)
	if err := t.copy(ctx, s, &s.stats, args, report); err != nil || c.doubts == "" {
		return s, err
	}
	var again stats
	err = t.copy(ctx, s, &again, slices.Concat(everything, t.super(), c.again(), []string{"--", "/", into}), report)
	s.stats.literal += again.literal
	return s, err
}

// copy runs one rsync that copies. Files that could not be read are no error.
func (t *tool) copy(ctx context.Context, s *sent, into *stats, args []string, report backup.Report) error {
	cmd := t.copying(args...)
	cmd.Stderr = s.complain
	_, err := t.Stream(ctx, cmd, t.follow("storing", report, into))
	if s.partial(err) {
		return nil
	}
	return t.explain("store the backup in "+t.options.Path, err)
}

// follow reports progress, and reads the statistics.
func (t *tool) follow(label string, report backup.Report, s *stats) func(string) {
	last := backup.Progress{Label: label}
	return func(text string) {
		p, ok := parseProgress(text)
		if ok {
			last.Done, last.Total, last.Files = p.Done, p.Total, p.Files
		}
		if ok || text == "" { // with nothing to say, it works
			report(last)
			return
		}
		s.read(text)
	}
}

func (s *sent) complain(text string) {
	c := parseComplaint(text)
	switch c.kind {
	case vanished:
		s.lost.Vanished(c.path)
	case unreadable:
		s.lost.Unreadable(c.path)
	case elsewhere:
		s.elsewhere = true
	}
}

// partial says whether everything was stored but for files that could not be read.
func (s *sent) partial(err error) bool {
	var failed *command.Error
	if !errors.As(err, &failed) || s.elsewhere {
		return false
	}
	return (failed.Code == exitVanished || failed.Code == exitPartial) && s.lost.Fault() != nil
}

// settle removes what dead runs left. A host whose lock is held is at work, and is left alone.
func (t *tool) settle(ctx context.Context) error {
	p := t.place()
	trees, err := p.look(ctx, t.config.Host)
	if errors.Is(err, fault.RepositoryMissing) {
		return nil // where there is none, nothing was left in it
	}
	if err != nil {
		return err
	}
	left := map[string][]string{}
	for _, one := range trees {
		left[one.host] = append(left[one.host], unmarked([]tree{one})...)
	}
	var all []error
	for host, names := range left {
		if len(names) > 0 {
			all = append(all, t.settleHost(ctx, host))
		}
	}
	return fault.All(all...)
}

func (t *tool) settleHost(ctx context.Context, host string) error {
	p := t.place()
	unlock, trees, err := p.lock(ctx, host) // trees again: what had no marker may have got one
	if errors.Is(err, fault.RepositoryLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.All(p.remove(ctx, host, unmarked(trees), quiet), t.afterwards(ctx, unlock))
}
