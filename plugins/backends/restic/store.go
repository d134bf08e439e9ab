package restic

import (
	"context"
	"errors"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// storing follows one `restic backup`.
type storing struct {
	report   backup.Report
	progress backup.Progress
	summary  *line
	sequence int64

	lost  backup.Lost
	known bool // whether the snapshot, if there is one, is complete; and if not, it is marked
}

// Store runs one `restic backup` of all roots. The snapshot's time is the set's, its paths are the roots: restic finds
// the previous one as its parent by host and paths, and reads only what changed.
func (b *Backend) Store(ctx context.Context, c backup.Config, tree backup.Tree, report backup.Report) (backup.Stored, error) {
	t, err := b.open(ctx, c)
	if err != nil {
		return backup.Stored{}, err
	}
	// restic until 0.17 skips a root that is missing, and ends well.
	if err := tree.Missing(); err != nil {
		return backup.Stored{}, err
	}
	sequence, err := b.sequence(ctx, t, tree.Host)
	if err != nil {
		return backup.Stored{}, err
	}
	end, err := t.begin(ctx, tree, sequence)
	if err != nil {
		return backup.Stored{}, err
	}
	s := &storing{report: report, progress: backup.Progress{Label: "storing"}, sequence: sequence}
	stored, err := t.store(ctx, tree, s)
	return stored, fault.All(err, end(s.known))
}

func (t *tool) store(ctx context.Context, tree backup.Tree, s *storing) (backup.Stored, error) {
	cmd := t.cmd(backupArgs(tree, s.sequence)...)
	cmd.Limit = 0 // the run that asked for the backup bounds it
	cmd.Stderr = s.stderr
	_, err := t.Stream(ctx, cmd, s.stdout)
	if err != nil && !s.incomplete(err) {
		return backup.Stored{}, fault.All(t.explain("store the backup", err), t.disown(ctx, tree, s))
	}
	if s.summary == nil || s.summary.ID == "" {
		return backup.Stored{}, fault.New(fault.BackendFailed, "restic ended well and names no snapshot it has made")
	}
	return t.finish(ctx, tree, s, t.missing(s, err))
}

func backupArgs(tree backup.Tree, sequence int64) []string {
	args := []string{
		"--json", "backup", "--one-file-system", "--host", tree.Host,
		"--time", tree.Time.UTC().Format("2006-01-02 15:04:05"),
	}
	if tree.ReadAll {
		args = append(args, "--force") // else it believes the inode, size and times, ctime too, that it keeps itself
	}
	for _, tag := range tags(tree, sequence) {
		args = append(args, "--tag", tag)
	}
	return append(append(args, "--"), tree.Roots...)
}

func (s *storing) stdout(text string) {
	l, ok := parseLine(text)
	switch {
	case text == "": // it works
		s.report(s.progress)
	case !ok:
	case l.Type == "status":
		s.progress.Done, s.progress.Total, s.progress.Files = l.BytesDone, l.TotalBytes, l.FilesDone
		s.report(s.progress)
	case l.Type == "summary":
		s.summary = &l
	case l.Type == "error":
		s.failed(l)
	}
}

func (s *storing) stderr(text string) {
	if m := skipped.FindStringSubmatch(text); m != nil {
		s.lost.Vanished(m[1])
		return
	}
	if l, ok := parseLine(text); ok && l.Type == "error" {
		s.failed(l)
	}
}

func (s *storing) failed(l line) {
	if l.vanished() {
		s.lost.Vanished(l.Item)
		return
	}
	s.lost.Unreadable(l.Item)
}

// incomplete says whether restic made a snapshot without some of the files.
func (s *storing) incomplete(err error) bool {
	var failed *command.Error
	return errors.As(err, &failed) && failed.Code == exitIncomplete && s.summary != nil
}

// disown marks a snapshot that restic had made when it failed, or was told to end: what is in it, nobody knows.
func (t *tool) disown(ctx context.Context, tree backup.Tree, s *storing) error {
	if s.summary == nil || s.summary.ID == "" {
		return nil
	}
	err := t.mark(ctx, tree.Host, s.summary.ID, s.report)
	s.known = err == nil
	return err
}

// missing says what is not in the snapshot; nil if all of it is. err is how restic ended.
func (t *tool) missing(s *storing, err error) *fault.Error {
	if lost := s.lost.Fault(); lost != nil || err == nil {
		return lost
	}
	return fault.New(fault.SourceUnreadable, "not all of it is in the backup, and restic does not name what it could not read: %w",
		t.explain("store the backup", err)).With("paths", []string{})
}

// finish completes what the summary does not say, and marks what is incomplete before anything else.
func (t *tool) finish(ctx context.Context, tree backup.Tree, s *storing, lost *fault.Error) (backup.Stored, error) {
	done := backup.Stored{
		ID: s.summary.ID, Host: tree.Host, Set: tree.Set, Time: tree.Time, Roots: tree.Roots, Sequence: s.sequence,
		Files: s.summary.Files, Bytes: s.summary.Bytes, Added: s.summary.Added, Incomplete: lost != nil,
	}
	if t.version.has(withFeatures) {
		done.Added = s.summary.AddedPacked
	}
	var failed error
	if done.Incomplete {
		failed = t.mark(ctx, tree.Host, done.ID, s.report)
	}
	s.known = failed == nil
	if !t.version.has(withLinks) {
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
