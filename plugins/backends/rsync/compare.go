package rsync

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"time"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/fault"
)

// rsync by itself takes a file as unchanged if its size and mtime are those of the file in the last tree. Many programs
// change a file and keep both: tar, cp -p, rsync -a, and whatever sets the old mtime again. So a second rsync gets a
// list of the files that look unchanged but are not known to be (the doubtful files), and compares these by their
// content.
//
// If one of them has several hard links, all files are compared by their content instead. rsync makes hard links
// between the names of a file, so when the second rsync works on its list, a name that is not in the list would have
// the content of the last tree.

// comparison says how the files of a new tree are compared with those of the last one.
type comparison struct {
	last     *datedTree // the backup to whose files hard links are made; nil: there is none
	checkAll bool       // compare all files by their content
	// a file with the paths of the doubtful files and their directories, each ended by NUL; "": none
	doubtfulList string
	warnings     []string // those of record.Make
}

// planComparison finds out which files have to be compared by their content. It also writes the record of all files
// (see backup.Tree.Record). done removes what it made.
func (t *tool) planComparison(ctx context.Context, of backup.Tree, last *datedTree, report backup.Report) (
	c comparison, done func(), err error) {
	c = comparison{last: last, checkAll: last != nil}
	done = func() {}
	var recorded *record.Record
	if last != nil && !of.ReadAll {
		recorded = record.Keeper{Dir: of.Records}.Open(*last.stored)
		defer recorded.Close()
	}
	if of.Record == "" {
		return c, done, nil
	}
	dir, err := os.MkdirTemp(t.config.Scratch, "compare-")
	if err != nil {
		return c, done, fault.New(fault.CommandFailed, "make a list of the files to compare: %w", err)
	}
	done = func() { os.RemoveAll(dir) }
	list := filepath.Join(dir, "files")
	n, several, warnings, err := listDoubtful(ctx, of, recorded, list, maxDoubtful, report)
	c.warnings = warnings
	if ctx.Err() != nil {
		return c, done, context.Cause(ctx)
	}
	if recorded == nil || err != nil { // after an error there is no new record, of which the host warns
		return c, done, nil
	}
	c.checkAll = several || n > maxDoubtful
	if n > 0 && !c.checkAll {
		c.doubtfulList = list
	}
	return c, done, nil
}

// maxDoubtful is the largest number of files in the list, which is on a file system in memory. If more files are
// doubtful, as after chown -R, all files are compared by their content.
const maxDoubtful = 50_000

// listDoubtful writes a list of the doubtful files, which look like those in the record but may have changed. The list
// has `most` files at most; n counts all. several says whether one of them has several hard links. warnings and err are
// also those of record.Make.
func listDoubtful(ctx context.Context, of backup.Tree, last *record.Record, list string, most int,
	report backup.Report) (
	n int, several bool, warnings []string, err error) {
	file, err := os.Create(list)
	if err != nil {
		return 0, false, nil, err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	currentDir := ""
	warnings, err = record.Make(ctx, of, last, func(path string, names uint32) error {
		if last == nil {
			return nil
		}
		several = several || names > 1
		if n++; n > most {
			return nil
		}
		if dir := filepath.Dir(path); dir != currentDir { // so that rsync sets its mtime again
			currentDir = dir
			_, _ = out.WriteString(dir + "\x00") // Flush returns the error, too
		}
		_, err := out.WriteString(path + "\x00")
		return err
	}, report)
	if err != nil {
		return n, several, warnings, err
	}
	return n, several, warnings, out.Flush()
}

// compareContent is the argument that makes rsync compare files by their content. The rsync of another host then reads
// all of them, and the one here writes nothing and uses no processor time until that has found a difference. It may be
// idle for as long as remoteIdle. If the other host no longer answers, ssh ends it after a minute (see sshArgv).
const (
	compareContent = "--checksum"
	remoteIdle     = 24 * time.Hour
)

// linkArgs are the arguments that make rsync link files that have not changed, or look so, to those of the last tree.
func (c comparison) linkArgs() []string {
	if c.last == nil {
		return nil
	}
	args := []string{"--link-dest=../" + c.last.name}
	if c.checkAll {
		args = append(args, compareContent)
	}
	return args
}

// recheckArgs are the arguments of the second rsync, which compares the doubtful files with those in the new tree.
// These are links to files of the last tree by then; rsync never writes into them, but replaces a file that differs by
// a new one. A file that has vanished meanwhile from a volume that is read live is no error.
func (c comparison) recheckArgs() []string {
	return []string{compareContent, "--files-from=" + c.doubtfulList, "--from0", "--ignore-missing-args",
		"--no-implied-dirs"}
}
