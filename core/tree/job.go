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

// reportEvery keeps reporting cheap.
const reportEvery = 200 * time.Millisecond

// job is one Sync or Estimate.
type job struct {
	ctx      context.Context
	o        Options
	from, to string // for people
	root     dir
	skip     map[string]bool

	groups  map[id]*group // files of `from` with several names, by their inode there
	claims  map[id]*claim // files of `to` with several names, by their inode there
	several files         // of `from`, with several names that the survey met
	linked  inodes        // files of Options.Link that were linked to in this run

	shortened map[id]bool    // files of `to` that were shortened by the survey
	locked    map[id]flagged // entries of `to` that get flags at the end
	buffers   buffers

	done       Done
	flagged    list
	warnings   list
	unreadable list
	vanished   list
	progress   Progress
	reported   time.Time
}

// dir is a directory in the trees.
type dir struct {
	rel  string // from the top; "" is the top itself
	from *node
	to   *node // nil: missing; never so while writing
	link *node // of Options.Link; nil: missing

	altered bool // entries come or go in `to`, which sets its time; for the estimate
}

// entry is what has one name in the trees.
type entry struct {
	in   *dir
	name string
	rel  string
	from *node
	to   *node // nil: missing
	paid bool  // the gate was asked for its metadata
}

func (e *entry) close() {
	e.from.close()
	e.to.close()
}

// gone is called when the entry of `to` has been removed.
func (e *entry) gone() {
	e.to.close()
	e.to = nil
}

// at names an entry of the directory.
func (d *dir) at(name string) *entry {
	rel := name
	if d.rel != "" {
		rel = d.rel + "/" + name
	}
	return &entry{in: d, name: name, rel: rel}
}

func newJob(ctx context.Context, from, to string, o Options) (*job, error) {
	j := &job{
		ctx: ctx, o: o, from: from, to: to, skip: map[string]bool{},
		groups: map[id]*group{}, claims: map[id]*claim{}, several: files{}, linked: inodes{},
		shortened: map[id]bool{}, locked: map[id]flagged{},
	}
	for _, rel := range o.Skip {
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
	if j.o.Link == "" || j.root.to == nil {
		return nil
	}
	return openInto(&j.root.link, j.o.Link)
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

// alive ends the work when ctx does.
func (j *job) alive(rel string) error {
	if j.ctx.Err() == nil {
		return nil
	}
	f := fault.New(fault.Of(j.ctx.Err()).Code, "stopped at %s: %v", j.source(rel), context.Cause(j.ctx))
	f.Err = errors.Join(j.ctx.Err(), context.Cause(j.ctx))
	return f
}

// gate asks before n bytes are written for rel.
func (j *job) gate(rel string, n int64) error {
	if j.o.Gate == nil {
		return nil
	}
	if err := j.o.Gate(n); err != nil {
		return fmt.Errorf("write %s: %w", j.target(rel), err)
	}
	return nil
}

// pay asks before the first change of the entry's metadata.
func (j *job) pay(e *entry) error {
	if e.paid {
		return nil
	}
	e.paid = true
	return j.gate(e.rel, Block)
}

// open opens the entry in both trees. It returns false where that of `from` cannot be read, which is noted.
func (j *job) open(e *entry) (bool, error) {
	var err error
	if e.from, err = e.in.from.child(e.name); err != nil {
		return false, j.missed(e.rel, err)
	}
	return true, j.openTo(e)
}

func (j *job) openTo(e *entry) (err error) {
	if e.in.to == nil {
		return nil
	}
	e.to, err = e.in.to.childIfAny(e.name)
	return j.failed("open", e.rel, err)
}

// foreign reports whether the content of a directory is left alone.
func (j *job) foreign(e *entry) bool {
	return j.o.OneFileSystem && (e.from.mounted(e.in.from) || e.to != nil && e.to.mounted(e.in.to))
}

func (j *job) report(rel string) {
	if j.o.Report == nil || time.Since(j.reported) < reportEvery {
		return
	}
	j.progress.Path = rel
	j.flushReport()
}

func (j *job) flushReport() {
	if j.o.Report != nil {
		j.o.Report(j.progress)
		j.reported = time.Now()
	}
}

func (j *job) source(rel string) string { return printable(filepath.Join(j.from, rel)) }

func (j *job) target(rel string) string { return printable(filepath.Join(j.to, rel)) }

func (j *job) warn(rel, what string) { j.warnings.add(j.source(rel) + ": " + what) }

// failed is an error in `to`; nil stays nil.
func (j *job) failed(what, rel string, err error) error {
	if err == nil {
		return nil
	}
	f := fault.New(codeOf(err, fault.CommandFailed), "%s %s: %w", what, j.target(rel), err)
	if errors.Is(err, unix.EPERM) {
		f.WithHint("see lsattr -d %s: what is immutable or append-only cannot be changed; this takes root, too", j.target(rel))
	}
	return f
}

// missed notes what cannot be read in `from`. It returns an error where the work cannot go on.
func (j *job) missed(rel string, err error) error {
	gone := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE)
	switch {
	case gone && j.o.Live:
		j.vanished.add(j.source(rel))
	case gone:
		return fault.New(fault.SourceVanished, "%s was there and is gone, in a tree that should not change", j.source(rel))
	default:
		j.unreadable.add(j.source(rel))
	}
	return nil
}

func codeOf(err error, other fault.Code) fault.Code {
	switch {
	case durable.Full(err):
		return fault.NoSpace
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ETXTBSY):
		return fault.Busy
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EROFS):
		return fault.Unsupported
	}
	return other
}

// printable quotes a path that would not survive on a line of text.
func printable(path string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.ValidString(path) && !strings.ContainsFunc(path, odd) {
		return path
	}
	return strconv.Quote(path)
}

// listLimit is how many entries a list of Done holds.
const listLimit = 100

// list keeps the first entries and counts the others.
type list struct {
	first []string
	more  int
}

func (l *list) add(s string) {
	if slices.Contains(l.first, s) {
		return
	}
	if len(l.first) < listLimit {
		l.first = append(l.first, s)
		return
	}
	l.more++
}

func (l *list) all() []string {
	if l.more == 0 {
		return l.first
	}
	return append(l.first[:len(l.first):len(l.first)], fmt.Sprintf("and %d more", l.more))
}
