package restic

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// resticBackup is what one `restic backup` reports.
type resticBackup struct {
	report   backup.Report
	progress backup.Progress
	summary  *jsonLine
	sequence int64

	lost    backup.Lost
	settled bool // the snapshot, if there is one, is known to be complete, or is marked as incomplete
}

// Store runs one `restic backup` of all roots. The snapshot has the time of the set, and the roots are its paths. By
// host and paths restic finds the previous snapshot as the parent, and reads only what has changed since.
func (b *Backend) Store(ctx context.Context, c backup.Config, tree backup.Tree, report backup.Report) (backup.Stored,
	error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Stored{}, err
	}
	// Before 0.17 restic skips a root that is missing, and succeeds.
	if err := tree.Missing(); err != nil {
		return backup.Stored{}, err
	}
	sequence, err := b.nextSequence(ctx, t, tree.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	end, err := t.notes().write(ctx, note{Host: tree.Host, Tags: tags(tree, sequence, c.Machine)})
	if err != nil {
		return backup.Stored{}, err
	}
	s := &resticBackup{report: report, progress: backup.Progress{Label: "storing"}, sequence: sequence}
	stored, err := t.store(ctx, tree, s)
	return stored, fault.All(err, end(s.settled))
}

func (t *tool) store(ctx context.Context, tree backup.Tree, s *resticBackup) (backup.Stored, error) {
	cmd := t.cmd(t.backupArgs(tree, s.sequence)...)
	cmd.Limit = 0 // the run that called the backend has a limit of its own
	cmd.Stderr = s.parseStderr
	_, err := t.Stream(ctx, cmd, s.parseStdout)
	if err != nil && !s.isIncomplete(err) {
		return backup.Stored{}, fault.All(t.explain("store the backup", err), t.markFailed(ctx, tree, s))
	}
	if s.summary == nil || s.summary.ID == "" {
		return backup.Stored{}, fault.New(fault.BackendFailed, "restic succeeded, but names no snapshot that it has made")
	}
	return t.finish(ctx, tree, s, t.lostFiles(s, err))
}

func (t *tool) backupArgs(tree backup.Tree, sequence int64) []string {
	args := []string{
		"--json", "backup", "--one-file-system", "--host", tree.Host,
		"--time", tree.Time.UTC().Format("2006-01-02 15:04:05"),
	}
	if tree.ReadAll {
		// otherwise restic compares inode, size, mtime and ctime with those that it has recorded
		args = append(args, "--force")
	}
	for _, tag := range tags(tree, sequence, t.config.Machine) {
		args = append(args, "--tag", tag)
	}
	return append(append(args, "--"), tree.Roots...)
}

func (s *resticBackup) parseStdout(text string) {
	l, ok := parseLine(text)
	switch {
	case text == "": // restic wrote nothing, but is at work
		s.report(s.progress)
	case !ok:
	case l.Type == "status":
		s.progress.Done, s.progress.Total, s.progress.Files = l.BytesDone, l.TotalBytes, l.FilesDone
		s.report(s.progress)
	case l.Type == "summary":
		s.summary = &l
	case l.Type == "error":
		s.addLost(l)
	}
}

func (s *resticBackup) parseStderr(text string) {
	if m := missingRootLine.FindStringSubmatch(text); m != nil {
		s.lost.Vanished(m[1])
		return
	}
	if l, ok := parseLine(text); ok && l.Type == "error" {
		s.addLost(l)
	}
}

func (s *resticBackup) addLost(l jsonLine) {
	if l.vanished() {
		s.lost.Vanished(l.Item)
		return
	}
	s.lost.Unreadable(l.Item)
}

// isIncomplete reports whether restic made a snapshot without some of the files. err is how restic ended.
func (s *resticBackup) isIncomplete(err error) bool {
	var failed *command.Error
	return errors.As(err, &failed) && failed.Code == exitIncomplete && s.summary != nil
}

// markFailed marks a snapshot that restic made although it failed or was told to end: nobody knows what is in it.
func (t *tool) markFailed(ctx context.Context, tree backup.Tree, s *resticBackup) error {
	if s.summary == nil || s.summary.ID == "" {
		return nil
	}
	err := t.mark(ctx, tree.Host, s.summary.ID, s.report)
	s.settled = err == nil
	return err
}

// lostFiles returns the fault that names the files that are not in the snapshot, and nil if none is missing. err is how
// restic ended.
func (t *tool) lostFiles(s *resticBackup, err error) *fault.Error {
	if lost := s.lost.Fault(); lost != nil || err == nil {
		return lost
	}
	return fault.New(fault.SourceUnreadable,
		"not all of it is in the backup, and restic does not name what it could not read: %w",
		t.explain("store the backup", err)).With("paths", []string{})
}

// finish marks the snapshot if files are missing, and then returns the backup with what the summary does not say.
func (t *tool) finish(ctx context.Context, tree backup.Tree, s *resticBackup, lost *fault.Error) (backup.Stored,
	error) {
	done := backup.Stored{
		ID: s.summary.ID, Host: tree.Host, Set: tree.Set, Time: tree.Time, Roots: tree.Roots, Sequence: s.sequence,
		Files: s.summary.Files, Bytes: s.summary.Bytes, Added: s.summary.Added, Incomplete: lost != nil,
		Machine: t.config.Machine,
	}
	if t.version.atLeast(withFeatures) {
		done.Added = s.summary.AddedPacked
	}
	var failed error
	if done.Incomplete {
		failed = t.mark(ctx, tree.Host, done.ID, s.report)
	}
	s.settled = failed == nil
	if !t.version.atLeast(withLinks) {
		found, err := t.find(ctx, done.ID)
		if err != nil {
			err = fault.New(fault.BackendFailed, "restic says that it stored %s, which cannot be found: %w", done.ID, err)
			return done, fault.All(lost, failed, err)
		}
		done.ID = found.ID
	}
	if lost == nil {
		return done, nil
	}
	return done, fault.All(lost.With("id", done.ID), failed)
}
