package simulation

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/service"
	"go.pcc.com/rewind/core/snapset"
)

// goal is what a rollback is to bring back: for each volume of the set what the set holds of it.
type goal struct {
	names map[string]string       // the names of the volumes, by UUID
	holds map[string]map[int]bool // by UUID: what the set holds, and what was written to the volume since it went back
	moved map[string]bool         // the volumes that were written to since the set was taken, by UUID
	units []string                // the services and mounts before the rollback
}

// setGoal looks what the set holds, before the first request.
func (m *machine) setGoal() {
	m.goal = goal{names: map[string]string{}, holds: map[string]map[int]bool{}, moved: map[string]bool{}, units: m.units()}
	set, err := snapset.Find(m.report(), setName)
	if err != nil || set == nil {
		return
	}
	for _, s := range set.Snapshots {
		origin, found := m.volume(s.VG, s.Origin)
		if !found {
			continue
		}
		content := m.fake.Content(s.FullName())
		m.goal.names[origin.UUID] = origin.FullName()
		m.goal.holds[origin.UUID] = map[int]bool{content: true}
		m.goal.moved[origin.UUID] = content != m.fake.Content(origin.FullName())
	}
}

// noteWrite keeps which volumes hold the set's data when an administrator writes to them: they still do afterwards.
func (m *machine) noteWrite(name string, write func()) {
	v, found := m.volumeNamed(name)
	back := found && m.isBack(v.UUID, m.fake.Content(name))
	write()
	if back {
		m.goal.holds[v.UUID][m.fake.Content(name)] = true
	} else if found && m.goal.holds[v.UUID] != nil {
		m.goal.moved[v.UUID] = true
	}
	for _, holds := range m.running {
		if _, uses := holds[v.UUID]; uses && found {
			holds[v.UUID] = m.fake.Content(name)
		}
	}
}

func (m *machine) isBack(uuid string, content int) bool { return m.goal.holds[uuid][content] }

// divide divides the volumes of the set, of which UUIDs is a part, into those that hold what the set held and those
// that hold what was written since. A volume that was not written to is in neither list.
func (m *machine) divide(use func(uuid string) bool) (back, now []string) {
	for _, v := range m.each() {
		if !m.goal.moved[v.UUID] || !use(v.UUID) {
			continue
		}
		if m.isBack(v.UUID, m.fake.Content(v.FullName())) {
			back = append(back, v.FullName())
		} else {
			now = append(now, v.FullName())
		}
	}
	return back, now
}

func all(string) bool { return true }

// checkOneTime checks that a service finds its volumes as they were at one time.
func (m *machine) checkOneTime(d Daemon) {
	uses := func(uuid string) bool { _, does := m.running[d.Name][uuid]; return does }
	if back, now := m.divide(uses); len(back) > 0 && len(now) > 0 && !m.isDisturbed() {
		m.violate("no service runs on a mix", "%s: %v are rolled back, %v are not", d.Name, back, now)
	}
}

// checkSteady checks that no volume changes under a service that runs.
func (m *machine) checkSteady(when string) {
	for name, holds := range m.running {
		for _, v := range m.each() {
			if content, uses := holds[v.UUID]; uses && content != m.fake.Content(v.FullName()) {
				m.violate("no volume changes under a running service", "%s: %s under %s", when, v.FullName(), name)
				holds[v.UUID] = m.fake.Content(v.FullName())
			}
		}
	}
}

// wholeState is everything that the server has.
func (m *machine) wholeState() string {
	return strings.Join(slices.Concat([]string{m.state()}, m.units(), m.traces()), "\n")
}

// traces are what a rollback leaves until it is finished.
func (m *machine) traces() []string {
	var left []string
	_ = filepath.WalkDir(m.unitDir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left = append(left, "unit file "+strings.TrimPrefix(path, m.unitDir()+"/"))
		}
		return nil
	})
	for _, name := range m.systemd.Up() {
		if strings.HasPrefix(name, "rewind-hold-") {
			left = append(left, name)
		}
	}
	for dev, on := range m.kernel.protected {
		if on {
			left = append(left, fmt.Sprintf("device %s is read-only", dev))
		}
	}
	for _, o := range m.kernel.opened {
		if o.by == ownName {
			left = append(left, "a device is open")
		}
	}
	slices.Sort(left)
	return left
}

// checkRollback checks the answer to a rollback against what the machine has then.
func (m *machine) checkRollback(a made) {
	if !a.ended() {
		return
	}
	m.checkNothingGone("after the answer")
	if a.acted || a.settled {
		return
	}
	if a.err != nil && len(a.begun) == 0 && a.before != a.after {
		m.violate("a refusal changes nothing", "%v\nbefore:\n%s\nafter:\n%s", a.err, a.before, a.after)
	}
	back, now := m.divide(all)
	m.checkRollbackResult(a, back, now)
	switch {
	case len(m.unfinished()) == 0:
		m.checkFinished(a.err, a.begun)
	case len(back) == 0 && !m.anyMerging() && m.onlyLvconvertFailed(a.met):
		m.violate("where LVM refuses to merge, the services run again", "%v\n%s", a.err, m.wholeState())
	}
}

// checkRollbackResult checks what the answer says of the volumes. back are those that are rolled back, now the others.
func (m *machine) checkRollbackResult(a made, back, now []string) {
	if deferred := a.result.Data["state"] == "deferred"; a.err == nil && len(now) > 0 && !deferred {
		m.violate("a rollback that succeeds has rolled back all", "%s: %v are not\n%s", a.result.Msg, now, m.wholeState())
	}
	if a.err != nil && a.result.Changed && len(back) == 0 && len(now) > 0 {
		m.violate("the result says what happened", "%s, %v; nothing is rolled back", a.result.Msg, a.err)
	}
}

// onlyLvconvertFailed reports whether the last events, n of them, are no more than that lvconvert failed.
func (m *machine) onlyLvconvertFailed(n int) bool {
	kinds := []Kind{Fails, DiskFull}
	differs := func(e Event) bool {
		return !strings.HasPrefix(e.Command, "lvconvert ") || !slices.Contains(kinds, e.Kind)
	}
	return n > 0 && !slices.ContainsFunc(m.met[len(m.met)-n:], differs)
}

// checkFinished checks a machine on which nothing is left to settle. err is what the rollback failed with; nil if it
// succeeded.
func (m *machine) checkFinished(err error, begun []*journal.Entry) {
	m.checkUsable(err)
	_, now := m.divide(all)
	if traces := m.traces(); len(traces) > 0 {
		m.violate("nothing of a finished rollback is left", "%v: %s", err, strings.Join(traces, "\n"))
	}
	if n := len(begun); n > 0 && len(now) > 0 && begun[0].Outcome == journal.Done && !m.named(fault.SnapshotInvalid, err) {
		m.violate("the journal is true", "%s ended as %q, and %v are not rolled back", begun[0].ID, begun[0].Outcome, now)
	}
}

// checkUsable checks that the volumes are in use again, as they were at one time.
func (m *machine) checkUsable(err error) {
	back, now := m.divide(all)
	if len(back) > 0 && len(now) > 0 && !m.named(fault.SnapshotInvalid, err) {
		m.violate("all volumes are rolled back, or none", "%v are, %v are not: %v\n%s", back, now, err, m.wholeState())
	}
	m.checkNothingHeld("after a rollback")
	m.checkUnits(err)
}

// named reports whether an answer has named such a failure.
func (m *machine) named(code fault.Code, err error) bool {
	return err != nil && fault.Of(err).Code == code
}

// checkUnits checks that services and mounts are as they were. Services may be down if that was asked for, or if the
// answer has named a failure of them.
func (m *machine) checkUnits(err error) {
	if m.isDisturbed() {
		return
	}
	for _, want := range m.goal.units {
		if slices.Contains(m.units(), want) {
			continue
		}
		unit, state, isService := strings.Cut(want, ".service ")
		if isService && state == "inactive" && m.hadAdministrator() {
			continue // perhaps an administrator has started it
		}
		if isService && (!m.story.Rollback.StartServices || m.isNamed(unit+".service", err)) {
			continue
		}
		m.violate("services and mounts are as they were", "not %q after %v\n%s\n%s", want, err, m.wholeState(),
			strings.Join(m.systemd.Log(), "\n"))
	}
}

// isNamed reports whether the answer, or the journal, says of a service that it did not start.
func (m *machine) isNamed(unit string, err error) bool {
	if f := fault.Of(err); f != nil {
		return strings.Contains(f.Error()+f.Hint, unit)
	}
	if m.story.Rollback.Resnapshot && strings.Contains(strings.Join(m.answers, "\n"), unit+" did not start") {
		return true // the next rollback, to the set that was taken again, finds the service as it is
	}
	last, _ := rollback.Newest(m.journalDir(), "")
	return last != nil && slices.ContainsFunc(last.Failures, func(f service.Failure) bool { return f.Unit == unit })
}

// isDisturbed reports whether an administrator has done what no rollback can make good.
func (m *machine) isDisturbed() bool {
	verbs := []string{removes, renames, untags}
	disturbs := func(e Event) bool { return e.Kind == Meanwhile && slices.Contains(verbs, e.Action.Verb) }
	return slices.ContainsFunc(m.met, disturbs)
}

// checkSettledRollback checks the machine after it was settled without any misfortune.
func (m *machine) checkSettledRollback(errs []error) {
	m.checkNothingGone("after the settling")
	open := m.unfinished()
	switch {
	case len(errs) == 0 && len(open) == 1 && open[0].Step == rollback.StepDeferred:
		m.checkUsable(nil) // the next boot merges
	case len(errs) == 0 && len(open) == 1 && open[0].Step == rollback.StepStarted && m.anyMerging():
		m.checkUsable(nil) // a later run finds out that the merges are finished
	case m.hadAdministrator():
	case len(open) > 0 || len(errs) > 0:
		m.violate("what nothing hinders is settled", "%v, %d entries\n%s", errs, len(open), m.wholeState())
	default:
		m.checkFinished(nil, nil)
	}
}

func (m *machine) anyMerging() bool {
	return slices.ContainsFunc(m.each(), func(v lvm.Volume) bool { return v.Merging })
}

// lastRollback asks for the rollback once more, when nothing goes wrong any more.
func (m *machine) lastRollback() {
	a := m.askForRollback(quiet)
	m.checkRollback(a)
	if p := m.settleRollback(quiet, a); p.killed {
		return
	}
	if m.story.Rollback.Resnapshot {
		return // a set that was not taken again is not taken later, when the services have worked
	}
	if _, now := m.divide(all); a.err != nil && !m.hadAdministrator() && !m.refusedAnyway() {
		m.violate("the same request succeeds when nothing goes wrong any more", "%v; not rolled back: %v\n%s", a.err, now,
			m.wholeState())
	}
}
