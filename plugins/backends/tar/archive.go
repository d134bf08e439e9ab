package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// pulse is how often a tar that works in silence, as over a hole of a large file, is reported to work.
const pulse = 5 * time.Second

// kept are the options that keep what a file is beside its content; posix(1)'s format has room for all of it.
var kept = []string{"--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"}

// summary is what tar said.
type summary struct {
	files                int64
	warnings             []string
	unreadable, vanished []string // paths
	full, broken         bool
}

// create makes an archive of the roots. Those of its errors that leave the rest stored are source_unreadable and
// source_vanished.
func (b backend) create(ctx context.Context, archive string, roots []string, report backup.Report) (summary, error) {
	argv := append([]string{"tar", "--create", "--file=" + archive, "--verbose", "--sparse", "--one-file-system", "--directory=/"}, kept...)
	argv = append(argv, "--")
	for _, root := range roots {
		argv = append(argv, "."+root)
	}
	var s summary
	_, err := b.programs.Stream(ctx, command.Cmd{Argv: argv, Pulse: pulse, Stderr: s.complaint}, func(line string) {
		if line != "" {
			s.files++
		}
		report(backup.Progress{Label: line, Done: sizeOf(archive), Files: s.files})
	})
	return s, s.explain(err)
}

// extract unpacks an archive below a directory. Directories get their times last, since a root may lie in another.
func (b backend) extract(ctx context.Context, archive, dir string, report backup.Report) error {
	argv := append([]string{"tar", "--extract", "--file=" + archive, "--verbose", "--directory=" + dir,
		"--same-permissions", "--same-owner", "--delay-directory-restore"}, kept...)
	p := backup.Progress{Total: sizeOf(archive)}
	_, err := b.programs.Stream(ctx, command.Cmd{Argv: argv, Pulse: pulse}, func(line string) {
		if line != "" {
			p.Label = line
			p.Files++
		}
		report(p)
	})
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.BackendFailed, "unpack %s: %w", archive, err)
	}
	return err
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // tar has not made it yet
	}
	return info.Size()
}

// complaint takes a line of tar's stderr. With LC_ALL=C its words are these (GNU tar: src/create.c, src/misc.c), and
// what is not a printable character of ASCII is escaped in a name.
func (s *summary) complaint(line string) {
	about := func(problem string) bool { return strings.Contains(line, ": "+problem) }
	switch {
	case about("socket ignored"), about("file changed as we read it"), about("File shrank by"):
		s.warnings = append(s.warnings, strings.TrimPrefix(line, "tar: ."))
	case strings.HasSuffix(line, "No space left on device"), strings.HasSuffix(line, "Disk quota exceeded"), about("Wrote only "):
		s.full = true
	case about("File removed before we read it"), about("Cannot") && strings.HasSuffix(line, "No such file or directory"):
		s.vanished = append(s.vanished, pathOf(line))
	case about("Cannot open: "), about("Cannot read: "), about("Read error at byte "), about("Cannot savedir: "):
		s.unreadable = append(s.unreadable, pathOf(line))
	case about("file is on a different filesystem"), about("Exiting with failure status due to previous errors"):
	default:
		s.broken = true
	}
}

// pathOf is the file that a complaint is about: "tar: ./dat/file: Cannot open: Permission denied".
func pathOf(line string) string {
	path := strings.TrimPrefix(line, "tar: .")
	for _, problem := range []string{": Cannot ", ": Read error ", ": File removed "} {
		if i := strings.LastIndex(path, problem); i >= 0 {
			return path[:i]
		}
	}
	return path
}

// explain makes a fault of how tar ended. Exit status 1 says that files changed while they were read, 2 that something
// went wrong, of which only what could not be read is no harm to the rest (tar(1), RETURN VALUE).
func (s *summary) explain(err error) error {
	var failed *command.Error
	switch {
	case err == nil || !errors.As(err, &failed) || failed.Code < 0:
		return err
	case s.full:
		return fault.New(fault.RepositoryFull, "no room for the archive: %w", err).WithHint("make room, or forget old backups")
	case s.broken:
		return fault.New(fault.BackendFailed, "make the archive: %w", err)
	case len(s.unreadable) > 0:
		return fault.New(fault.SourceUnreadable, "%d files could not be read", len(s.unreadable)).With("paths", some(s.unreadable))
	case len(s.vanished) > 0:
		return fault.New(fault.SourceVanished, "%d files were gone when they were read", len(s.vanished)).With("paths", some(s.vanished))
	case failed.Code == 1:
		return nil // the warnings say what changed
	}
	return fault.New(fault.BackendFailed, "make the archive: %w", err)
}

// isIncomplete tells whether all but some files is stored.
func isIncomplete(err error) bool {
	return errors.Is(err, fault.SourceUnreadable) || errors.Is(err, fault.SourceVanished)
}

// some bounds a list that a message has to hold.
func some(paths []string) []string { return paths[:min(len(paths), 100)] }
