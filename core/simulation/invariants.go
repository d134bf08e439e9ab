package simulation

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"

	"go.pcc.com/rewind/core/ansible"
	"go.pcc.com/rewind/core/fault"
	"go.pcc.com/rewind/core/journal"
	"go.pcc.com/rewind/core/lvm"
	"go.pcc.com/rewind/core/snapset"
)

// Violation is something that should never be.
type Violation struct {
	Rule string // what should be
	Text string // what is
}

func (v Violation) String() string { return v.Rule + ": " + v.Text }

// checkAnswer checks the answer to a request against what the machine has then.
func (m *machine) checkAnswer(req snapset.Request, a made) {
	if !a.ended() {
		m.checkWholeSets()
		return
	}
	if a.err == nil && !a.acted {
		m.checkResult(req, a)
	}
	if a.acted || a.settled {
		return // others have changed something, too
	}
	refused, unchanged := a.err != nil && len(a.begun) == 0, a.err == nil && !a.result.Changed
	if refused && a.before != a.after {
		m.violate("a refusal changes nothing", "%v\nbefore:\n%s\nafter:\n%s", a.err, a.before, a.after)
	}
	if unchanged && a.before != a.after {
		m.violate("a result without a change changed nothing", "%s\nbefore:\n%s\nafter:\n%s", a.result.Msg, a.before,
			a.after)
	}
	if a.err != nil && len(m.unfinished()) == 0 {
		m.checkNothingLeft("after a failure that the journal calls settled")
	}
}

// checkResult checks that a request that succeeded has what it asked for.
func (m *machine) checkResult(req snapset.Request, a made) {
	if open := m.unfinished(); len(open) > 0 {
		m.violate("a request that succeeds leaves nothing to settle", "%s: %s is at %q", a.result.Msg, open[0].ID,
			open[0].Step)
	}
	m.checkNothingLeft("after " + a.result.Msg)
	set, err := snapset.Find(m.report(), req.Set)
	if err != nil {
		m.violate("there is one set of a name", "%v", err)
		return
	}
	if req.State == snapset.Absent || req.Use == snapset.ForBackup {
		if set != nil {
			m.violate("an absent set has no snapshot", "%s\n%s", a.result.Msg, m.state())
		}
		return
	}
	whole := set != nil && set.Complete() && set.Check() == nil
	if !whole || len(req.Volumes) > 0 && len(set.Snapshots) != len(req.Volumes) {
		m.violate("a set that is reported is complete", "%s\n%s", a.result.Msg, m.state())
		return
	}
	took := strings.HasPrefix(a.result.Msg, "took set ")
	if isNew := !strings.Contains(a.before, "rewind:id="+set.ID); isNew != took || a.set.ID != set.ID {
		m.violate("the result says what happened", "%s, id %v; the set has id %s, taken now: %v", a.result.Msg,
			a.set.ID, set.ID, isNew)
	}
	m.checkOneInstant(set)
	m.checkListed(req, a, set)
	for _, v := range set.Snapshots {
		m.promised[v.UUID] = v.FullName() + " belongs to a set that was reported"
	}
}

// checkOwned checks that a backup reads a whole set of one moment.
func (m *machine) checkOwned(req snapset.Request) {
	set, err := snapset.Find(m.report(), req.Set)
	if err != nil || set == nil || !set.Complete() {
		m.violate("a backup reads a whole set", "%v\n%s", err, m.state())
		return
	}
	m.checkOneInstant(set)
}

// checkListed checks what the result and the journal say of each snapshot.
func (m *machine) checkListed(req snapset.Request, a made, set *snapset.Set) {
	var data struct {
		Snapshots []snapset.Taken `json:"snapshots"`
	}
	text, err := json.Marshal(a.result)
	var result ansible.Result
	if err = errors.Join(err, json.Unmarshal(text, &result)); err == nil {
		err = result.Into(&data)
	}
	if err != nil || len(data.Snapshots) != len(set.Snapshots) {
		m.violate("the result lists the snapshots", "%v: %v", data.Snapshots, err)
		return
	}
	for _, taken := range data.Snapshots {
		i := slices.IndexFunc(set.Snapshots, func(v *lvm.Volume) bool { return v.FullName() == taken.Snapshot })
		if i < 0 || taken.Size != set.Snapshots[i].COWSize {
			m.violate("the result lists the snapshots", "%+v\n%s", taken, m.state())
		}
	}
	if last := len(a.begun) - 1; last >= 0 && a.begun[last].Outcome != journal.Done {
		m.violate("the journal is true", "%s ended as %q", a.result.Msg, a.begun[last].Outcome)
	}
	if req.Size != "100m" {
		return
	}
	for _, v := range set.Snapshots {
		want := min(100*mib, lvm.MaxCOW(v.OriginSize, v.ChunkSize, 4*mib))
		if v.Kind == lvm.Snapshot && v.COWSize < want {
			m.violate("a set has the size that was asked for", "%s has %d bytes", v.FullName(), v.COWSize)
		}
	}
}

// checkWholeSets checks, when a process was killed, that each set that looks whole is one: whoever finds it uses it.
func (m *machine) checkWholeSets() {
	for _, set := range snapset.All(m.report()) {
		if set.Complete() && set.Check() == nil {
			m.checkOneInstant(set)
		}
	}
}

// checkOneInstant checks that the members of a set show one moment.
func (m *machine) checkOneInstant(set *snapset.Set) {
	var held []string
	for _, v := range set.Snapshots {
		if !m.closed[v.OriginUUID] && v.OriginUUID != "" { // "": an administrator has removed the origin since
			held = append(held, v.FullName())
		}
	}
	if !set.Each && set.Count > 1 && !m.fake.OneInstant(held...) {
		m.violate("the members of a set are of one instant", "%s\n%s", strings.Join(held, ", "), m.state())
	}
}

// checkSettled checks what is left when a run was settled, and nothing went wrong with that.
func (m *machine) checkSettled(errs []error) {
	open := m.unfinished()
	if len(open) == 0 && len(errs) == 0 {
		m.checkNothingLeft("after the settling")
		return
	}
	if len(errs) == 0 {
		m.violate("what is unfinished is settled", "%s is at %q, and nothing said why", open[0].ID, open[0].Step)
	}
	if !m.hadAdministrator() {
		m.violate("what is unfinished can be settled", "%v", errs)
		m.checkNothingHeld("after a settling that failed")
	}
}

// checkReleased checks that nobody waits any more for a run that was killed, before its unit has settled it. A device
// with a prepared table has to wait for the settling.
func (m *machine) checkReleased(errs []error, met int) {
	if len(errs) > 0 || len(m.met) > met {
		return
	}
	for _, v := range m.each() {
		if _, prepared := m.fake.Mapped(v.FullName()); v.Suspended && !prepared && m.byInstant[v.DMName] {
			m.violate("writes go on at once when a run was killed", "%s", v.FullName())
		}
	}
}

// hadAdministrator reports whether anybody else has changed something.
func (m *machine) hadAdministrator() bool {
	return slices.ContainsFunc(m.met, func(e Event) bool { return e.Kind == Meanwhile })
}

// checkNothingHeld checks that nobody waits for a device, and that every device has the table that LVM gave it.
func (m *machine) checkNothingHeld(when string) {
	for _, v := range m.each() {
		foreign, prepared := m.fake.Mapped(v.FullName())
		switch {
		case v.Suspended:
			m.violate("nothing is left suspended", "%s: %s", when, v.FullName())
		case prepared:
			m.violate("no prepared table is left", "%s: %s", when, v.FullName())
		case foreign != "":
			m.violate("every table is LVM's own", "%s: %s has %s", when, v.FullName(), foreign)
		}
	}
}

// checkOrigins checks that no volume of which a set was taken has become another one.
func (m *machine) checkOrigins() {
	if m.hadAdministrator() {
		return
	}
	for _, g := range m.story.Server.Groups {
		for _, was := range g.Volumes {
			v, found := m.volume(g.Name, was.Name)
			if found && (v.Size != was.Size && was.Origin == "" || v.Merging || v.Origin != was.Origin) {
				m.violate("the volumes are what they were", "%s\n%s", v.FullName(), m.state())
			}
		}
	}
}

// checkNothingLeft checks that there is no trace of an unfinished set, and no volume is gone that should be there.
func (m *machine) checkNothingLeft(when string) {
	m.checkNothingHeld(when)
	m.checkNothingGone(when)
	m.checkOrigins()
	for _, v := range m.each() {
		label, inSet := snapset.LabelOf(&v)
		if inSet && label.Count == 0 && m.mustStay[v.UUID] == "" {
			m.violate("nothing of an unfinished set is left", "%s: %s", when, v.FullName())
		}
	}
	if strings.Contains(m.state(), "POOL DAMAGED") || strings.Contains(m.state(), "DELETED IN ITS POOL") {
		m.violate("the pools are sound", "%s:\n%s", when, m.state())
	}
	for path := range m.readFiles() {
		if name := path[strings.LastIndexByte(path, '/')+1:]; isReserve(name) {
			m.violate("no reserve file is left", "%s: %s", when, name)
		}
	}
}

// checkNothingGone checks that every volume is still there that this request neither made nor uses up.
func (m *machine) checkNothingGone(when string) {
	have := map[string]bool{}
	for _, v := range m.each() {
		have[v.UUID] = true
	}
	for _, kept := range []map[string]string{m.mustStay, m.promised} {
		for uuid, why := range kept {
			if !have[uuid] {
				m.violate("nothing is gone that this request does not use up", "%s: %s, and it is gone\n%s", when, why,
					m.state())
			}
		}
	}
}

// checkAgrees checks that check has said what the request did then.
func (m *machine) checkAgrees(check, a made) {
	if len(m.kernel.opened) > 0 {
		return // a set finds out who holds a device from /proc, which is not the machine's
	}
	said, did := fault.Of(check.err), fault.Of(a.err)
	switch {
	case said == nil && did == nil && check.result.Changed == a.result.Changed:
	case said != nil && did != nil && said.Code == did.Code:
	default:
		m.violate("check agrees with the request", "check: %s %v\nthe request: %s %v\n%s", check.result.Msg, check.err,
			a.result.Msg, a.err, a.before)
	}
}

// checkEnd checks the end of the story.
func (m *machine) checkEnd(a made) {
	if a.err == nil {
		return // checkAnswer has looked at everything
	}
	// Of which volumes an overflowed set was, only the set itself tells, which is removed first.
	volumesAreGone := m.story.Request.Replace && len(m.story.Request.Volumes) == 0
	if !m.hadAdministrator() && !volumesAreGone && !m.refusedAnyway() {
		m.violate("the same request succeeds when nothing goes wrong any more", "%v\n%s", a.err, m.state())
	}
	if len(m.unfinished()) == 0 {
		m.checkNothingHeld("at the end")
	}
	m.checkNothingGone("at the end")
}

// refusedAnyway reports whether the request is refused if nothing ever goes wrong.
func (m *machine) refusedAnyway() bool {
	calm := *m.story
	calm.Events, calm.Rounds = nil, 0
	dir, err := os.MkdirTemp(m.dir, "calm")
	if err != nil {
		panic(err)
	}
	other := newMachine(&calm, nil, dir)
	defer machines.Delete(dir)
	for _, step := range calm.Before {
		if step.Request == nil {
			other.act(step.Action)
			continue
		}
		other.ask(quiet, *step.Request)
	}
	if m.boot > 0 { // a boot has opened what was closed
		other.powerCut()
	}
	if calm.Rollback == nil {
		return other.ask(quiet, calm.Request).err != nil
	}
	if m.boot > 0 {
		other.bootAgain(quiet)
	}
	other.setGoal()
	return other.askForRollback(quiet).err != nil
}
