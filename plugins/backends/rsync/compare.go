package rsync

import (
	"bufio"
	"context"
	"os"
	"path/filepath"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/backup/record"
	"go.pcc.com/rewind/core/fault"
)

// rsync by itself takes a file as unchanged that has the size and the time of modification of the one in the last tree.
// Many programs change a file and keep both: tar, cp -p, rsync -a, and whatever puts the old date back. So the files
// that look the same, and are not known to be, are handed to it in a list, to be compared by their content.
//
// Where one of them has several names all files are compared instead: rsync links the names of a file to each other, so
// that by the time the list is looked at those that are not in it have the content of the last tree too.

// comparison is what a new tree is held against.
type comparison struct {
	last   *tree  // the backup whose files are linked to; nil: there is none
	whole  bool   // every file is compared by its content
	doubts string // a file with the paths of others that are, and of their directories, each ended by NUL; "": none
}

// compare finds out which files have to be compared by their content, and records what the files are like. What it
// makes is gone after done.
func (t *tool) compare(ctx context.Context, of backup.Tree, last *tree, report backup.Report) (
	c comparison, done func(), err error) {
	c = comparison{last: last, whole: last != nil}
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
	n, several, err := listDoubts(ctx, of, recorded, list, mostDoubts, report)
	if ctx.Err() != nil {
		return c, done, context.Cause(ctx)
	}
	if recorded == nil || err != nil { // there is no record then, of which the host warns
		return c, done, nil
	}
	c.whole = several || n > mostDoubts
	if n > 0 && !c.whole {
		c.doubts = list
	}
	return c, done, nil
}

// mostDoubts is how many files a list names at most, for it lies in memory: where more are in doubt, as after a chown
// -R, all are compared.
const mostDoubts = 50_000

// listDoubts writes a list of the files that look like those recorded and may be others, counts them, and says whether
// one of them has several names. The list has the first `most` of them.
func listDoubts(ctx context.Context, of backup.Tree, last *record.Record, list string, most int, report backup.Report) (
	n int, several bool, err error) {
	file, err := os.Create(list)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	in := ""
	err = record.Make(ctx, of, last, func(path string, names uint32) error {
		if last == nil {
			return nil
		}
		several = several || names > 1
		if n++; n > most {
			return nil
		}
		if dir := filepath.Dir(path); dir != in { // the time of which is to be set once more
			in = dir
			_, _ = out.WriteString(dir + "\x00") // Flush says it again
		}
		_, err := out.WriteString(path + "\x00")
		return err
	}, report)
	if err != nil {
		return n, several, err
	}
	return n, several, out.Flush()
}

// link are the arguments by which rsync links to the last tree what has not changed, or looks so.
func (c comparison) link() []string {
	if c.last == nil {
		return nil
	}
	args := []string{"--link-dest=../" + c.last.name}
	if c.whole {
		args = append(args, "--checksum")
	}
	return args
}

// again are the arguments that compare the files in doubt with what is in the new tree by then: links to the last one.
// What differs is made anew beside it and renamed. One that a live volume has lost meanwhile is no error.
func (c comparison) again() []string {
	return []string{"--checksum", "--files-from=" + c.doubts, "--from0", "--ignore-missing-args", "--no-implied-dirs"}
}
