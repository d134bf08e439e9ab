// Package lvmtest is an LVM without disks, for tests. It has a command.Runner that keeps volume groups in memory and
// answers the commands of package lvm as LVM and the kernel do. So the code that is built on package lvm can be tested
// at every step.
//
// A command or an option that package lvm does not use makes the fake panic with the argv. Scenarios returns the
// behaviour that the fake claims to share with real LVM, as functions that also run against real LVM.
package lvmtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/lvm"
)

const (
	mib    = 1 << 20
	sector = 512  // bytes
	major  = 4000 // the major number of all devices: no kernel has it (linux, block/genhd.c, BLKDEV_MAJOR_MAX)
)

// Group is a volume group that a Fake has from the beginning.
type Group struct {
	Name       string
	Size       int64 // bytes; 0: 4 GiB
	ExtentSize int64 // bytes; 0: 4 MiB
	Partial    bool  // one of its PVs is missing
	Volumes    []Volume
}

// Volume is a volume that a Fake has from the beginning, or that Make adds. The Pool of a thin volume and the Origin of
// a snapshot must come before it.
type Volume struct {
	Name     string
	Kind     lvm.Kind // "": linear, or thin if it has a Pool, or a thick snapshot if it has an Origin
	Size     int64    // bytes; 0: 64 MiB; the COW space of a thick snapshot
	Pool     string
	Origin   string
	Tags     []string
	Inactive bool
	Manual   bool // only a command activates it, no boot (lvchange --setautoactivation n)
	Open     int  // the open count; a mount counts as one
}

// Died is the value that Run panics with where a test wants the process to die.
type Died struct {
	At   int // the number of the command, from 1
	Argv []string
}

// Fake is an LVM and a device-mapper in memory. Its methods take volumes by their names, vg/lv. It is safe for
// concurrent use.
type Fake struct {
	mu             sync.Mutex
	groups         []*group
	commands       [][]string                        // every argv that was run, with the calls of the Mapper
	before         map[int]func(argv []string) error // called before the command with that number, from 1
	after          map[int]func(argv []string)       // called after the command with that number
	failures       []injectedFailure
	outliving      [][]string      // the words of commands that will outlive their limits: see Outlive
	late           [][]string      // commands that have outlived their limits and are still to work
	contents       int             // how many contents volumes have had
	created        int             // how many groups and volumes were ever made; gives UUIDs, minors and times
	pollerAlive    bool            // LVM's poller is alive, and finishes merges
	suspendsFrozen bool            // the kernel can suspend a device with a frozen file system
	removed        map[string]bool // the volumes that the current command has removed
	dir            string          // where LVM says that it keeps copies of its metadata
	dead           bool            // the process has died in a call of the Mapper
	suspendGate    chan struct{}   // suspends wait until it is closed; nil: they do not wait
	lockedGroups   []string        // the groups whose locks the process holds
}

// injectedFailure makes the next command fail that has all of the words in its argv.
type injectedFailure struct {
	words []string
	err   error
}

type group struct {
	Group
	uuid    string
	hidden  bool // LVM sees none of its disks
	volumes []*volume
}

type volume struct {
	Volume
	vg                              *group
	uuid                            string
	originUUID                      string
	minor                           int
	thinID                          int  // the id by which its pool knows a thin volume
	deletedInPool                   bool // LVM's metadata has the thin volume, but its pool has deleted it
	skipActivation                  bool // it has LVM's activation-skip flag
	readOnly                        bool // in LVM's metadata
	created                         time.Time
	usedSectors                     int64 // how much of a snapshot's COW space is in use, metadata included
	pendingFill                     int64 // how many sectors the merge of another snapshot will add to usedSectors
	chunkSize                       int64 // bytes
	active, suspended, frozen       bool
	invalid, merging, kernelMerging bool            // merging: in LVM's metadata; kernelMerging: in the kernel
	mergeFailed, halfMade, damaged  bool            // damaged: a thin pool whose transaction id is wrong
	hasInner                        bool            // an origin's inner device was left behind
	liveTable                       []lvm.Target    // a live table that a Mapper loaded; nil: LVM's own table is live
	preparedTable                   []lvm.Target    // a prepared table; nil: there is none
	resumeCount                     int             // how often its device was resumed
	suspendedAtStart                map[*volume]int // see makeLive
	content                         int             // what its file system holds: see Content
}

// headerSectors is how much of an empty COW space is in use: a header and one metadata chunk.
const headerSectors = 2 * lvm.Chunk / sector

// New returns a Fake with these groups. Its kernel can suspend frozen file systems, as kernels since 6.12 can.
func New(groups ...Group) *Fake {
	f := &Fake{before: map[int]func([]string) error{}, after: map[int]func([]string){}, pollerAlive: true,
		suspendsFrozen: true, dir: "/etc/lvm"}
	for _, g := range groups {
		f.addGroup(g)
	}
	return f
}

func (f *Fake) addGroup(g Group) {
	if g.ExtentSize == 0 {
		g.ExtentSize = 4 * mib
	}
	if g.Size == 0 {
		g.Size = 4096 * mib
	}
	vg := &group{Group: g, uuid: f.uuid()}
	f.groups = append(f.groups, vg)
	for _, v := range g.Volumes {
		f.add(vg, v)
	}
}

// uuid returns a new UUID.
func (f *Fake) uuid() string {
	f.created++
	return fmt.Sprintf("rewind-fake-%04d-0000-0000-0000-000000", f.created)
}

func (f *Fake) add(vg *group, v Volume) *volume {
	if v.Size == 0 {
		v.Size = 64 * mib
	}
	added := &volume{Volume: v, vg: vg, uuid: f.uuid(), active: !v.Inactive, chunkSize: lvm.Chunk}
	added.minor = f.created
	added.created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(f.created) * time.Second)
	origin := vg.volume(v.Origin)
	if origin != nil {
		added.originUUID = origin.uuid
	}
	if v.Kind == "" {
		added.Kind = defaultKind(v)
	}
	if f.contents++; origin == nil {
		added.content = f.contents
	} else {
		added.content = origin.content
	}
	if added.Kind == lvm.Thin {
		added.thinID = f.created
	}
	if added.Kind == lvm.Thin && origin != nil {
		added.Pool, added.Size = origin.Pool, origin.Size
	}
	if added.Kind == lvm.Snapshot {
		added.usedSectors = headerSectors
	}
	vg.volumes = append(vg.volumes, added)
	return added
}

func defaultKind(v Volume) lvm.Kind {
	switch {
	case v.Pool != "":
		return lvm.Thin
	case v.Origin != "":
		return lvm.Snapshot
	}
	return lvm.Linear
}

// Run answers a command of package lvm. It panics at a command that it does not know, and with Died where DieAt or
// DieAfter say so.
func (f *Fake) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return command.Output{}, &command.Error{Argv: c.Argv, Code: -1, Err: err}
	}
	argv := slices.Clone(c.Argv)
	f.commands = append(f.commands, argv)
	n := len(f.commands)
	if f.dead {
		panic(Died{n, argv})
	}
	if hook := f.before[n]; hook != nil {
		if err := hook(argv); err != nil {
			return failedCommand(argv, err)
		}
	}
	if err := f.takeFailure(argv); err != nil {
		return failedCommand(argv, err)
	}
	if f.outlivesLimit(argv) {
		return command.Output{}, &command.Error{Argv: argv, Code: -1, Err: context.DeadlineExceeded, Running: latePID}
	}
	stdout, err := f.dispatch(argv)
	if hook := f.after[n]; hook != nil {
		hook(argv)
	}
	f.runLate(argv)
	if err != nil {
		out, wrapped := failedCommand(argv, err)
		out.Stdout = stdout
		return out, wrapped
	}
	return command.Output{Stdout: stdout, Elapsed: time.Millisecond}, nil
}

// failedCommand returns the output and the error of a command that ended with LVM's exit code for a failure. LVM
// indents its messages by two spaces.
func failedCommand(argv []string, err error) (command.Output, error) {
	const code = 5 // ECMD_FAILED (lvm2, lib/commands/errors.h)
	stderr := "  " + strings.ReplaceAll(err.Error(), "\n", "\n  ") + "\n"
	return command.Output{Stderr: stderr}, &command.Error{Argv: argv, Code: code, Stderr: stderr, Err: err}
}

// takeFailure returns the error of the first injected failure that matches the argv, and removes that failure.
func (f *Fake) takeFailure(argv []string) error {
	for i, r := range f.failures {
		if containsAll(argv, r.words) {
			f.failures = slices.Delete(f.failures, i, i+1)
			return r.err
		}
	}
	return nil
}

func containsAll(argv, words []string) bool {
	for _, word := range words {
		if !slices.Contains(argv, word) {
			return false
		}
	}
	return true
}

// FailAt makes the n-th command fail with exit code 5 and the text of err. The command then changes nothing. Commands
// are counted from 1, from the beginning of the fake.
func (f *Fake) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[n] = func([]string) error { return err }
}

// FailOn makes the next command that has all these words in its argv fail as with FailAt.
func (f *Fake) FailOn(err error, words ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures = append(f.failures, injectedFailure{words, err})
}

// DieAt makes Run panic with Died before the n-th command does anything.
func (f *Fake) DieAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[n] = func(argv []string) error { panic(Died{n, argv}) }
}

// DieAfter makes Run panic with Died when the n-th command has done its work.
func (f *Fake) DieAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after[n] = func(argv []string) { panic(Died{n, argv}) }
}

// latePID is the process id of commands that outlive their limits. No process has it.
const latePID = 1 << 30

// Outlive makes the next command that has all these words in its argv outlive its limit: it is left running and has
// changed nothing yet. It does its work as soon as another command has read LVM's report, which is the worst moment for
// a caller that decides by the report.
func (f *Fake) Outlive(words ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outliving = append(f.outliving, words)
}

// outlivesLimit reports whether the command outlives its limit. If so, it keeps the command for runLate.
func (f *Fake) outlivesLimit(argv []string) bool {
	for i, words := range f.outliving {
		if containsAll(argv, words) {
			f.outliving = slices.Delete(f.outliving, i, i+1)
			f.late = append(f.late, argv)
			return true
		}
	}
	return false
}

// runLate makes the commands that have outlived their limits do their work, if argv has just read LVM's report.
func (f *Fake) runLate(argv []string) {
	if !slices.Contains(argv, "fullreport") {
		return
	}
	late := f.late
	f.late = nil
	for _, argv := range late {
		_, _ = f.dispatch(argv) // nobody sees its error
	}
}

// Commands returns the argv of every command that was run, with the calls of the Mapper that change something.
func (f *Fake) Commands() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.commands)
}

// mustFind returns the volume with that name, vg/lv. It panics if there is none, because then the test is wrong.
func (f *Fake) mustFind(name string) *volume {
	vg, lv, _ := strings.Cut(name, "/")
	for _, g := range f.groups {
		if v := g.volume(lv); g.Name == vg && v != nil {
			return v
		}
	}
	panic("lvmtest: no volume " + name)
}

// volume returns the volume with that name; nil if there is none.
func (g *group) volume(name string) *volume {
	for _, v := range g.volumes {
		if v.Name == name && name != "" {
			return v
		}
	}
	return nil
}

func (g *group) remove(removed *volume) {
	g.volumes = slices.DeleteFunc(g.volumes, func(v *volume) bool { return v == removed })
}

// free returns the group's free bytes. Thin volumes take no space of the group, only their pool does.
func (g *group) free() int64 {
	free := g.Size
	for _, v := range g.volumes {
		if v.Kind != lvm.Thin {
			free -= v.Size
		}
	}
	return free
}

// snapshots returns the thick and thin snapshots of an origin.
func (g *group) snapshots(origin *volume) []*volume {
	var found []*volume
	for _, v := range g.volumes {
		if v.originUUID == origin.uuid {
			found = append(found, v)
		}
	}
	return found
}

func (g *group) byUUID(uuid string) *volume {
	for _, v := range g.volumes {
		if v.uuid == uuid {
			return v
		}
	}
	return nil
}

func (v *volume) fullName() string { return v.vg.Name + "/" + v.Name }

// lvmText is an error with the text that LVM prints.
type lvmText string

func (w lvmText) Error() string { return string(w) }

// lvmError returns an error with the text that LVM prints.
func lvmError(format string, a ...any) error { return lvmText(fmt.Sprintf(format, a...)) }
