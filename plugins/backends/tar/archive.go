package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
)

// pulse is the interval at which a tar that writes nothing is reported to be at work. It writes nothing for long while
// it reads a large hole, for example.
const pulse = 5 * time.Second

// preserveArgs are the options that preserve all metadata of files. The posix format of archives can hold all of it.
var preserveArgs = []string{"--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"}

// summary is what tar wrote about its work.
type summary struct {
	files                int64
	warnings             []string // the first maxWarnings
	unnamed              int      // how many others there were
	unreadable, vanished []string // paths
	full                 bool     // there was no room for the archive
	otherError           bool     // something else failed, after which the archive is no use
}

// create makes an archive of the roots. After the errors source_unreadable and source_vanished the archive holds all
// other files.
func (b backend) create(ctx context.Context, archive string, roots []string, report backup.Report) (summary, error) {
	argv := append([]string{"tar", "--create", "--file=" + archive, "--verbose", "--sparse", "--one-file-system",
		"--directory=/"}, preserveArgs...)
	argv = append(argv, "--")
	for _, root := range roots {
		argv = append(argv, "."+root)
	}
	var s summary
	_, err := b.programs.Stream(ctx, command.Cmd{Argv: argv, BusyCheck: pulse, Stderr: s.parseStderr}, func(line string) {
		if line != "" {
			s.files++
		}
		report(backup.Progress{Label: line, Done: sizeOf(archive), Files: s.files})
	})
	return s, s.explain(err)
}

// extract unpacks an archive below a directory. Directories get their times last, because one root may be in another.
func (b backend) extract(ctx context.Context, archive, dir string, report backup.Report) error {
	argv := append([]string{"tar", "--extract", "--file=" + archive, "--verbose", "--directory=" + dir,
		"--same-permissions", "--same-owner", "--delay-directory-restore"}, preserveArgs...)
	p := backup.Progress{Total: sizeOf(archive)}
	_, err := b.programs.Stream(ctx, command.Cmd{Argv: argv, BusyCheck: pulse}, func(line string) {
		if line != "" {
			p.Label = line
			p.Files++
		}
		report(p)
	})
	var failed *command.Error
	if errors.As(err, &failed) && slices.ContainsFunc(strings.Split(failed.Stderr, "\n"), isFull) {
		return fault.New(fault.NoSpace, "there is not enough room beside %s to unpack it", archive).
			WithHint("make room there for the whole backup (%s at least), or move the archives to a larger place",
				ansible.Bytes(sizeOf(archive)))
	}
	if err != nil && ctx.Err() == nil {
		return fault.New(fault.BackendFailed, "unpack %s: %w", archive, err)
	}
	return err
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0 // tar has not made the file yet
	}
	return info.Size()
}

// isFull reports whether a line of tar's stderr says that there was no room for what it wrote.
func isFull(line string) bool {
	return strings.HasSuffix(line, ": No space left on device") || strings.HasSuffix(line, ": Disk quota exceeded") ||
		strings.Contains(line, ": Wrote only ")
}

// parseStderr parses a line of tar's stderr. With LC_ALL=C the texts are those of the source code (GNU tar:
// src/create.c, src/misc.c), and characters of a name that are not printable ASCII are escaped.
func (s *summary) parseStderr(line string) {
	says := func(problem string) bool { return strings.Contains(line, ": "+problem) }
	switch {
	case says("socket ignored"), says("file changed as we read it"), says("File shrank by"):
		s.warn(strings.TrimPrefix(line, "tar: ."))
	case isFull(line):
		s.full = true
	case says("File removed before we read it"), says("Cannot") && strings.HasSuffix(line, "No such file or directory"):
		s.vanished = append(s.vanished, pathOf(line))
	case says("Cannot open: "), says("Cannot read: "), says("Read error at byte "), says("Cannot savedir: "):
		s.unreadable = append(s.unreadable, pathOf(line))
	case says("file is on a different filesystem"), says("Exiting with failure status due to previous errors"):
	default:
		s.otherError = true
	}
}

// maxWarnings is how many warnings a backup has at most. A message to the host has a limit, and a live directory may
// have any number of sockets.
const maxWarnings = 100

func (s *summary) warn(text string) {
	if len(s.warnings) < maxWarnings {
		s.warnings = append(s.warnings, text)
		return
	}
	s.unnamed++
}

// allWarnings returns the first warnings, and how many others there were.
func (s *summary) allWarnings() []string {
	if s.unnamed == 0 {
		return s.warnings
	}
	return append(slices.Clone(s.warnings), fmt.Sprintf("and %d more of these", s.unnamed))
}

// pathOf returns the path in an error of tar, such as "tar: ./dat/file: Cannot open: Permission denied".
func pathOf(line string) string {
	path := strings.TrimPrefix(line, "tar: .")
	for _, problem := range []string{": Cannot ", ": Read error ", ": File removed "} {
		if i := strings.LastIndex(path, problem); i >= 0 {
			return path[:i]
		}
	}
	return path
}

// explain returns the fault for the way in which tar ended. Exit status 1 means that files changed while they were
// read, and 2 that something failed (tar(1), RETURN VALUE). If only files could not be read, the rest of the archive is
// sound.
func (s *summary) explain(err error) error {
	var failed *command.Error
	switch {
	case err == nil || !errors.As(err, &failed) || failed.Code < 0:
		return err
	case s.full:
		return fault.New(fault.RepositoryFull, "no room for the archive: %w",
			err).WithHint("make room, or forget old backups")
	case s.otherError:
		return fault.New(fault.BackendFailed, "make the archive: %w", err)
	case len(s.unreadable) > 0:
		return fault.New(fault.SourceUnreadable, "%d files could not be read", len(s.unreadable)).With("paths",
			firstPaths(s.unreadable))
	case len(s.vanished) > 0:
		return fault.New(fault.SourceVanished, "%d files were gone when they were read", len(s.vanished)).With("paths",
			firstPaths(s.vanished))
	case failed.Code == 1:
		return nil // the warnings say what changed
	}
	return fault.New(fault.BackendFailed, "make the archive: %w", err)
}

// isIncomplete reports whether all files were stored except some that could not be read.
func isIncomplete(err error) bool {
	return errors.Is(err, fault.SourceUnreadable) || errors.Is(err, fault.SourceVanished)
}

// firstPaths returns the first paths of a list, as many as a message should hold.
func firstPaths(paths []string) []string { return paths[:min(len(paths), 100)] }
