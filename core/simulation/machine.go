package simulation

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/lvm/lvmtest"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/service/servicetest"
	"go.pcc.com/rewind/core/snapset"
)

// machine is a server on which a story is played.
type machine struct {
	story   *Story
	drawer  *drawer  // nil: the story's events are all that there are
	met     []Event  // that the story has met so far
	answers []string // to its requests so far
	fake    *lvmtest.Fake
	kernel  *kernel
	process atomic.Pointer[process] // that is at work
	systemd *servicetest.Fake
	dir     string
	boot    int

	mustStay     map[string]string         // by UUID, the volumes that Rewind may not remove, with why
	fresh        map[string]string         // what will be in mustStay when the process has read LVM's state again
	promised     map[string]string         // by UUID, the snapshots of reported sets, until a request uses them up
	closed       map[string]bool           // by UUID, the volumes that had no device at first
	byInstant    map[string]bool           // the devices that Rewind itself has suspended last
	heldFrom     map[string]time.Time      // when the process that is at work suspended a device
	acted        bool                      // an administrator has acted since the last look
	goal         goal                      // of a rollback
	running      map[string]map[string]int // by service that runs: what it found in its volumes, by UUID
	merged       time.Time                 // until when merges have gone on
	systemdIsOff bool                      // the power has failed in the boot that is under way

	mu         sync.Mutex
	violations []Violation
}

// newMachine returns the machine of a story, with its files in dir.
func newMachine(s *Story, d *drawer, dir string) *machine {
	m := &machine{
		story: s, drawer: d, dir: dir, fake: lvmtest.New(s.Server.Groups...),
		mustStay: map[string]string{}, fresh: map[string]string{}, promised: map[string]string{},
		running: map[string]map[string]int{},
		closed:  map[string]bool{}, byInstant: map[string]bool{}, heldFrom: map[string]time.Time{},
	}
	m.fake.KeepCopiesIn(m.lvmDir())
	m.merged = time.Now()
	m.kernel = &kernel{m: m}
	m.kernel.forget()
	if s.Server.OldKernel {
		m.fake.OldKernel()
	}
	for _, v := range m.each() {
		m.closed[v.UUID] = !v.Active
	}
	for _, d := range append(m.keptDirs(), m.lockDir(), m.sysfs(), m.procDir()) {
		if err := os.MkdirAll(d, 0o700); err != nil {
			panic(err)
		}
	}
	m.mountAll()
	m.systemd = m.newSystemd()
	machines.Store(dir, m)
	return m
}

func (m *machine) lvmDir() string     { return filepath.Join(m.dir, "lvm") }
func (m *machine) stateDir() string   { return filepath.Join(m.dir, "state") }
func (m *machine) journalDir() string { return filepath.Join(m.dir, "state/journal") }
func (m *machine) lockDir() string    { return filepath.Join(m.dir, "lock") }
func (m *machine) sysfs() string      { return filepath.Join(m.dir, "sys") }
func (m *machine) unitDir() string    { return filepath.Join(m.dir, "units") }
func (m *machine) procDir() string    { return filepath.Join(m.dir, "proc") }

// mountAll mounts what the server mounts when it boots.
func (m *machine) mountAll() {
	for _, name := range m.story.Server.Mounted {
		_ = m.kernel.mount(name, mountPoint(name), false) // an administrator may have removed or renamed the volume
	}
}

func (m *machine) powerCut() {
	m.fake.PowerCut()
	m.kernel.forget()
	m.running = map[string]map[string]int{}
	m.systemd.PowerOff()
	m.boot++
	if m.story.Rollback == nil { // otherwise the story has systemd boot it
		m.mountAll()
	}
}

// letMergesGoOn has merges go on for the time that has passed.
func (m *machine) letMergesGoOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for seconds := 0; time.Since(m.merged) >= time.Second; seconds++ {
		m.merged = m.merged.Add(time.Second)
		if seconds < 60 { // by then they are done
			m.fake.Tick()
		}
	}
}

// report returns what LVM says. It asks the fake itself, so nothing goes wrong with it.
func (m *machine) report() *lvm.Report { return m.fake.Report() }

// volume returns a volume by its name; false if there is none.
func (m *machine) volume(vg, lv string) (lvm.Volume, bool) {
	for _, v := range m.each() {
		if v.VG == vg && v.Name == lv {
			return v, true
		}
	}
	return lvm.Volume{}, false
}

// volumeNamed returns the volume with that name, vg/lv; false if there is none.
func (m *machine) volumeNamed(name string) (lvm.Volume, bool) {
	vg, lv, _ := strings.Cut(name, "/")
	return m.volume(vg, lv)
}

// each returns all volumes.
func (m *machine) each() []lvm.Volume { return m.fake.Volumes() }

// volumes describes all volumes for drawAction.
func (m *machine) volumes() []volume {
	var all []volume
	for _, v := range m.each() {
		all = append(all, volume{name: v.FullName(), kind: v.Kind, snapshot: v.IsSnapshot(), open: v.Open,
			sizeMiB: v.Size / mib, member: isMember(&v)})
	}
	return all
}

func (m *machine) anySuspended() bool {
	return slices.ContainsFunc(m.each(), func(v lvm.Volume) bool { return v.Suspended })
}

// state is everything that LVM and the kernel have.
func (m *machine) state() string { return strings.Join(m.fake.Dump(), "\n") }

// turn is how long a suspend of the device waits for its turn.
func (m *machine) turn(device string) time.Duration {
	for i, v := range m.each() {
		if v.DMName == device {
			return time.Duration((uint64(i)*7+m.story.Seed)%64+1) * 10 * time.Microsecond * 64 / 63
		}
	}
	return 0
}

// leaveHalfway suspends the origin on which a killed LVM command was at work, and perhaps gives it the table that the
// command had prepared.
func (m *machine) leaveHalfway(argv []string, prepared bool) {
	name := argv[len(argv)-1]
	v, found := m.volumeNamed(name)
	if found && v.Origin != "" && argv[1] != "lvcreate" {
		v, found = m.volume(v.VG, v.Origin)
	}
	if v.Kind == lvm.Thin && argv[1] == "lvconvert" {
		return // it has no origin's table to replace
	}
	if found && v.Active {
		m.byInstant[v.DMName] = false
		m.fake.Suspend(v.FullName(), prepared && v.Kind != lvm.Thin)
	}
}

// act has an administrator act, and keeps in mind which volumes are the administrator's by that.
func (m *machine) act(a Action) {
	before := map[string]bool{}
	for _, v := range m.each() {
		before[v.UUID] = true
	}
	m.perform(a)
	m.acted = true
	for _, v := range m.each() {
		switch {
		case !before[v.UUID] && m.story.Rollback == nil: // LVM compares UUIDs when it removes a volume
			m.mustStay[v.UUID] = "an administrator made " + v.FullName()
		case !before[v.UUID]:
			m.fresh[v.UUID] = "an administrator made " + v.FullName()
		case v.FullName() == a.Volume && a.Verb == untags && m.story.Rollback == nil: // a rollback has chosen it by then
			m.fresh[v.UUID] = "an administrator took " + v.FullName() + " out of its set"
			delete(m.promised, v.UUID)
		}
		delete(before, v.UUID)
	}
	for uuid := range before {
		delete(m.mustStay, uuid)
		delete(m.fresh, uuid)
		delete(m.promised, uuid)
	}
	if m.story.Request.Replace && (a.Verb == fills || a.Verb == writes) {
		clear(m.promised) // it may have overflowed, so it may be replaced
	}
}

// notice says that the process has read LVM's state: from now on it can know what an administrator has done. Between
// that and a command that goes by what was read, LVM keeps no lock.
func (m *machine) notice() {
	for _, v := range m.each() {
		if why, isFresh := m.fresh[v.UUID]; isFresh {
			m.mustStay[v.UUID] = why
		}
	}
	clear(m.fresh)
}

// files are the contents of files by their paths.
type files map[string]string

func (m *machine) readFiles() files {
	all := files{}
	for _, dir := range m.keptDirs() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if isReserve(e.Name()) {
				all[path] = ""
			} else if text, err := readFile(path); err == nil {
				all[path] = text
			}
		}
	}
	return all
}

// keptDirs are the directories whose files a power cut leaves.
func (m *machine) keptDirs() []string {
	dirs := []string{m.lvmDir(), m.stateDir(), m.journalDir(), m.unitDir()}
	below, _ := filepath.Glob(filepath.Join(m.unitDir(), "*"))
	return append(dirs, below...)
}

// isReserve reports whether a file only keeps room.
func isReserve(name string) bool {
	return strings.HasPrefix(name, ".room-") || strings.HasPrefix(name, ".rewind-")
}

// linkTo is in the place of a link's content, before the path that it leads to.
const linkTo = "\x00link to "

func readFile(path string) (string, error) {
	if to, err := os.Readlink(path); err == nil {
		return linkTo + to, nil
	}
	data, err := os.ReadFile(path)
	return string(data), err
}

func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if to, isLink := strings.CutPrefix(text, linkTo); isLink {
		_ = os.Remove(path)
		return os.Symlink(to, path)
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

func (m *machine) writeFiles(all files) {
	for path := range m.readFiles() {
		if _, kept := all[path]; !kept {
			_ = os.Remove(path)
		}
	}
	for path, text := range all {
		now, err := readFile(path)
		if err == nil && (isReserve(filepath.Base(path)) || now == text) {
			continue
		}
		if err := writeFile(path, text); err != nil {
			panic(err)
		}
	}
}

// openJournal opens the journal as a process of this boot.
func (m *machine) openJournal() *journal.Journal {
	j, err := journal.Open(m.journalDir())
	if err != nil {
		panic(err)
	}
	return j.InBoot(fmt.Sprint("boot ", m.boot))
}

// mounts are the mounts of the machine.
func (m *machine) mounts() ([]filesystem.Mount, error) { return m.kernel.table(), nil }

func devOf(v *lvm.Volume) filesystem.Dev { return filesystem.NewDev(v.Major, v.Minor) }

// server is the machine as a process sees it.
func (p *process) server() snapset.Server {
	m := p.m
	return snapset.Server{Runner: p, LVM: p.LVM, Mounts: m.mounts, StateDir: m.stateDir(), View: m.view}
}

func (m *machine) view(r *lvm.Report, mounts []filesystem.Mount) *snapset.View {
	journalIn := m.stateDir()
	if m.story.Server.Journal != "" {
		journalIn = mountPoint(m.story.Server.Journal) + "/rewind"
	}
	return &snapset.View{
		Report: r, Mounts: mounts, Sysfs: m.sysfs(), Journal: journalIn,
		Device: func(path string) (filesystem.Dev, error) {
			if v, found := r.ByPath(strings.TrimPrefix(path, "/dev/")); found && v.Active {
				return devOf(v), nil
			}
			return filesystem.Dev{}, &os.PathError{Op: "stat", Path: path, Err: os.ErrNotExist}
		},
		Needs: func(string) (filesystem.Needs, error) { return filesystem.Needs{}, nil },
	}
}

// run begins a run on the machine.
func (p *process) run(id string) *journey.Run {
	handlers := journey.Handlers{snapset.Kind: p.server().Handler(), rollback.Kind: p.rollbackServer().Handler()}
	return handlers.RunIn(p.m.openJournal(), p.m.lockDir(), id)
}

// violate records that something is as it should never be.
func (m *machine) violate(rule, format string, a ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.violations = append(m.violations, Violation{Rule: rule, Text: fmt.Sprintf(format, a...)})
}
