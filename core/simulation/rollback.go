package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/filesystem"
	"go.pcc.com/rewind/core/journey"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// DrawRollback draws the story of a rollback of a seed, without its events.
func DrawRollback(seed uint64) Story {
	r := rand.New(rand.NewPCG(seed, 2))
	s := Story{Seed: seed, Server: drawLayout(r), Rounds: 1 + r.IntN(2)}
	s.Server.Journal = "" // it would go back, too
	if r.IntN(8) > 0 {
		for i := range s.Server.Groups {
			s.Server.Groups[i].Size += 2048 * mib // for the snapshots
		}
	}
	wanted := drawVolumes(r, s.Server)
	s.Server.drawDaemons(r)
	s.Before = []Step{{Request: &snapset.Request{State: snapset.Present, Set: setName, Volumes: wanted,
		FreezeTimeout: 15 * time.Second}}}
	for _, v := range wanted {
		if r.IntN(4) > 0 {
			s.Before = append(s.Before, Step{Action: Action{Verb: writes, Volume: v.Name, Number: int64(1 + r.IntN(2))}})
		}
		if r.IntN(6) == 0 {
			a := Action{Verb: snapshots, Volume: v.Name, Name: baseName(v.Name) + "_newer", Number: int64(r.IntN(2))}
			s.Before = append(s.Before, Step{Action: a})
		}
	}
	req := rollback.Request{Set: setName, Timeout: 10 * time.Minute, Wait: r.IntN(2) == 0, StartServices: r.IntN(8) > 0,
		Resnapshot: r.IntN(8) == 0}
	switch r.IntN(12) {
	case 0:
	case 1, 2:
		req.Auto = true
	default:
		req.Services = s.Server.daemonsOn(wanted)
	}
	if r.IntN(40) == 0 {
		held := wanted[r.IntN(len(wanted))].Name
		s.Before = append(s.Before, Step{Action: Action{Verb: opens, Volume: held}})
		req.Defer, s.Reboots = r.IntN(3) > 0, true
	}
	s.Rollback = &req
	return s
}

func baseName(name string) string { return name[strings.IndexByte(name, '/')+1:] }

// drawDaemons draws the services of a server.
func (l *Layout) drawDaemons(r *rand.Rand) {
	for i := range r.IntN(4) {
		d := Daemon{Name: fmt.Sprintf("d%d.service", i), Stopped: r.IntN(8) == 0}
		for _, name := range l.Origins() {
			if r.IntN(2) == 0 && !l.isClosed(name) {
				d.Volumes = append(d.Volumes, name)
			}
		}
		if i > 0 && r.IntN(3) == 0 {
			d.Needs = l.Daemons[r.IntN(i)].Name
			isStopped := func(n Daemon) bool { return n.Name == d.Needs && n.Stopped }
			d.Stopped = d.Stopped || slices.ContainsFunc(l.Daemons, isStopped)
		}
		l.Daemons = append(l.Daemons, d)
	}
}

// isClosed says that a volume has no device at first.
func (l *Layout) isClosed(name string) bool {
	for _, g := range l.Groups {
		for _, v := range g.Volumes {
			if g.Name+"/"+v.Name == name {
				return v.Inactive
			}
		}
	}
	return false
}

// daemonsOn returns the services that work on one of the volumes.
func (l *Layout) daemonsOn(volumes []snapset.Volume) []string {
	var names []string
	for _, d := range l.Daemons {
		if slices.ContainsFunc(volumes, func(v snapset.Volume) bool { return slices.Contains(d.Volumes, v.Name) }) {
			names = append(names, d.Name)
		}
	}
	return names
}

// describeRollback is the command line of a rollback.
func describeRollback(r *rollback.Request) string {
	words := []string{"lvm_merge", "name=" + r.Set}
	services := r.Services
	if r.Auto {
		services = append(slices.Clone(services), "auto")
	}
	add := func(holds bool, text string) {
		if holds {
			words = append(words, text)
		}
	}
	add(len(services) > 0, "services="+strings.Join(services, ","))
	add(r.Wait, "wait=true")
	add(r.Defer, "when_busy=defer")
	add(r.Resnapshot, "resnapshot=true")
	add(!r.StartServices, "start_services=false")
	return strings.Join(words, " ")
}

// rollbackServer is the machine as a rollback sees it.
func (p *process) rollbackServer() rollback.Server {
	m := p.m
	return rollback.Server{
		Sets: p.server(), LVM: p.LVM, Host: host{p},
		JournalDir: m.journalDir(), RuntimeDir: m.lockDir(), UnitDir: m.unitDir(),
		Systemd: func(context.Context) (*service.Systemd, error) {
			err := p.do("systemd connect", func() error { return nil }, nil)
			if err != nil {
				return nil, systemdFault(err)
			}
			return service.On(m.systemd.Connect(p.callSystemd), filesystem.Proc(m.procDir()), m.procDir(), "rewind.service"), nil
		},
	}
}

// callSystemd is called before each call to systemd.
func (p *process) callSystemd(call string, changes bool) error {
	p.exitIfDead()
	if !changes {
		return nil
	}
	return systemdFault(p.do("systemd "+withoutIDs(call), func() error { return nil }, nil))
}

func systemdFault(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.ServiceFailed, "systemd: %w", err)
}

// roundOfRollback asks for the rollback while things go wrong. If the power fails, the machine boots; otherwise the
// unit of the run settles what it left.
func (m *machine) roundOfRollback(phase int) {
	a := m.askForRollback(phase)
	m.checkRollback(a)
	if a.process.cut {
		m.bootAgain(phase + 2)
		return
	}
	p := m.settleRollback(phase+1, a)
	if m.story.Reboots && !p.cut {
		m.powerCut()
	}
	if m.story.Reboots || p.cut {
		m.bootAgain(phase + 2)
	}
}

// askForRollback asks for the rollback.
func (m *machine) askForRollback(phase int) made {
	clear(m.promised)
	start := time.Now()
	a := m.ran(phase, m.wholeState, func(ctx context.Context, p *process, run *journey.Run) (ansible.Result, error) {
		result, err := p.rollbackServer().Apply(ctx, run, *m.story.Rollback)
		return result.ForAnsible(), err
	})
	if took := time.Since(start); took > longestRun {
		m.violate("every wait is over by its limit", "the run took %s", took)
	}
	return a
}

// longestRun is longer than all limits of a run together.
const longestRun = 3 * time.Hour

// settleRollback is settle for a rollback.
func (m *machine) settleRollback(phase int, a made) *process {
	p, errs, calm := m.settled(phase, a)
	if p.ended() {
		m.answers = append(m.answers, phaseName(phase)+": "+m.plain(fmt.Sprint(errs)))
	}
	if p.ended() && calm {
		m.checkSettledRollback(errs)
	}
	return p
}

// bootAgain boots the machine. If the power fails meanwhile, or the boot ends in emergency mode, or the guard fails,
// which systemd shows, it is booted again.
func (m *machine) bootAgain(phase int) {
	for failed := true; failed; phase += 2 {
		if phase%phasesOfRound == 0 { // no boot of this round came to its end
			phase = quiet
		}
		m.systemdIsOff = false
		isGuarded := m.bootOnce(phase)
		inEmergency := m.systemd.State("local-fs.target") != "active"
		if failed = m.systemdIsOff || inEmergency || !isGuarded; !failed || phase < quiet {
			if failed && !m.systemdIsOff {
				m.powerCut() // somebody boots it again
			}
			continue
		}
		if !m.hadAdministrator() {
			m.violate("a boot that nothing hinders comes to its end", "%s", m.wholeState())
		}
		return
	}
}

// bootOnce boots the machine: systemd starts the guard, the mounts, the services and what resumes a rollback. It
// returns false if the guard failed.
func (m *machine) bootOnce(phase int) (isGuarded bool) {
	isGuarded = true
	met := len(m.met)
	m.acted = false
	var errs []error
	whole, resumed := true, false
	m.systemd.Boot(m.unitDir(), func(unit string, _ []string) error {
		if m.systemdIsOff {
			return errInjected
		}
		p, err := m.runAtBoot(phase, unit)
		whole = whole && p.ended()
		resumed = resumed || unit == resumeUnit
		if p.cut {
			m.systemdIsOff = true
		}
		if err != nil {
			isGuarded = isGuarded && unit != guardUnit
			errs = append(errs, fmt.Errorf("%s: %w", unit, err))
		}
		return err
	})
	m.answers = append(m.answers, phaseName(phase)+": "+m.plain(fmt.Sprint(errs)))
	switch {
	case !whole || len(m.met) > met || m.acted || !isGuarded:
	case resumed:
		m.checkSettledRollback(errs)
	default: // the guard was not installed as a whole, so nothing was stopped
		m.checkUsable(nil)
	}
	return isGuarded
}

// The units of the boot guard.
const (
	guardUnit  = "rewind-guard.service"
	resumeUnit = "rewind-resume.service"
)

// runAtBoot runs the program of a unit of the guard.
func (m *machine) runAtBoot(phase int, unit string) (p *process, err error) {
	if unit == guardUnit {
		p = m.start(phase, func(ctx context.Context, p *process) {
			err = p.rollbackServer().GuardBoot(ctx, m.openJournal())
		})
	} else {
		p = m.start(phase+1, func(ctx context.Context, p *process) {
			run := p.run("")
			defer run.Unlock()
			err = fault.All(append(run.SettleAll(ctx), p.rollbackServer().FinishAfterBoot(ctx, m.openJournal()))...)
		})
	}
	if !p.ended() {
		err = errInjected
	}
	return p, err
}
