package simulation

import (
	"context"
	"slices"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// made is what came of a request.
type made struct {
	result  ansible.Result
	set     snapset.Result // the same, of a request for a set that was answered
	err     error
	process *process
	begun   []*journal.Entry // what it wrote into the journal

	before, after string // the state of the machine
	settled       bool   // something of an earlier run was left, which it had to settle
	acted         bool   // an administrator acted meanwhile
	met           int    // how many events it met
}

func (a made) String() string {
	name := phaseName(a.process.phase)
	switch {
	case a.process.cut:
		return name + ": the power failed"
	case a.process.killed:
		return name + ": killed"
	case a.err != nil:
		return name + ": " + a.process.m.plain(a.err.Error())
	}
	return name + ": " + a.result.Msg
}

// ended reports whether the request was answered.
func (a made) ended() bool { return a.process.ended() }

// once makes a request, and has its unit settle what it left, as systemd does unless the power has failed.
func (m *machine) once(phase int, req snapset.Request) made {
	a := m.ask(phase, req)
	m.checkAnswer(req, a)
	if !a.process.cut {
		m.settle(phase+1, a)
	}
	return a
}

// ask makes a request.
func (m *machine) ask(phase int, req snapset.Request) made {
	m.useUp(req)
	var set snapset.Result
	a := m.ran(phase, m.state, func(ctx context.Context, p *process, run *journey.Run) (_ ansible.Result, err error) {
		if req.Use == snapset.ForBackup {
			set, err = p.backUp(ctx, run, req)
		} else {
			set, err = p.server().Apply(ctx, run, req)
		}
		return set.ForAnsible(), err
	})
	a.set = set
	return a
}

// ran has a process do a run, and returns what came of it. state says what the machine has.
func (m *machine) ran(phase int, state func() string,
	do func(context.Context, *process, *journey.Run) (ansible.Result, error)) made {
	a := made{before: state(), settled: len(m.unfinished()) > 0}
	known := map[string]bool{}
	for _, e := range m.entries() {
		known[e.ID] = true
	}
	met, id := len(m.met), journal.NewID()
	m.acted = false
	a.process = m.start(phase, func(ctx context.Context, p *process) {
		run := p.run(id)
		defer run.Unlock()
		a.result, a.err = do(ctx, p, run)
	})
	a.after, a.acted, a.met = state(), m.acted, len(m.met)-met
	m.answers = append(m.answers, a.String())
	for _, e := range m.entries() {
		if !known[e.ID] {
			a.begun = append(a.begun, e)
		}
	}
	return a
}

// backUp takes a set, as a backup does, and removes it.
func (p *process) backUp(ctx context.Context, run *journey.Run, req snapset.Request) (snapset.Result, error) {
	planned, err := p.server().PlanOwnedSet(ctx, run, req)
	if err != nil {
		return snapset.Result{}, err
	}
	own, result, err := planned.Take(ctx)
	if err == nil {
		p.m.checkOwned(req)
		err = own.Look(ctx)
	}
	if own == nil {
		return result, err
	}
	outcome := journal.Done
	if err != nil {
		outcome = journal.Undone
	}
	return result, fault.All(err, own.Remove(ctx, outcome))
}

// useUp forgets of the reported sets what the request may remove.
func (m *machine) useUp(req snapset.Request) {
	overflowed := func(v lvm.Volume) bool { return m.promised[v.UUID] != "" && v.SnapshotInvalid }
	if req.State == snapset.Absent || req.Replace && slices.ContainsFunc(m.each(), overflowed) {
		clear(m.promised)
	}
}

// settle has the unit of a run settle what it left, and checks what came of that if nothing went wrong meanwhile.
func (m *machine) settle(phase int, a made) {
	if p, errs, calm := m.settled(phase, a); p.ended() && calm {
		m.checkSettled(errs)
	}
}

// settled does what the unit of a run does when the run has ended. calm says that nothing went wrong meanwhile.
func (m *machine) settled(phase int, a made) (p *process, errs []error, calm bool) {
	id := ""
	if len(a.begun) > 0 {
		id = a.begun[len(a.begun)-1].ID
	}
	met := len(m.met)
	m.acted = false
	p = m.start(phase, func(ctx context.Context, p *process) {
		run := p.run("")
		defer run.Unlock()
		if id != "" {
			m.checkReleased(run.ReleaseWaiters(id), met)
		}
		errs = run.SettleAll(ctx)
	})
	return p, errs, len(m.met) == met && !m.acted
}

func (m *machine) entries() []*journal.Entry {
	list, err := m.openJournal().Entries()
	if err != nil {
		m.violate("the journal can be read", "%v", err)
	}
	return list
}

func (m *machine) unfinished() []*journal.Entry {
	var open []*journal.Entry
	for _, e := range m.entries() {
		if e.Outcome == journal.Unfinished {
			open = append(open, e)
		}
	}
	return open
}

// round makes the request while things go wrong.
func (m *machine) round(phase int) {
	check := m.check(phase)
	a := m.once(phase, m.story.Request)
	if check != nil && a.met == 0 && a.ended() {
		m.checkAgrees(*check, a)
	}
}

// check makes the request with check, unless something of an earlier run is left. Nothing goes wrong in it.
func (m *machine) check(int) *made {
	if len(m.unfinished()) > 0 || m.story.Request.Use == snapset.ForBackup {
		return nil
	}
	req := m.story.Request
	req.Check = true
	a := made{before: m.state()}
	own := m.drawer
	m.drawer = &drawer{}
	a.process = m.start(quiet, func(ctx context.Context, p *process) {
		a.set, a.err = p.server().Apply(ctx, nil, req)
		a.result = a.set.ForAnsible()
	})
	m.drawer = own
	if a.after = m.state(); a.after != a.before {
		m.violate("check changes nothing", "before:\n%s\nafter:\n%s", a.before, a.after)
	}
	return &a
}

// last makes the request once more, when nothing goes wrong any more.
func (m *machine) last() {
	check := m.check(quiet)
	a := m.once(quiet, m.story.Request)
	if check != nil {
		m.checkAgrees(*check, a)
	}
	m.checkEnd(a)
}
