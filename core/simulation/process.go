package simulation

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"go.pcc.com/rewind/core/command"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/lvm"
)

// process is one process of Rewind on the machine, as its commands and calls are seen from outside. When it dies, each
// of its goroutines ends at its next command or call, and its files are put back to what they were at its death.
type process struct {
	m     *machine
	phase int

	step         sync.Mutex // held by the goroutine whose command or call the machine is at
	mu           sync.Mutex
	seen         map[string]int // how often each command was run
	dead         bool           // it was killed, or has ended
	killed       bool
	cut          bool // the power has failed
	resumeFailed bool
	asked        context.CancelFunc
	events       int // how many have met it
	files        files
	locked       []string       // the groups whose locks of LVM it holds
	late         []Action       // of an administrator, whose commands wait for these locks or for a suspended device
	stuck        sync.WaitGroup // suspends under way
}

// start runs f as a process. When start returns, nothing of the process is at work any more.
func (m *machine) start(phase int, f func(ctx context.Context, p *process)) *process {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	clear(m.heldFrom)
	p := &process{m: m, phase: phase, seen: map[string]int{}, asked: cancel}
	m.process.Store(p)
	defer m.process.Store(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if problem := recover(); problem != nil {
				m.violate("a panic", "%v\n%s", problem, ownLines(debug.Stack()))
			}
		}()
		f(ctx, p)
	}()
	<-done
	p.mu.Lock()
	if !p.dead {
		p.dead, p.files = true, m.readFiles()
	}
	p.mu.Unlock()
	p.stuck.Wait()
	m.kernel.close(ownName)
	time.Sleep(time.Second) // goroutines of the process find that it has ended
	synctest.Wait()
	m.writeFiles(p.files)
	m.fake.Revive()
	p.locked = nil
	p.performLate()
	m.notice()
	return p
}

// ownLines returns the lines of a stack that are Rewind's own.
func ownLines(stack []byte) string {
	var own []string
	for line := range strings.Lines(string(stack)) {
		if strings.HasPrefix(line, "\t") && strings.Contains(line, "/core/") && !strings.Contains(line, "/core/simulation/") {
			own = append(own, strings.TrimSpace(line))
		}
	}
	return strings.Join(own, "\n")
}

// die ends the process, and the calling goroutine of it.
func (p *process) die(cut bool) {
	p.mu.Lock()
	if !p.dead {
		p.dead, p.killed, p.cut, p.files = true, true, cut, p.m.readFiles()
		if cut {
			p.m.powerCut()
		}
	}
	p.mu.Unlock()
	runtime.Goexit()
}

func (p *process) exitIfDead() {
	p.mu.Lock()
	dead := p.dead
	p.mu.Unlock()
	if dead {
		runtime.Goexit()
	}
}

// at returns what goes wrong at the next run of a command.
func (p *process) at(command string) (Event, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	point := Point{p.phase, command, p.seen[command]}
	p.seen[command]++
	if strings.HasPrefix(command, "dmsetup ") && point.Nth > 2 {
		return Event{}, false // a look that is taken every moment, of which one is as good as another
	}
	if p.m.drawer == nil {
		i := slices.IndexFunc(p.m.story.Events, func(e Event) bool { return e.Point == point })
		if i < 0 {
			return Event{}, false
		}
		p.m.met = append(p.m.met, p.m.story.Events[i])
		return p.m.story.Events[i], true
	}
	e, ok := p.m.drawer.draw(point, p.events, p.m.volumes)
	if ok {
		p.events++
		p.m.met = append(p.m.met, e)
	}
	return e, ok
}

// errInjected is why a command of the simulation fails.
var errInjected = errors.New("no such luck")

// do does a command or a call, or what the story has in its place. halfway is what a kill in its middle leaves.
func (p *process) do(command string, effect func() error, halfway func(Event)) error {
	p.exitIfDead()
	time.Sleep(time.Millisecond)
	p.step.Lock()
	defer p.step.Unlock()
	p.exitIfDead()
	p.performLate()
	p.m.letMergesGoOn()
	defer p.m.checkSteady(command)
	e, ok := p.at(command)
	if !ok {
		return effect()
	}
	switch e.Kind {
	case Dies, Cut:
		p.die(e.Kind == Cut)
	case Fails:
		p.resumeFailed = p.resumeFailed || strings.HasPrefix(command, "device-mapper resume")
		return errInjected
	case DiskFull:
		return unix.ENOSPC
	case Halfway, HalfwayDies:
		if e.Effect {
			_ = effect()
		}
		halfway(e)
		if e.Kind == HalfwayDies {
			p.die(false)
		}
		return errInjected
	case AskedToEnd:
		p.asked()
	case Meanwhile:
		p.administrator(e.Action)
	case Hangs:
		p.stuck.Add(1)
		p.step.Unlock()
		time.Sleep(e.Delay)
		p.step.Lock()
		p.stuck.Done()
		if p.killedNow() {
			runtime.Goexit()
		}
	}
	err := effect()
	switch e.Kind {
	case DiesAfter, CutAfter:
		p.die(e.Kind == CutAfter)
	case FailsAfter:
		return errInjected
	}
	return err
}

// ended reports whether the process came to its own end.
func (p *process) ended() bool { return !p.killed }

// killedNow reports whether the process was killed. A suspend that hangs longer than its process ends is done then.
func (p *process) killedNow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// administrator has an administrator act. An LVM command waits for the process's locks, and for suspended devices.
func (p *process) administrator(a Action) {
	vg, _, _ := strings.Cut(a.Volume, "/")
	if a.isCommand() && (slices.Contains(p.locked, vg) || p.m.anySuspended()) {
		p.late = append(p.late, a)
		return
	}
	p.m.act(a)
}

// performLate performs the actions that had to wait.
func (p *process) performLate() {
	if len(p.locked) > 0 || len(p.late) == 0 || p.m.anySuspended() {
		return
	}
	late := p.late
	p.late = nil
	for _, a := range late {
		p.m.act(a)
	}
}

// Run is the process's command.Runner.
func (p *process) Run(ctx context.Context, c command.Cmd) (command.Output, error) {
	if c.Changes {
		ctx = context.WithoutCancel(ctx) // as command.Local does
	}
	if ctx.Err() != nil {
		p.exitIfDead()
		return p.m.fake.Run(ctx, c)
	}
	var out command.Output
	var own error // of the fake
	err := p.do(signature(c.Argv), func() error {
		if c.Argv[1] == "fullreport" {
			p.m.notice()
		}
		out, own = p.m.fake.Run(ctx, c)
		return own
	}, func(e Event) { p.m.leaveHalfway(c.Argv, e.Prepared) })
	if err == nil || errors.Is(err, own) {
		return out, err
	}
	text := "  " + err.Error() + "\n"
	if err == unix.ENOSPC {
		text = "  /etc/lvm/archive/x: write failed: No space left on device\n"
	}
	return command.Output{Stderr: text}, &command.Error{Argv: c.Argv, Code: 5, Stderr: text, Err: err}
}

// LVM returns the LVM that the process uses.
func (p *process) LVM(r command.Runner) *lvm.LVM {
	open := func() (lvm.Mapper, error) {
		fake, err := p.m.fake.Mapper()
		return mapper{fake, p}, err
	}
	return lvm.New(r).On(open).Locking(p.lock).In(p.m.lvmDir())
}

// lock takes LVM's locks.
func (p *process) lock(ctx context.Context, groups []string, limit time.Duration) (locks lvm.Locks, err error) {
	name := signature(append([]string{"lock"}, groups...))
	err = p.do(name, func() (err error) {
		locks, err = p.m.fake.LockGroups(ctx, groups, limit)
		return err
	}, nil)
	if err != nil {
		return locks, fault.New(fault.Locked, "the lock of %s: %w", groups, err)
	}
	p.locked = append(p.locked, groups...)
	release := locks.Release
	locks.Release = func() {
		release()
		p.locked = nil
	}
	return locks, nil
}

// mapper is the device-mapper that the process uses.
type mapper struct {
	lvm.Mapper
	p *process
}

// call makes a call that changes something. What the fake says of a wrong call by a panic is a violation.
func (m mapper) call(verb, device string, effect func() error) error {
	return m.p.do("device-mapper "+verb+" "+device, func() error {
		defer func() {
			if problem := recover(); problem != nil {
				m.p.m.violate("a panic", "%v", problem)
			}
		}()
		return effect()
	}, nil)
}

func (m mapper) Mapping(device string) (lvm.Mapping, error) {
	m.p.exitIfDead()
	return m.Mapper.Mapping(device)
}

func (m mapper) Load(device string, table []lvm.Target) error {
	return deviceFault(m.call("load", device, func() error { return m.Mapper.Load(device, table) }))
}

func (m mapper) Clear(device string) error {
	return deviceFault(m.call("clear", device, func() error { return m.Mapper.Clear(device) }))
}

func (m mapper) Remove(device string) error {
	return deviceFault(m.call("remove", device, func() error { return m.Mapper.Remove(device) }))
}

func (m mapper) Blank(device string, size int) error {
	return deviceFault(m.call("blank", device, func() error { return m.Mapper.Blank(device, size) }))
}

func (m mapper) Resume(device string) func() error {
	resume := m.Mapper.Resume(device)
	return func() error {
		return plainError(m.call("resume", device, func() error {
			m.p.noteResumed(device)
			return resume()
		}))
	}
}

func (m mapper) Message(device, text string) func() error {
	message := m.Mapper.Message(device, text)
	verb, _, _ := strings.Cut(text, " ")
	return func() error { return plainError(m.call("message "+verb, device, message)) }
}

// Suspend begins at a time of its own, so that the suspends of several devices always come in the same order.
func (m mapper) Suspend(device string) func() error {
	suspend := m.Mapper.Suspend(device)
	return func() error {
		time.Sleep(m.p.m.turn(device))
		return plainError(m.call("suspend", device, func() error {
			err := suspend()
			if err == nil {
				m.p.noteSuspended(device)
			}
			return err
		}))
	}
}

// noteSuspended and noteResumed measure for how long the process holds a device.
func (p *process) noteSuspended(device string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.m.heldFrom[device], p.m.byInstant[device] = time.Now(), true
}

func (p *process) noteResumed(device string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	from, held := p.m.heldFrom[device]
	delete(p.m.heldFrom, device)
	if limit := p.m.story.Request.FreezeTimeout; held && time.Since(from) > limit+time.Second && !p.resumeFailed {
		p.m.violate("no device is held for longer than freeze_timeout", "%s for %s", device, time.Since(from))
	}
}

func (m mapper) Held(device string) func() (bool, error) { return m.query(m.Mapper.Held(device)) }

func (m mapper) Prepared(device string) func() (bool, error) {
	return m.query(m.Mapper.Prepared(device))
}

func (m mapper) query(ask func() (bool, error)) func() (bool, error) {
	return func() (bool, error) {
		m.p.exitIfDead()
		return ask()
	}
}

// deviceFault returns a failure of the simulation as the fault that a Mapper returns.
func deviceFault(err error) error {
	if err == errInjected {
		return fault.New(fault.CommandFailed, "device-mapper: %w", unix.EIO)
	}
	return err
}

// plainError returns a failure of the simulation as the error number that a Mapper's calls return.
func plainError(err error) error {
	if err == errInjected {
		return unix.EIO
	}
	return err
}
