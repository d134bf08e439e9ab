package rsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// undoLimit limits what is done after ctx has ended, such as the removal of what a failed Store had made.
const undoLimit = 10 * time.Minute

// Store makes a new tree and, when the tree is complete, its marker.
func (b *Backend) Store(ctx context.Context, c backup.Config, of backup.Tree, report backup.Report) (backup.Stored,
	error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Stored{}, err
	}
	if !hostNamePattern.MatchString(of.Host) {
		return backup.Stored{}, ansible.Bad("host",
			"%q cannot be the name of a directory here: letters, digits, dots, dashes", of.Host)
	}
	if err := of.Missing(); err != nil {
		return backup.Stored{}, err
	}
	held, err := t.lockToStore(ctx, of.Host, report)
	if err != nil {
		return backup.Stored{}, err
	}
	var stored backup.Stored
	if err = t.noteOwnMachine(ctx, of.Host, held.machine); err == nil {
		stored, err = t.storeLocked(ctx, of, held.trees, report)
	}
	left := t.runDespiteContext(ctx, held.unlock)
	if stored.ID == "" {
		return stored, fault.All(err, left)
	}
	if left != nil { // the backup itself is complete
		stored.Warnings = append(stored.Warnings,
			fmt.Sprintf("the lock is still there, and the next run of this host removes it: %v", left))
	}
	return stored, err
}

// storeWait is how long a Store waits for another run. Tests shorten it.
var storeWait = backup.StoreWait

// lockToStore is place.lock, and waits for other runs.
func (t *tool) lockToStore(ctx context.Context, host string, report backup.Report) (held heldHost, err error) {
	pause := time.Second
	if t.options.overSSH() {
		// Each attempt writes a lock, which keeps out others that try in the same moment. So no two wait equally long.
		pause = 5*time.Second + rand.N(10*time.Second)
	}
	err = backup.WaitWhileLocked(ctx, storeWait, pause, report, func() error {
		held, err = t.place().lock(ctx, host)
		return err
	})
	return held, err
}

// noteOwnMachine refuses to store for a host whose backups are those of another machine, and notes this machine if none
// is noted.
func (t *tool) noteOwnMachine(ctx context.Context, host, noted string) error {
	if err := t.refuseOtherMachine(host, noted); err != nil || noted != "" || t.config.Machine == "" {
		return err
	}
	return t.place().noteMachine(ctx, host, t.config.Machine)
}

// runDespiteContext calls fn with a context that goes on for undoLimit even if ctx has ended.
func (t *tool) runDespiteContext(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	return fn(ctx)
}

func (t *tool) storeLocked(ctx context.Context, of backup.Tree, trees []datedTree,
	report backup.Report) (backup.Stored, error) {
	p := t.place()
	// Trees without a marker were left by runs that have ended, because this run has the lock.
	left := p.remove(ctx, of.Host, namesWithoutMarker(trees), report)
	if ctx.Err() != nil {
		return backup.Stored{}, cmp.Or(left, ctx.Err())
	}
	since, err := p.openForErrors()
	if err != nil {
		return backup.Stored{}, err
	}
	defer since.Close()
	name := unusedName(of.Time, trees)
	s, err := t.copyRoots(ctx, of, name, t.lastBackup(trees, of), report)
	done := backup.Stored{
		ID: datedTree{host: of.Host, name: name}.id(), Host: of.Host, Set: of.Set, Time: of.Time.UTC(), Roots: of.Roots,
		Sequence: backup.NextSequence(storedOf(backupsOf(trees)), of.Host),
		Files:    s.stats.files, Bytes: s.stats.bytes, Added: s.stats.literal, Warnings: s.warnings,
	}
	if left != nil { // leftovers take room, but do no harm to this backup
		done.Warnings = append(done.Warnings, fmt.Sprintf("what an earlier run left is still there: %v", left))
	}
	lost := s.lost.Fault()
	if err == nil && lost != nil {
		done.Incomplete = true
	}
	if err == nil {
		var warning string
		if warning, err = p.writeMarker(ctx, since, done, name, report); warning != "" {
			done.Warnings = append(done.Warnings, warning)
		}
	}
	if err != nil {
		undo := func(ctx context.Context) error { return p.remove(ctx, of.Host, []string{name}, report) }
		return backup.Stored{}, fault.All(err, t.runDespiteContext(ctx, undo))
	}
	if lost != nil {
		return done, lost.With("id", done.ID)
	}
	return done, nil
}

// namesWithoutMarker returns the names of the trees that have no marker.
func namesWithoutMarker(trees []datedTree) []string {
	var names []string
	for _, one := range trees {
		if one.stored == nil {
			names = append(names, one.name)
		}
	}
	return names
}

// lastBackup returns the backup to whose files the unchanged files of a new one become hard links: of those that have
// the most of its roots the one made last. If it were the very last one, a nightly backup of several volumes would
// store all but one of them whole where another backup of that one is made every hour. One that is dated later than the
// new one is taken only if there is no other. Nil: there is none that has a root of the new one.
func (t *tool) lastBackup(trees []datedTree, of backup.Tree) *datedTree {
	missing := func(one datedTree) (n int) {
		for _, root := range of.Roots {
			if !slices.Contains(one.stored.Roots, root) {
				n++
			}
		}
		return n
	}
	usable := slices.DeleteFunc(newestFirst(trees), func(one datedTree) bool {
		return !one.exists || missing(one) == len(of.Roots)
	})
	slices.SortStableFunc(usable, func(a, b datedTree) int {
		isLaterA, isLaterB := a.stored.Time.After(of.Time), b.stored.Time.After(of.Time)
		switch {
		case isLaterA == isLaterB:
			return missing(a) - missing(b)
		case isLaterA:
			return 1
		}
		return -1
	})
	for _, one := range usable {
		if t.options.overSSH() || t.isIntact(one) { // a damaged backup is no reason to refuse this one
			return &one
		}
	}
	return nil
}

// isIntact reports whether all roots of a local tree are directories that are reached through no symbolic link. rsync
// would follow such a link, and make the files to which it leads part of the backup.
func (t *tool) isIntact(one datedTree) bool {
	_, err := presented(one, t.options.dir, one.host, one.name)
	return err == nil
}

// newestFirst returns the trees of one host that have a marker, the one made last first.
func newestFirst(trees []datedTree) []datedTree {
	list := backupsOf(trees)
	byID := map[string]datedTree{}
	for _, one := range list {
		byID[one.id()] = one
	}
	order := storedOf(list)
	backup.NewestFirst(order)
	for i, s := range order {
		list[i] = byID[s.ID]
	}
	return list
}

// transfer is what came of copying the roots, by one or two calls of rsync.
type transfer struct {
	stats      stats
	lost       backup.Lost
	otherError bool // something failed that is not about reading the source
	warnings   []string
}

// copyRoots copies the roots into a new tree. Files that could not be read are noted in the result and are no error.
func (t *tool) copyRoots(ctx context.Context, of backup.Tree, name string, last *datedTree,
	report backup.Report) (*transfer, error) {
	s := &transfer{}
	c, done, err := t.planComparison(ctx, of, last, report)
	defer done()
	s.warnings = c.warnings
	if err != nil {
		return s, err
	}
	into := t.options.target(of.Host, name) + "/"
	// -R keeps each root's path. The directories above a root are made anew with --no-implied-dirs, because one of them
	// may be a symbolic link on this host.
	args := slices.Concat(t.options.preserveArgs(), t.superArgs(), []string{"-x", "-R", "--no-implied-dirs"}, c.linkArgs(),
		[]string{"--"})
	args = append(append(args, of.Roots...), into)
	if err := t.runCopy(ctx, s, &s.stats, args, report); err != nil || c.doubtfulList == "" {
		return s, err
	}
	var again stats
	err = t.runCopy(ctx, s, &again, slices.Concat(t.options.preserveArgs(), t.superArgs(), c.recheckArgs(),
		[]string{"--", "/", into}), report)
	s.stats.literal += again.literal
	return s, err
}

// runCopy runs one rsync that copies. Files that could not be read are noted in s and are no error.
func (t *tool) runCopy(ctx context.Context, s *transfer, into *stats, args []string, report backup.Report) error {
	cmd := t.copyCmd(args...)
	cmd.Stderr = s.parseStderr
	if t.options.overSSH() && slices.Contains(args, compareContent) {
		cmd.MaxIdle = remoteIdle
	}
	_, err := t.Stream(ctx, cmd, t.parseOutput("storing", report, into))
	if s.isPartial(err) {
		return nil
	}
	return t.explain("store the backup in "+t.options.Path, err)
}

// parseOutput returns a function for the lines of rsync's output. It reports progress, and collects the statistics in
// s.
func (t *tool) parseOutput(label string, report backup.Report, s *stats) func(string) {
	last := backup.Progress{Label: label}
	return func(text string) {
		p, ok := parseProgress(text)
		if ok {
			last.Done, last.Total, last.Files = p.Done, p.Total, p.Files
		}
		if ok || text == "" { // an empty text means that rsync wrote nothing, but is at work
			report(last)
			return
		}
		s.read(text)
	}
}

// parseStderr collects the files that a line of rsync's stderr says are not copied.
func (s *transfer) parseStderr(text string) {
	c := parseStderrLine(text)
	switch c.kind {
	case sourceVanished:
		s.lost.Vanished(c.path)
	case sourceUnreadable:
		s.lost.Unreadable(c.path)
	case otherError:
		s.otherError = true
	}
}

// isPartial reports whether everything was copied except files that could not be read.
func (s *transfer) isPartial(err error) bool {
	var failed *command.Error
	if !errors.As(err, &failed) || s.otherError {
		return false
	}
	return (failed.Code == exitVanished || failed.Code == exitPartial) && s.lost.Fault() != nil
}

// settle removes the trees that killed runs left. It skips hosts whose lock is held, because a run is at work there,
// and those of another machine, because on a network file system the locks of that one may not be seen here.
func (t *tool) settle(ctx context.Context) error {
	p := t.place()
	trees, err := p.readTrees(ctx, t.config.Host)
	if errors.Is(err, fault.RepositoryMissing) {
		return nil // if there is no repository, nothing was left in it
	}
	if err != nil {
		return err
	}
	left := map[string][]string{}
	for _, one := range trees {
		left[one.host] = append(left[one.host], namesWithoutMarker([]datedTree{one})...)
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
	held, err := p.lock(ctx, host) // read the trees again: one may have got its marker
	if errors.Is(err, fault.RepositoryLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.refuseOtherMachine(host, held.machine) == nil {
		err = p.remove(ctx, host, namesWithoutMarker(held.trees), ignoreProgress)
	}
	return fault.All(err, t.runDespiteContext(ctx, held.unlock))
}
