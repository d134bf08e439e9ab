// Package lvmtest is an LVM without disks: a command.Runner that keeps volume
// groups in memory and answers the commands of package lvm as LVM and the
// kernel do, so that what is built on them can be tested at every step.
//
// It refuses what it does not know: a command or option that package lvm does
// not emit panics with the argv. Scenarios holds what the fake claims, as
// functions that run against real LVM too.
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
	sector = 512
	major  = 253
)

// Group is a volume group to start with.
type Group struct {
	Name       string
	Size       int64 // bytes; 0: 4 GiB
	ExtentSize int64 // bytes; 0: 4 MiB
	Partial    bool  // one of its PVs is missing
	Volumes    []Volume
}

// Volume is a volume to start with. Thin ones name a Pool that comes before
// them, snapshots an Origin that does.
type Volume struct {
	Name     string
	Kind     lvm.Kind // "": linear, or thin if it has a Pool, or a thick snapshot if it has an Origin
	Size     int64    // bytes; 0: 64 MiB; the COW space of a thick snapshot
	Pool     string
	Origin   string
	Tags     []string
	Inactive bool
	Open     int // how often something has it open: 1 for a mount
}

// Died is what Run panics with where a test wants the process to die.
type Died struct {
	At   int // the command's number, from 1
	Argv []string
}

// Fake is the LVM. Volumes are named vg/lv. It is safe for concurrent use.
type Fake struct {
	mu     sync.Mutex
	groups []*group
	ran    [][]string
	before map[int]func(argv []string) error
	after  map[int]func(argv []string)
	refuse []refusal
	made   int             // volumes ever, for UUIDs, minors and times
	poller bool            // LVM's poller lives and finishes merges
	thawed bool            // the kernel can snapshot a frozen file system
	gone   map[string]bool // what the command under way removed itself
	dead   bool            // the process that asked died in a call to the kernel
	stuck  chan struct{}   // a suspend waits until it is closed
	locked []string        // the groups whose locks the process holds
}

type refusal struct {
	words []string
	err   error
}

type group struct {
	Group
	uuid    string
	volumes []*volume
}

type volume struct {
	Volume
	vg                          *group
	uuid                        string
	originUUID                  string
	minor                       int
	thinID                      int  // by which its pool knows a thin volume
	deleted                     bool // its pool does not know it any more, LVM does
	skipped                     bool // when its group is activated
	created                     time.Time
	used                        int64 // sectors of a COW in use, its metadata included
	debt                        int64 // sectors that the merge of another snapshot will add
	chunk                       int64
	active, suspended, frozen   bool
	invalid, merging, running   bool            // merging: in the metadata; running: in the kernel
	mergeFailed, halfMade, sick bool            // sick: a thin pool whose transaction id is wrong
	layered                     bool            // an origin's inner device was left behind
	live, prepared              []lvm.Target    // tables that were loaded by a Mapper; nil: LVM's own, none
	resumes                     int             // how often its device was resumed
	madeAt                      map[*volume]int // of a snapshot made live while these were suspended: their resumes
}

// headerSectors is what an empty COW uses: a header and one metadata chunk.
const headerSectors = 2 * lvm.Chunk / sector

// New returns a Fake with these groups.
func New(groups ...Group) *Fake {
	f := &Fake{before: map[int]func([]string) error{}, after: map[int]func([]string){}, poller: true, thawed: true}
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

func (f *Fake) uuid() string {
	f.made++
	return fmt.Sprintf("rewind-fake-%04d-0000-0000-0000-000000", f.made)
}

func (f *Fake) add(vg *group, v Volume) *volume {
	if v.Size == 0 {
		v.Size = 64 * mib
	}
	added := &volume{Volume: v, vg: vg, uuid: f.uuid(), active: !v.Inactive, chunk: lvm.Chunk}
	added.minor = f.made
	added.created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(time.Duration(f.made) * time.Second)
	origin := vg.volume(v.Origin)
	if origin != nil {
		added.originUUID = origin.uuid
	}
	if v.Kind == "" {
		added.Kind = defaultKind(v)
	}
	if added.Kind == lvm.Thin {
		added.thinID = f.made
	}
	if added.Kind == lvm.Thin && origin != nil {
		added.Pool, added.Size = origin.Pool, origin.Size
	}
	if added.Kind == lvm.Snapshot {
		added.used = headerSectors
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

// Run answers a command of package lvm.
func (f *Fake) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return command.Output{}, &command.Error{Argv: c.Argv, Code: -1, Err: err}
	}
	argv := slices.Clone(c.Argv)
	f.ran = append(f.ran, argv)
	n := len(f.ran)
	if f.dead {
		panic(Died{n, argv})
	}
	if act := f.before[n]; act != nil {
		if err := act(argv); err != nil {
			return failed(argv, err)
		}
	}
	if err := f.refused(argv); err != nil {
		return failed(argv, err)
	}
	stdout, err := f.dispatch(argv)
	if act := f.after[n]; act != nil {
		act(argv)
	}
	if err != nil {
		out, wrapped := failed(argv, err)
		out.Stdout = stdout
		return out, wrapped
	}
	return command.Output{Stdout: stdout, Elapsed: time.Millisecond}, nil
}

// failed is a program that ended with LVM's exit code for a failure. LVM
// indents its messages by two blanks.
func failed(argv []string, err error) (command.Output, error) {
	const code = 5 // ECMD_FAILED (lvm2, lib/commands/errors.h)
	stderr := "  " + strings.ReplaceAll(err.Error(), "\n", "\n  ") + "\n"
	return command.Output{Stderr: stderr}, &command.Error{Argv: argv, Code: code, Stderr: stderr, Err: err}
}

func (f *Fake) refused(argv []string) error {
	for i, r := range f.refuse {
		if containsAll(argv, r.words) {
			f.refuse = slices.Delete(f.refuse, i, i+1)
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

// FailAt makes the n-th command, counted from 1 over the fake's life, fail with
// exit code 5 and err's text, changing nothing.
func (f *Fake) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[n] = func([]string) error { return err }
}

// FailOn makes the next command that has all these words in its argv fail so.
func (f *Fake) FailOn(err error, words ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = append(f.refuse, refusal{words, err})
}

// DieAt panics with Died before the n-th command does anything.
func (f *Fake) DieAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before[n] = func(argv []string) error { panic(Died{n, argv}) }
}

// DieAfter panics with Died when the n-th command has done its work.
func (f *Fake) DieAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after[n] = func(argv []string) { panic(Died{n, argv}) }
}

// Commands returns every argv that was run.
func (f *Fake) Commands() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ran)
}

// need finds a volume by vg/lv; a test that names none is wrong.
func (f *Fake) need(name string) *volume {
	vg, lv, _ := strings.Cut(name, "/")
	for _, g := range f.groups {
		if v := g.volume(lv); g.Name == vg && v != nil {
			return v
		}
	}
	panic("lvmtest: no volume " + name)
}

func (g *group) volume(name string) *volume {
	for _, v := range g.volumes {
		if v.Name == name && name != "" {
			return v
		}
	}
	return nil
}

func (g *group) remove(gone *volume) {
	g.volumes = slices.DeleteFunc(g.volumes, func(v *volume) bool { return v == gone })
}

// free returns the group's free bytes. Thin volumes take none: their pool does.
func (g *group) free() int64 {
	free := g.Size
	for _, v := range g.volumes {
		if v.Kind != lvm.Thin {
			free -= v.Size
		}
	}
	return free
}

// snapshots returns the thick or thin snapshots of a volume.
func (g *group) snapshots(of *volume) []*volume {
	var found []*volume
	for _, v := range g.volumes {
		if v.originUUID == of.uuid {
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

// words are what LVM prints.
type words string

func (w words) Error() string { return string(w) }

func says(format string, a ...any) error { return words(fmt.Sprintf(format, a...)) }
