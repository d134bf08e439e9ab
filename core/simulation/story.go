package simulation

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.pcc.com/rewind/core/rollback"
	"go.pcc.com/rewind/core/snapset"
)

// Step is what happened on the server before the request: another request, or what an administrator did.
type Step struct {
	Request *snapset.Request
	Action  Action
}

// Story is a server, a request, and what goes wrong.
type Story struct {
	Seed     uint64
	Server   Layout
	Before   []Step
	Request  snapset.Request
	Rollback *rollback.Request // nil: the story is about Request
	Rounds   int               // how often the request is made while things go wrong, before the last time
	Reboots  bool              // after each round the server is booted, even if the power has not failed
	Events   []Event
	Answers  []string // to the requests, when it was played last
}

// setName is the name of the set that stories are about.
const setName = "s"

// Draw draws the story of a seed, without its events: these are drawn while it is played.
func Draw(seed uint64) Story {
	r := rand.New(rand.NewPCG(seed, 0))
	s := Story{Seed: seed, Server: drawLayout(r), Rounds: 1 + r.IntN(3)}
	wanted := drawVolumes(r, s.Server)
	take := snapset.Request{State: snapset.Present, Set: setName, Volumes: wanted, FreezeTimeout: 15 * time.Second,
		Each: r.IntN(5) == 0}
	if r.IntN(4) == 0 {
		take.Size = []string{"4m", "32m", "64m", "10%ORIGIN"}[r.IntN(4)]
	}
	s.Request = take
	before := func() { s.Before = append(s.Before, Step{Request: &take}) }
	one := wanted[r.IntN(len(wanted))].Name
	switch r.IntN(12) {
	case 0: // the same again
		before()
	case 1, 2:
		before()
		s.Request.State = snapset.Absent
		if r.IntN(2) == 0 {
			s.Request.Volumes = nil
		}
	case 3:
		before()
		s.Request.Size = "100m"
	case 4:
		before()
		s.Before = append(s.Before, Step{Action: Action{Verb: fills, Number: 100,
			Volume: snapshotOf(one)}})
		s.Request.Replace = r.IntN(4) > 0
	case 5: // somebody has removed one of its snapshots
		before()
		s.Before = append(s.Before, Step{Action: Action{Verb: removes, Volume: snapshotOf(one)}})
		if r.IntN(2) == 0 {
			s.Request.State = snapset.Absent
		}
	case 6: // of other volumes
		before()
		s.Request.Volumes = drawVolumes(r, s.Server)
	case 7, 8:
		s.Request.Use, s.Request.Set = snapset.ForBackup, "b"
	}
	if len(s.Before) > 0 && r.IntN(6) == 0 {
		s.Request.Volumes = nil
	}
	return s
}

// drawVolumes draws which volumes the set is of.
func drawVolumes(r *rand.Rand, l Layout) []snapset.Volume {
	origins := l.Origins()
	r.Shuffle(len(origins), func(i, j int) { origins[i], origins[j] = origins[j], origins[i] })
	var wanted []snapset.Volume
	for _, name := range origins[:1+r.IntN(len(origins))] {
		wanted = append(wanted, snapset.Volume{Name: name})
	}
	return wanted
}

// snapshotOf is the name, vg/lv, of the set's snapshot of a volume.
func snapshotOf(volume string) string { return snapset.SnapshotName(volume, setName) }

// rates draws how likely it is that something goes wrong at a command, by phase.
func (s *Story) drawer() *drawer {
	r := rand.New(rand.NewPCG(s.Seed, 1))
	d := &drawer{seed: s.Seed, most: 1 + r.IntN(3), daemons: s.Server.Daemons}
	d.rates = make([]float64, s.Rounds*phasesOfRound)
	draw := func(phase int) { d.rates[phase] = []float64{0, 0.06, 0.15, 0.4}[r.IntN(4)] }
	for round := range s.Rounds {
		draw(round * phasesOfRound)
		draw(round*phasesOfRound + 1)
	}
	for phase := range d.rates {
		if phase%phasesOfRound > 1 {
			draw(phase)
		}
	}
	return d
}

func (s Story) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d\n%s", s.Seed, s.Server)
	for _, step := range s.Before {
		if step.Request != nil {
			fmt.Fprintf(&b, "  before: %s\n", describe(*step.Request))
		} else {
			fmt.Fprintf(&b, "  before: an administrator %s\n", step.Action)
		}
	}
	line := describe(s.Request)
	if s.Rollback != nil {
		line = describeRollback(s.Rollback)
	}
	fmt.Fprintf(&b, "  asked %d times: %s\n", s.Rounds+1, line)
	for _, e := range s.Events {
		fmt.Fprintf(&b, "  %s\n", e)
	}
	for _, answer := range s.Answers {
		fmt.Fprintf(&b, "  answer of %s\n", answer)
	}
	return b.String()
}

// describe is the command line of a request.
func describe(r snapset.Request) string {
	words := []string{"lvm_snapshot", "name=" + r.Set, "state=" + r.State}
	if r.Use == snapset.ForBackup {
		words = []string{"snap_backup", "action=backup", "name=" + r.Set}
	}
	var names []string
	for _, v := range r.Volumes {
		names = append(names, v.Name)
	}
	if len(names) > 0 {
		words = append(words, "volumes="+strings.Join(names, ","))
	}
	if r.Size != "" {
		words = append(words, "size="+r.Size)
	}
	if r.Each {
		words = append(words, "consistency=volume")
	}
	if r.Replace {
		words = append(words, "on_invalid=replace")
	}
	return strings.Join(words, " ")
}

// Play plays a story and returns it with the events that it met, and what was as it should never be. With drawn set the
// seed draws the events, otherwise those of the story happen. dir is an empty directory for the files.
func Play(t *testing.T, s Story, drawn bool, dir string) (Story, []Violation) {
	var m *machine
	// The clock of a story stands still while something in it turns without end: only the real one tells.
	limit := time.AfterFunc(time.Minute, func() { panic(fmt.Sprintf("not over after a minute:\n%s", s)) })
	defer limit.Stop()
	synctest.Test(t, func(*testing.T) {
		var d *drawer
		if drawn {
			d = s.drawer()
		}
		m = newMachine(&s, d, dir)
		m.play()
	})
	machines.Delete(dir)
	s.Events, s.Answers = m.met, m.answers
	return s, m.violations
}

// play plays the story, and stops as soon as something is wrong.
func (m *machine) play() {
	events := m.drawer
	m.drawer = &drawer{}
	own := m.story.Events
	m.story.Events = nil
	for _, step := range m.story.Before {
		if step.Request == nil {
			m.act(step.Action)
			continue
		}
		m.once(quiet, *step.Request)
	}
	if len(m.violations) > 0 {
		return
	}
	m.drawer, m.story.Events, m.met = events, own, nil
	for _, v := range m.each() {
		if idTag(&v) == "" {
			m.mustStay[v.UUID] = v.FullName() + " was there before"
		}
	}
	m.acted = false
	m.setGoal()
	for round := range m.story.Rounds {
		if m.story.Rollback != nil {
			m.roundOfRollback(round * phasesOfRound)
		} else {
			m.round(round * phasesOfRound)
		}
		if len(m.violations) > 0 {
			return
		}
	}
	m.drawer, m.story.Events = &drawer{}, nil
	if m.story.Rollback != nil {
		m.lastRollback()
	} else {
		m.last()
	}
}

// quiet is the phase of a process that nothing happens to.
const quiet = 1 << 20
