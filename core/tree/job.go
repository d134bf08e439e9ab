package tree

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/durable"
	"go.pcc.com/rewind/core/fault"
)

// reportEvery is the least time between two calls of Options.Report.
const reportEvery = 200 * time.Millisecond

// job is the state of one Sync or Estimate.
type job struct {
	ctx      context.Context
	opts     Options
	from, to string // paths of the roots, for messages
	root     dir
	skip     map[string]bool

	linkGroups   map[id]*linkGroup // files of `from` that have several hard links, by their inode in `from`
	claims       map[id]*claim     // files of `to` that have several hard links, by their inode in `to`
	severalNames fileSet           // files of `from` of which the survey met more than one hard link
	linkedOlder  inodeSet          // files of the older tree to which this job has made a hard link

	truncatedEarly map[id]bool        // files of `to` that the survey has shortened
	pendingFlags   map[id]pendingFlag // the inode flags that entries of `to` get at the end
	buffers        buffers
	entries        int64 // of `from`, with directories, that the second pass has met

	done       Done
	flagged    boundedList
	warnings   boundedList
	unreadable boundedList
	vanished   boundedList
	progress   Progress
	reported   time.Time
}

// dir is one directory, in all trees.
type dir struct {
	rel  string // path relative to the root; "" is the root itself
	from *node
	to   *node // nil: missing, which happens only in an Estimate
	link *node // in the older tree of Options.Link; nil: missing

	entriesChange bool // entries of `to` will be made or removed, which changes the mtime of `to`; used by Estimate
}

// entry is one name in a directory, in both trees.
type entry struct {
	in    *dir
	name  string
	rel   string
	from  *node
	to    *node // nil: missing
	gated bool  // Options.Gate was called for the entry's metadata
}

func (e *entry) close() {
	e.from.close()
	e.to.close()
}

// closeTo records that the entry of `to` has been removed.
func (e *entry) closeTo() {
	e.to.close()
	e.to = nil
}

// newEntry returns the directory's entry of that name, with neither tree's node opened yet.
func (d *dir) newEntry(name string) *entry {
	rel := name
	if d.rel != "" {
		rel = d.rel + "/" + name
	}
	return &entry{in: d, name: name, rel: rel}
}

func newJob(ctx context.Context, from, to string, opts Options) (*job, error) {
	j := &job{
		ctx: ctx, opts: opts, from: from, to: to, skip: map[string]bool{},
		linkGroups: map[id]*linkGroup{}, claims: map[id]*claim{}, severalNames: fileSet{}, linkedOlder: inodeSet{},
		truncatedEarly: map[id]bool{}, pendingFlags: map[id]pendingFlag{},
	}
	for _, rel := range opts.Skip {
		j.skip[rel] = true
	}
	err := errors.Join(openInto(&j.root.from, from), openInto(&j.root.to, to), j.openLink())
	if err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

func openInto(n **node, path string) (err error) {
	if *n, err = openRoot(path); err != nil {
		return fault.New(codeOf(err, fault.NotFound), "open directory %s: %w", printable(path), err)
	}
	return nil
}

func (j *job) openLink() error {
	if j.opts.Link == "" || j.root.to == nil {
		return nil
	}
	return openInto(&j.root.link, j.opts.Link)
}

func (j *job) close() {
	j.root.from.close()
	j.root.to.close()
	j.root.link.close()
}

func (j *job) result() Done {
	j.done.Flagged = j.flagged.all()
	j.done.Warnings, j.done.Unreadable, j.done.Vanished = j.warnings.all(), j.unreadable.all(), j.vanished.all()
	return j.done
}

// checkContext returns an error once ctx has ended. rel is the entry at work, for the message.
func (j *job) checkContext(rel string) error {
	if j.ctx.Err() == nil {
		return nil
	}
	f := fault.New(fault.Of(j.ctx.Err()).Code, "stopped at %s: %v", j.sourcePath(rel), context.Cause(j.ctx))
	f.Err = errors.Join(j.ctx.Err(), context.Cause(j.ctx))
	return f
}

// gate calls Options.Gate before n bytes are written to the entry rel.
func (j *job) gate(rel string, n int64) error {
	if j.opts.Gate == nil {
		return nil
	}
	if err := j.opts.Gate(n); err != nil {
		return fmt.Errorf("write %s: %w", j.targetPath(rel), err)
	}
	return nil
}

// gateMetadata calls Options.Gate before the first change of the entry's metadata. Further calls do nothing.
func (j *job) gateMetadata(e *entry) error {
	if e.gated {
		return nil
	}
	e.gated = true
	return j.gate(e.rel, Block)
}

// openEntry opens the entry in both trees. If it cannot be opened in `from`, openEntry notes that and returns false.
func (j *job) openEntry(e *entry) (bool, error) {
	var err error
	if e.from, err = e.in.from.child(e.name); err != nil {
		return false, j.noteSourceError(e.rel, err)
	}
	return true, j.openTo(e)
}

func (j *job) openTo(e *entry) (err error) {
	if e.in.to == nil {
		return nil
	}
	e.to, err = e.in.to.childIfAny(e.name)
	return j.targetError("open", e.rel, err)
}

// isOtherMount reports whether another file system is mounted on the directory in one of the trees, so that its content
// is left alone.
func (j *job) isOtherMount(e *entry) bool {
	return j.opts.OneFileSystem && (e.from.isMountPoint(e.in.from) || e.to != nil && e.to.isMountPoint(e.in.to))
}

func (j *job) report(rel string) {
	if j.opts.Report == nil || time.Since(j.reported) < reportEvery {
		return
	}
	j.progress.Path = rel
	j.flushReport()
}

func (j *job) flushReport() {
	if j.opts.Report != nil {
		j.opts.Report(j.progress)
		j.reported = time.Now()
	}
}

func (j *job) sourcePath(rel string) string { return printable(filepath.Join(j.from, rel)) }

func (j *job) targetPath(rel string) string { return printable(filepath.Join(j.to, rel)) }

func (j *job) warn(rel, what string) { j.warnings.add(j.sourcePath(rel) + ": " + what) }

// targetError returns a fault for an error at an entry of `to`, and nil for nil. action is a verb, for the message.
func (j *job) targetError(action, rel string, err error) error {
	if err == nil {
		return nil
	}
	f := fault.New(codeOf(err, fault.CommandFailed), "%s %s: %w", action, j.targetPath(rel), err)
	if errors.Is(err, unix.EPERM) {
		f.WithHint("see lsattr -d %s: what is immutable or append-only cannot be changed; this takes root, too",
			j.targetPath(rel))
	}
	return f
}

// noteSourceError notes an entry of `from` that cannot be read or has vanished. It returns an error if the work cannot
// go on.
func (j *job) noteSourceError(rel string, err error) error {
	isGone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE)
	switch {
	case isGone && j.opts.Live:
		j.vanished.add(j.sourcePath(rel))
	case isGone:
		return fault.New(fault.SourceVanished, "%s was there and is gone, in a tree that should not change",
			j.sourcePath(rel))
	default:
		j.unreadable.add(j.sourcePath(rel))
	}
	return nil
}

func codeOf(err error, other fault.Code) fault.Code {
	switch {
	case durable.IsFull(err):
		return fault.NoSpace
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ETXTBSY):
		return fault.Busy
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EROFS):
		return fault.Unsupported
	}
	return other
}

// printable quotes a path that holds control characters or is not valid UTF-8.
func printable(path string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(path) && !strings.ContainsFunc(path, odd) {
		return path
	}
	return strconv.Quote(path)
}

// listLimit is how many entries a list of Done holds.
const listLimit = 100

// boundedList keeps the first listLimit entries and counts the others. It adds no entry twice.
type boundedList struct {
	first []string
	more  int
}

func (l *boundedList) add(s string) {
	if slices.Contains(l.first, s) {
		return
	}
	if len(l.first) < listLimit {
		l.first = append(l.first, s)
		return
	}
	l.more++
}

func (l *boundedList) all() []string {
	if l.more == 0 {
		return l.first
	}
	return append(l.first[:len(l.first):len(l.first)], fmt.Sprintf("and %d more", l.more))
}
